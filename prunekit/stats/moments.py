"""Mergeable sufficient statistics: count, mean and centred co-moment, in float64 (waist 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import blas

from prunekit.errors import StatisticsError

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
# Sizes of one name are equal in a call: d columns.
Vector = Float64[Floats, " d"]
Square = Float64[Floats, "d d"]
Mask = Bool[NDArray[np.bool_], " d"]

_BLOCK_BYTES = 32 * 2**20
_MIRROR = 1024


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and co-moment of the rows of a matrix; enough for correlations and least squares.

    Attributes
    ----------
    count : int
        Number of rows seen, n.
    mean : (D,) float64
    comoment : (D, D) float64
        Sum over rows of the outer product of the centred row with itself; symmetric.
    """

    count: int
    mean: Vector
    comoment: Square

    @classmethod
    def of(cls, rows: ArrayLike) -> Moments:
        """Return the moments of an (n, D) matrix; raise StatisticsError for NaN, infinity or no rows."""
        matrix = np.asarray(rows)
        if matrix.ndim != 2 or not len(matrix):
            raise StatisticsError(f"Moments need a matrix with at least one row. Got shape {matrix.shape} instead.")
        accumulator = MomentsAccumulator(matrix.shape[1])
        accumulator.update(matrix)
        return accumulator.finish()

    def __post_init__(self) -> None:
        if self.comoment.shape != (self.mean.size, self.mean.size):
            raise StatisticsError(f"The co-moment must be {self.mean.size} x {self.mean.size}. Got {self.comoment.shape} instead.")

    @property
    def width(self) -> int:
        """Number of columns, D."""
        return int(self.mean.size)

    @property
    def variance(self) -> Vector:
        """Variance of each column, (D,), with n in the denominator; exactly 0 for a constant column."""
        return np.asarray(self.comoment.diagonal() / self.count)

    @property
    def covariance(self) -> Square:
        """Covariance, (D, D), with n in the denominator."""
        return self.comoment / self.count

    @property
    def varies(self) -> Mask:
        """Mask of the columns that have a variance, (D,) bool; float64 noise around a constant does not count as variance."""
        return _varies(self.count, self.mean, self.comoment.diagonal())

    def non_constant(self, width: int) -> Mask:
        """Return which of the first `width` columns, the neurons, are non-constant in float32, (width,) bool.

        A pretrained LayerNorm can hold gains of 1e-32: such a neuron varies, but a classifier could read it only with weights
        that no deployed format holds; and a neuron that moves by less than a thousandth of its own mean (the [CLS] token of a
        low layer) carries the rounding of all layers below. A neuron is constant (dead) if it has no variance, or a standard deviation
        below 1e-6 of the median one or below 1e-3 of the neuron's own mean.
        """
        return non_constant(self.count, self.mean[:width], self.comoment.diagonal()[:width])

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows (Chan, Golub and LeVeque 1979); associative and commutative up to rounding."""
        if other.width != self.width:
            raise StatisticsError(f"Moments of {self.width} and {other.width} columns cannot be merged: they describe different sources.")
        count = self.count + other.count
        delta = other.mean - self.mean
        comoment = self.comoment + other.comoment
        comoment += np.outer(delta * (self.count * other.count / count), delta)
        return Moments(count, self.mean + delta * (other.count / count), comoment)

    def correlation(self) -> Square:
        """Return Pearson correlations, (D, D); a column without variance correlates 0 with all others and 1 with itself."""
        varies = self.varies
        deviation = np.sqrt(np.where(varies, self.comoment.diagonal(), 1.0))
        scale = np.where(varies, 1.0 / deviation, 0.0)
        correlation = self.comoment * scale[:, None]
        correlation *= scale
        np.clip(correlation, -1.0, 1.0, out=correlation)
        np.fill_diagonal(correlation, 1.0)
        return correlation

    def block(self, rows: ArrayLike | slice, columns: ArrayLike | slice) -> Float64[Floats, "a b"]:
        """Return a part of the co-moment, (rows, columns): the cross-product of two sets of centred columns."""
        if isinstance(rows, slice) and isinstance(columns, slice):
            return self.comoment[rows, columns]
        index = np.arange(self.width)
        return np.asarray(self.comoment[np.ix_(np.atleast_1d(_pick(index, rows)), np.atleast_1d(_pick(index, columns)))])

    def take(self, ids: Sequence[int] | Int64[Ids, " k"]) -> Moments:
        """Return the moments of a subset of the columns, in the order of `ids`."""
        picked = np.asarray(ids, dtype=np.int64)
        return Moments(self.count, self.mean[picked], self.comoment[np.ix_(picked, picked)])


class MomentsAccumulator:
    """Accumulator of the moments of rows that arrive in chunks of any size.

    Rows are gathered into blocks of one fixed size, so that the result does not depend on the chunking and each block is
    one symmetric rank-k update. Every block is centred on its own mean (Chan et al. 1979): nothing cancels, however large
    the mean is against the variance.

    Parameters
    ----------
    width : int
        Number of columns, D.
    """

    def __init__(self, width: int) -> None:
        self._size = max(16, min(2048, _BLOCK_BYTES // (8 * max(width, 1))))
        # One more row than the block holds: the correction for the difference of means is a rank-1 update, made in the same call.
        self._buffer = np.empty((self._size + 1, width))
        self._filled = 0
        self._count = 0
        self._mean = np.zeros(width)
        self._comoment = np.zeros((width, width), order="F")

    @property
    def count(self) -> int:
        """Number of rows added so far."""
        return self._count + self._filled

    def update(self, chunk: ArrayLike) -> None:
        """Add an (n, D) chunk of rows of any floating type; raise StatisticsError for NaN or infinity."""
        rows = np.asarray(chunk)
        if rows.ndim != 2 or rows.shape[1] != self._mean.size:
            raise StatisticsError(f"A chunk must have {self._mean.size} columns. Got shape {rows.shape} instead.")
        start = 0
        while start < len(rows):
            step = min(len(rows) - start, self._size - self._filled)
            self._buffer[self._filled : self._filled + step] = rows[start : start + step]
            self._filled += step
            start += step
            if self._filled == self._size:
                self._flush()

    def finish(self) -> Moments:
        """Return the moments of all rows; the accumulator cannot be used again. Raise StatisticsError where there were no rows."""
        self._flush()
        if not self._count:
            raise StatisticsError("There are no rows to take statistics of.")
        comoment = self._comoment
        mirror(comoment)
        diagonal = np.einsum("ii->i", comoment)
        diagonal[~_varies(self._count, self._mean, diagonal)] = 0.0
        return Moments(self._count, self._mean, comoment)

    def _flush(self) -> None:
        n = self._filled
        if not n:
            return
        block = self._buffer[:n]
        mean = block.mean(axis=0)
        check_finite(mean[None])
        block -= mean
        total = self._count + n
        delta = mean - self._mean
        self._buffer[n] = delta * np.sqrt(self._count * n / total)
        # The transpose of a C-ordered block is Fortran-ordered, so nothing is copied; only the lower triangle is written.
        self._comoment = blas.dsyrk(1.0, self._buffer[: n + 1].T, beta=1.0, c=self._comoment, lower=1, overwrite_c=1)
        self._mean = self._mean + delta * (n / total)
        self._count, self._filled = total, 0


def check_finite(rows: Float[NDArray[np.floating], "n d"]) -> None:
    """Raise StatisticsError, naming the first such column, if a matrix (n, D) holds NaN or infinity."""
    invalid = ~np.isfinite(rows).all(axis=0)
    if invalid.any():
        raise StatisticsError(
            f"Column {int(np.argmax(invalid))} holds NaN or infinity: the model or the data is broken, nothing can be selected from it."
        )


def one_hot(labels: ArrayLike, outputs: int) -> Float64[Floats, "n k"]:
    """Return targets as columns: (n, outputs) indicators of class ids or of label sets, or (n, 1) for a single output (a regression)."""
    values = np.asarray(labels)
    if values.ndim == 2:
        return values.astype(np.float64)
    if outputs == 1:
        return np.asarray(values, dtype=np.float64).reshape(-1, 1)
    targets = np.zeros((len(values), outputs))
    targets[np.arange(len(values)), values.astype(np.int64)] = 1.0
    return targets


def non_constant(count: int, mean: Vector, diagonal: Vector) -> Mask:
    """Return which neurons are non-constant in float32, (D,) bool, from the diagonal of their co-moment; see `Moments.non_constant`."""
    varies = _varies(count, mean, diagonal)
    if not varies.any():
        return varies
    deviation = np.sqrt(diagonal / count)
    rounding = np.maximum(1e-6 * np.median(deviation[varies]), 1e-3 * np.abs(mean))
    return np.asarray(varies & (deviation >= rounding))


def _varies(count: int, mean: Vector, diagonal: Vector) -> Mask:
    # A constant c sums to n * c with a relative error of about 1e-16 * sqrt(n), so its computed variance stays below (1e-12 c)^2 n.
    return np.asarray(diagonal > count * np.square(1e-12 * mean) + np.finfo(np.float64).tiny)


def mirror(matrix: Square) -> None:
    """Copy the lower triangle to the upper one in place, block by block (no second D x D array)."""
    width = len(matrix)
    for i in range(0, width, _MIRROR):
        stop = min(i + _MIRROR, width)
        corner = matrix[i:stop, i:stop]
        corner[...] = np.tril(corner) + np.tril(corner, -1).T
        for j in range(0, i, _MIRROR):
            matrix[j : j + _MIRROR, i:stop] = matrix[i:stop, j : j + _MIRROR].T


def _pick(index: Int64[Ids, " d"], ids: ArrayLike | slice) -> Int64[Ids, " ..."]:
    if isinstance(ids, slice):
        return index[ids]
    return np.asarray(index[np.asarray(ids)])
