"""Train only the embeddings of tokens that occur: the others have no gradient, and a table of all of them costs more than a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded


class Occurring(nn.Module):
    """The rows of an embedding table that are looked up, under the names and the ids of the full table.

    Parameters
    ----------
    whole : nn.Embedding
        (V, W).
    ids : Tensor
        (k,) int64, ascending: the only ids that are looked up.
    """

    place: Tensor

    def __init__(self, whole: nn.Embedding, ids: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(whole.weight.detach()[ids].clone())
        place = torch.zeros(whole.num_embeddings, dtype=torch.int64)
        place[ids] = torch.arange(len(ids))
        self.register_buffer("place", place, persistent=False)
        self.padding_idx = None if whole.padding_idx is None or whole.padding_idx not in ids else int(place[whole.padding_idx])

    def forward(self, ids: Tensor) -> Tensor:
        """Look up (batch, length) ids: (batch, length, W)."""
        return embedding(self.place[ids], self.weight, self.padding_idx)


@contextmanager
def occurring(view: ModelView, splits: Sequence[Encoded]) -> Iterator[None]:
    """Replace word embeddings, if they are trained, by a table of the tokens of some splits; its rows are written back at the end."""
    table: object = getattr(view.body, "get_input_embeddings", lambda: None)()
    occurring_ids = np.unique(np.concatenate([*(split.ids for split in splits), [split.padding.token for split in splits]]))
    ids = torch.from_numpy(occurring_ids.astype(np.int64))
    trained = isinstance(table, nn.Embedding) and table.weight.requires_grad and table.max_norm is None
    if not isinstance(table, nn.Embedding) or not trained or len(ids) >= table.num_embeddings:
        yield
        return
    small = Occurring(table, ids)
    places = [(owner, name) for owner in view.model.modules() for name, module in owner.named_children() if module is table]
    for owner, name in places:
        setattr(owner, name, small)
    try:
        yield
    finally:
        for owner, name in places:
            setattr(owner, name, table)
        with torch.no_grad():
            table.weight[ids] = small.weight.detach().to(table.weight)
