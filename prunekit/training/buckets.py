"""The batches that are trained on, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from prunekit.data.batches import Batch, Encoded

#: Maximum number of rows of a batch, and of its padded tokens.
ROWS, TOKENS = 32, 4096


class Buckets(Dataset[dict[str, Any]]):
    """Length-bucketed batches; rows of equal length are distributed at random; the rows of a query stay together."""

    def __init__(self, encoded: Encoded, seed: int) -> None:
        lists = encoded.queries is not None
        self._encoded = encoded if lists else encoded.take(np.random.default_rng(seed).permutation(len(encoded)))
        self._rows = encoded.list_batches(TOKENS, ROWS) if lists else [batch.rows for batch in self._encoded.batches(TOKENS, ROWS)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"number": number, **tensors(self._encoded.batch(self._rows[number]), self._encoded.queries)}


def tensors(batch: Batch, queries: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Return a batch as tensors: inputs, labels, the positions that are read, and the queries of its rows."""
    converted: dict[str, Any] = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    converted["labels"] = torch.from_numpy(np.ascontiguousarray(batch.labels))
    converted["first"] = None if batch.first is None else torch.from_numpy(batch.first)
    converted["queries"] = None if queries is None else torch.from_numpy(queries[batch.rows])
    return converted
