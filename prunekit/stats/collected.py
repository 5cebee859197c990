"""Results of one pass of a model over a split, as the analyzers read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from numpy.typing import NDArray

from prunekit.errors import DataError
from prunekit.stats.moments import Moments, MomentsAccumulator, check_finite, one_hot
from prunekit.stats.rows import RowStore
from prunekit.stats.sample import Sample

# Sizes of one name are equal in a call: n rows, c outputs; label sets have a second axis.
Labels = Shaped[NDArray[Any], "n ..."]
BothLabels = tuple[Shaped[NDArray[Any], "_ ..."], Shaped[NDArray[Any], "_ ..."]]
Outputs = Float32[NDArray[np.float32], "n c"]
Scores = Float64[NDArray[np.float64], " units"]
Pooling = Literal["cls", "mean", "last", "token"]


@dataclass(frozen=True, eq=False)
class Collected:
    """Neurons and labels of one split, as the analyzers read them.

    Attributes
    ----------
    rows : RowStore
        (n, D) float32 neurons, D = (L + 1) * H, in the split's own order. The caller closes it.
    labels : (n,) int64 class ids, or float64 targets; or (n, outputs) bool, label sets
    outputs : int
        Number of classes, or 1 for a regression.
    pooling : {"cls", "mean", "last", "token"}
    tokens : Sample or None
        (k, D) vectors of single tokens, where they were asked for.
    known : Moments or None
        Moments that were computed before, of these rows or of more of the same split.
    """

    rows: RowStore
    labels: Labels
    outputs: int
    pooling: Pooling
    tokens: Sample | None = None
    known: Moments | None = None

    @classmethod
    def of(
        cls,
        rows: RowStore,
        labels: Shaped[NDArray[Any], " ..."],
        outputs: int,
        *,
        pooling: Pooling = "mean",
        tokens: Sample | None = None,
        moments: bool = True,
    ) -> Collected:
        """Build the record from rows that exist already.

        With `moments` these are computed now, in the store's own order, so that they do not depend on how rows were batched;
        without, when they are first read.

        Raises
        ------
        StatisticsError
            A neuron is NaN or infinite somewhere.
        DataError
            Labels that do not fit.
        """
        collected = cls(rows, check_labels(labels, len(rows), outputs), outputs, pooling, tokens)
        if moments:
            _ = collected.moments
        else:
            for _, chunk in rows.chunks():
                check_finite(chunk)
        return collected

    @cached_property
    def moments(self) -> Moments:
        """Moments over [neurons | one-hot labels], or [neurons | target]: 8 (D + outputs)^2 bytes."""
        if self.known is not None:
            return self.known
        accumulator = MomentsAccumulator(self.rows.width + self.outputs)
        for start, chunk in self.rows.chunks():
            accumulator.update(np.hstack([chunk, one_hot(self.labels[start : start + len(chunk)], self.outputs)]))
        return accumulator.finish()


@dataclass(frozen=True, eq=False)
class UnitScores:
    """Scores of the units of one site, each (units,) float64.

    Attributes
    ----------
    block : int
        Number of the stored block; families with shared weights have block 0 alone.
    role : {"heads", "ffn"}
    fisher : ndarray
        Mean over rows of the squared derivative of the model's output by a mask on the unit, label-free.
    fisher_labels : ndarray or None
        The same of the loss on the labels; None without labels or a head for them.
    energy : ndarray
        Mean over tokens of the squared norm of what the unit adds to the residual stream.
    removal : ndarray
        How much the mean squared error of the site's output grows if the unit is removed and the others are refitted.
    output : float
        Variance of the site's output, summed over its dimensions: the reference for `removal`.
    """

    block: int
    role: Literal["heads", "ffn"]
    fisher: Scores
    fisher_labels: Scores | None
    energy: Scores
    removal: Scores
    output: float


@dataclass(frozen=True, eq=False)
class Ablations:
    """Outputs of the model's own head when parts of the model are removed, each (n, C) float32.

    Attributes
    ----------
    labels : (n,)
    kept : tuple of ndarray
        With the first k blocks, k = 0..L; the last is the full model.
    layers, ffn, attention : tuple of ndarray, or None
        Without block i, without its FFN, without its attention; None where the family cannot run without.
    """

    labels: Labels
    kept: tuple[Outputs, ...]
    layers: tuple[Outputs, ...]
    ffn: tuple[Outputs, ...] | None
    attention: tuple[Outputs, ...] | None


def check_labels(labels: Shaped[NDArray[Any], " ..."], rows: int, outputs: int) -> Labels:
    """Return the labels of a split in their own type; raise DataError if they are not one a row, or not class ids."""
    values = np.asarray(labels)
    if values.ndim == 2 and values.dtype == bool:
        if values.shape != (rows, outputs):
            raise DataError(f"There must be one label set a row, of shape ({rows}, {outputs}). Got {values.shape} instead.")
        return values
    if values.shape != (rows,):
        raise DataError(f"There must be one label a row, {rows} in all. Got shape {values.shape} instead.")
    if outputs == 1:
        return values.astype(np.float64)
    if rows and (not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= outputs):
        raise DataError(f"Labels must be class ids 0..{outputs - 1}. Got values from {values.min()} to {values.max()} instead.")
    return values.astype(np.int64)
