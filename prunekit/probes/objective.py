"""The data term of linear probes: mean loss and gradient of several probes in one streaming pass over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray

from prunekit.stats.collected import Labels

Array = NDArray[Any]
Floats = NDArray[np.float64]
# Sizes of one name are equal in a call: n rows, d columns, k outputs.
Coef = Float64[Floats, "k d"]
Intercept = Float64[Floats, " k"]


@runtime_checkable
class RowSource(Protocol):
    """Input of a probe: a shape, and chunks of rows in order. `stats.rows.RowStore` is one."""

    shape: tuple[int, int]

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Any]]:
        """Yield (index of the first row, (k, D) rows) pairs; a chunk must not be kept or written to."""
        ...


@dataclass(frozen=True, eq=False)
class Scaling:
    """Standardisation of columns: x -> (x - mean) * inverse, with inverse = 0 for a column without variance.

    Attributes
    ----------
    mean, inverse : (D,) float64
    """

    mean: Float64[Floats, " d"]
    inverse: Float64[Floats, " d"]

    def take(self, ids: slice | Int64[NDArray[np.int64], " m"]) -> Scaling:
        """Return the scaling of a subset of the columns."""
        return Scaling(self.mean[ids], self.inverse[ids])

    def raw(self, solution: Float64[Floats, "_ k"]) -> tuple[Coef, Intercept]:
        """Fold the standardisation back: (D + 1, K) solution in standard coordinates -> coef (K, D), intercept (K,)."""
        coef = (solution[:-1] * self.inverse[:, None]).T
        return np.ascontiguousarray(coef), solution[-1] - coef @ self.mean


@dataclass(frozen=True, eq=False)
class Iterate:
    """Point at which a probe is evaluated.

    Attributes
    ----------
    width : int
        The probe reads the first `width` columns.
    solution : (width + 1, K) float64
        Weights in standard coordinates; the last row is the intercept. K = 1 is the logistic loss of a binary label,
        K > 1 the multinomial one, or, with label sets, the sum of K logistic ones.
    """

    width: int
    solution: Float64[Floats, "_ k"]


def evaluate(rows: RowSource, labels: Labels, scaling: Scaling, points: Sequence[Iterate]) -> list[tuple[float, Float64[Floats, "_ _"]]]:
    """Return the mean cross-entropy and its gradient, (width + 1, K), at each point; one pass over the rows for all of them.

    Labels are class ids (n,), or label sets (n, K) bool, which then apply to every point.

    The arithmetic is in the precision of the rows (float32 for a RowStore), sums over chunks in float64. Columns that several
    points read are multiplied once, with the stacked weights of all of them.
    """
    n = rows.shape[0]
    order = sorted(range(len(points)), key=lambda i: points[i].width)
    ends = np.cumsum([points[i].solution.shape[1] for i in order])
    places = {i: slice(int(end) - points[i].solution.shape[1], int(end)) for i, end in zip(order, ends, strict=True)}
    widths = sorted({point.width for point in points})
    # Columns low..high are read by the points that are at least as wide, which are the last in the order.
    segments = [
        (low, high, next(places[i].start for i in order if points[i].width >= high))
        for low, high in zip([0, *widths[:-1]], widths, strict=True)
    ]
    stacked = np.zeros((widths[-1], int(ends[-1])))
    for i, place in places.items():
        stacked[: points[i].width, place] = points[i].solution[:-1] * scaling.inverse[: points[i].width, None]
    intercepts = np.hstack([points[i].solution[-1] for i in order])
    gradient = np.zeros_like(stacked)
    totals = np.zeros(len(intercepts))
    losses = np.zeros(len(points))
    weights = mean = buffer = np.empty(0)
    for start, chunk in rows.chunks():
        if not start:
            buffer = np.empty((len(chunk), widths[-1]), dtype=chunk.dtype)
            weights, mean = stacked.astype(chunk.dtype), scaling.mean[: widths[-1]].astype(chunk.dtype)
        centred = buffer[: len(chunk)]
        np.subtract(chunk[:, : widths[-1]], mean, out=centred)
        scores = np.empty((len(chunk), len(intercepts)), dtype=chunk.dtype)
        scores[:] = intercepts
        for low, high, first in segments:
            scores[:, first:] += centred[:, low:high] @ weights[low:high, first:]
        target = labels[start : start + len(chunk)]
        for i, place in places.items():
            losses[i] += (_cross_entropy if target.ndim == 1 else _logistic)(scores[:, place], target)
        for low, high, first in segments:
            gradient[low:high, first:] += centred[:, low:high].T @ scores[:, first:]
        totals += scores.sum(axis=0, dtype=np.float64)
    gradient *= scaling.inverse[: widths[-1], None]
    return [
        (float(losses[i]) / n, np.vstack([gradient[: point.width, places[i]], totals[places[i]]]) / n) for i, point in enumerate(points)
    ]


def decision(rows: RowSource, coef: Coef, intercept: Intercept) -> Float64[Floats, "n k"]:
    """Return the scores (n, K) of a linear probe given in raw coordinates: coef (K, width), intercept (K,)."""
    return decisions(rows, [(coef, intercept)])[0]


def decisions(rows: RowSource, probes: Sequence[tuple[Float64[Floats, "k _"], Float64[Floats, " k"]]]) -> list[Float64[Floats, "_ _"]]:
    """Return the scores of several linear probes, each (n, K), in one pass; a probe (coef, intercept) reads the first columns."""
    scores = [np.empty((rows.shape[0], len(coef))) for coef, _ in probes]
    for start, chunk in rows.chunks():
        for (coef, intercept), into in zip(probes, scores, strict=True):
            into[start : start + len(chunk)] = chunk[:, : coef.shape[1]] @ coef.T.astype(chunk.dtype) + intercept
    return scores


def _cross_entropy(scores: Float[Array, "n k"], labels: Int64[NDArray[np.int64], " n"]) -> float:
    """Return the sum of the cross-entropies of (k, K) scores, which are overwritten by probability - target."""
    if scores.shape[1] == 1:
        return _logistic(scores, labels[:, None] == 1)
    index = np.arange(len(labels))
    scores -= scores.max(axis=1, keepdims=True)
    correct = scores[index, labels].sum(dtype=np.float64)
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    scores /= total
    scores[index, labels] -= 1.0
    return float(np.log(total).sum(dtype=np.float64) - correct)


def _logistic(scores: Float[Array, "n k"], labels: Bool[NDArray[np.bool_], "n k"]) -> float:
    """Return the sum of the logistic losses of (k, K) scores of non-exclusive labels; they are overwritten by probability - target."""
    total = float(np.logaddexp(0.0, scores).sum(dtype=np.float64) - scores[labels].sum(dtype=np.float64))
    scores *= 0.5
    np.tanh(scores, out=scores)
    scores += 1.0
    scores *= 0.5
    scores -= labels
    return total
