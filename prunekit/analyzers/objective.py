"""The data term of linear probes: mean loss and gradient of several probes in one streaming pass over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]


class RowSource(Protocol):
    """What a probe reads: a shape, and chunks of rows in order. `stats.rows.RowStore` is one."""

    shape: tuple[int, int]

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Any]]:
        """(index of the first row, (k, D) rows) pairs; a chunk must not be kept or written to."""
        ...


class ArrayRows:
    """An in-memory matrix as a RowSource; float64 stays float64."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Array]]:
        """Chunks of rows; views of the matrix."""
        step = size or max(1, 2**25 // max(1, self.matrix.itemsize * self.shape[1]))
        for start in range(0, len(self.matrix), step):
            yield start, self.matrix[start : start + step]


@dataclass(frozen=True, eq=False)
class Scaling:
    """Standardisation of columns: x -> (x - mean) * inverse, with inverse = 0 for a column without variance.

    Attributes
    ----------
    mean, inverse : (D,) float64
    """

    mean: Floats
    inverse: Floats

    def take(self, ids: slice | NDArray[np.int64]) -> Scaling:
        """The scaling of a subset of the columns."""
        return Scaling(self.mean[ids], self.inverse[ids])

    def raw(self, solution: Floats) -> tuple[Floats, Floats]:
        """Fold the standardisation back: (D + 1, K) solution in standard coordinates -> coef (K, D), intercept (K,)."""
        coef = (solution[:-1] * self.inverse[:, None]).T
        return np.ascontiguousarray(coef), solution[-1] - coef @ self.mean


@dataclass(frozen=True, eq=False)
class Point:
    """Where a probe is evaluated.

    Attributes
    ----------
    width : int
        The probe reads the first `width` columns.
    solution : (width + 1, K) float64
        Weights in standard coordinates; the last row is the intercept. K = 1 is the logistic loss of a binary label,
        K > 1 the multinomial one.
    """

    width: int
    solution: Floats


def evaluate(rows: RowSource, labels: NDArray[np.int64], scaling: Scaling, points: Sequence[Point]) -> list[tuple[float, Floats]]:
    """Mean cross-entropy and its gradient, (width + 1, K), at each point; one pass over the rows for all of them.

    The products run in the precision of the rows (float32 for a RowStore), sums over chunks in float64.
    """
    n = rows.shape[0]
    groups = _by_width(points)
    losses = np.zeros(len(points))
    gradients = [np.zeros_like(point.solution) for point in points]
    buffer: Array = np.empty((0, 0))
    folded: dict[int, Array] = {}
    mean: Array = np.empty(0)
    for start, chunk in rows.chunks():
        if not folded:
            buffer = np.empty(chunk.shape, dtype=chunk.dtype)
            mean = scaling.mean.astype(chunk.dtype)
            for width, members in groups.items():
                stacked = np.hstack([points[i].solution[:-1] for i in members])
                folded[width] = (stacked * scaling.inverse[:width, None]).astype(chunk.dtype)
        centred = buffer[: len(chunk)]
        np.subtract(chunk, mean, out=centred)
        target = labels[start : start + len(chunk)]
        for width, members in groups.items():
            view = centred[:, :width]
            scores = np.asarray(view @ folded[width], dtype=np.float64)
            residuals = np.empty_like(scores)
            at = 0
            for i in members:
                outputs = points[i].solution.shape[1]
                block = slice(at, at + outputs)
                losses[i] += _cross_entropy(scores[:, block] + points[i].solution[-1], target, residuals[:, block])
                at += outputs
            product = view.T @ residuals.astype(chunk.dtype)
            at = 0
            for i in members:
                outputs = points[i].solution.shape[1]
                gradients[i][:-1] += product[:, at : at + outputs]
                gradients[i][-1] += residuals[:, at : at + outputs].sum(axis=0)
                at += outputs
    for i, point in enumerate(points):
        gradients[i][:-1] *= scaling.inverse[: point.width, None]
        gradients[i] /= n
    return [(float(loss) / n, gradient) for loss, gradient in zip(losses, gradients, strict=True)]


def decision(rows: RowSource, coef: Floats, intercept: Floats) -> Floats:
    """Scores (n, K) of a linear probe given in raw coordinates: coef (K, width), intercept (K,)."""
    return decisions(rows, [(coef, intercept)])[0]


def decisions(rows: RowSource, probes: Sequence[tuple[Floats, Floats]]) -> list[Floats]:
    """Scores of several linear probes, each (n, K), in one pass; a probe (coef, intercept) reads the first columns."""
    scores = [np.empty((rows.shape[0], len(coef))) for coef, _ in probes]
    for start, chunk in rows.chunks():
        for (coef, intercept), into in zip(probes, scores, strict=True):
            into[start : start + len(chunk)] = chunk[:, : coef.shape[1]] @ coef.T.astype(chunk.dtype) + intercept
    return scores


def _by_width(points: Sequence[Point]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for i, point in enumerate(points):
        groups.setdefault(point.width, []).append(i)
    return groups


def _cross_entropy(scores: Floats, labels: NDArray[np.int64], residuals: Floats) -> float:
    """Sum of the cross-entropies; writes probability - target to `residuals`."""
    if scores.shape[1] == 1:
        z = scores[:, 0]
        residuals[:, 0] = 0.5 * (1.0 + np.tanh(0.5 * z)) - labels
        return float(np.logaddexp(0.0, z).sum() - z[labels == 1].sum())
    top = scores.max(axis=1, keepdims=True)
    np.exp(scores - top, out=residuals)
    total = residuals.sum(axis=1, keepdims=True)
    residuals /= total
    index = np.arange(len(labels))
    residuals[index, labels] -= 1.0
    return float((top + np.log(total)).sum() - scores[index, labels].sum())
