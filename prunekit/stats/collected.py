"""What one pass of a model over a split leaves behind, as the analyzers read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import DataError
from prunekit.stats.moments import Moments, MomentsAccumulator, one_hot
from prunekit.stats.rows import RowStore
from prunekit.stats.sample import Sample

Pooling = Literal["cls", "mean", "last", "token"]


@dataclass(frozen=True, eq=False)
class Collected:
    """What the analyzers read of one split.

    Attributes
    ----------
    rows : RowStore
        (n, D) float32 neurons, D = (L + 1) * H, in the split's own order. The caller closes it.
    labels : (n,) int64 class ids, or float64 targets
    moments : Moments
        Over [neurons | one-hot labels], or [neurons | target].
    pooling : {"cls", "mean", "last", "token"}
    tokens : Sample or None
        (k, D) vectors of single tokens, where they were asked for.
    """

    rows: RowStore
    labels: NDArray[Any]
    moments: Moments
    pooling: Pooling
    tokens: Sample | None = None

    @classmethod
    def of(
        cls, rows: RowStore, labels: NDArray[Any], outputs: int, *, pooling: Pooling = "mean", tokens: Sample | None = None
    ) -> Collected:
        """From rows that are there already; raises StatisticsError for NaN, DataError for labels that do not fit.

        The moments are taken from the store in its own order, so that they do not depend on how rows were batched.
        """
        checked = check_labels(labels, len(rows), outputs)
        accumulator = MomentsAccumulator(rows.width + outputs)
        for start, chunk in rows.chunks():
            accumulator.update(np.hstack([chunk, one_hot(checked[start : start + len(chunk)], outputs)]))
        return cls(rows, checked, accumulator.finish(), pooling, tokens)


def check_labels(labels: NDArray[Any], rows: int, outputs: int) -> NDArray[Any]:
    """Labels of a split in their own type; raises DataError if they are not one a row, or not class ids."""
    values = np.asarray(labels)
    if values.shape != (rows,):
        raise DataError(f"There must be one label a row, {rows} in all. Got shape {values.shape} instead.")
    if outputs == 1:
        return values.astype(np.float64)
    if rows and (not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= outputs):
        raise DataError(f"Labels must be class ids 0..{outputs - 1}. Got values from {values.min()} to {values.max()} instead.")
    return values.astype(np.int64)
