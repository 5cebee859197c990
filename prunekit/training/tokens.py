"""Trains the embeddings of the tokens that occur alone: the others have no gradient, and a table of all of them costs more than a step."""

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
    """The rows of an embedding table that are looked up, under the names and the numbers that the whole table has.

    Parameters
    ----------
    whole : nn.Embedding
        (V, W).
    ids : Tensor
        (k,) int64, ascending: what is looked up, and nothing else.
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
    """Put a table of the tokens of some splits in the place of the word embeddings, where they are trained; its rows go back at the end."""
    whole: object = getattr(view.body, "get_input_embeddings", lambda: None)()
    found = np.unique(np.concatenate([*(split.ids for split in splits), [split.padding.token for split in splits]]))
    ids = torch.from_numpy(found.astype(np.int64))
    trained = isinstance(whole, nn.Embedding) and whole.weight.requires_grad and whole.max_norm is None
    if not isinstance(whole, nn.Embedding) or not trained or len(ids) >= whole.num_embeddings:
        yield
        return
    small = Occurring(whole, ids)
    places = [(owner, name) for owner in view.model.modules() for name, module in owner.named_children() if module is whole]
    for owner, name in places:
        setattr(owner, name, small)
    try:
        yield
    finally:
        for owner, name in places:
            setattr(owner, name, whole)
        with torch.no_grad():
            whole.weight[ids] = small.weight.detach().to(whole.weight)
