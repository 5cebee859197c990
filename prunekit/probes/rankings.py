"""Rankings of neurons for a task, one at a time or jointly; all from moments, except two that need rows.

Scores are (D,), higher is better; `descending` makes an order of them. A constant neuron (see `Moments.non_constant`) is in no order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from prunekit.errors import ParameterError, StatisticsError
from prunekit.probes.objective import RowSource
from prunekit.stats.moments import Moments

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
# Sizes of one name are equal in a call: d neurons.
Vector = Float64[Floats, " d"]

BINS = 16
"""Number of quantile bins of a neuron, for the mutual information."""
_COLUMNS = 64  # neurons that are binned at once


def descending(scores: Vector, non_constant: Bool[NDArray[np.bool_], " d"]) -> Int64[Ids, " m"]:
    """Order the ids of the non-constant neurons by falling score; ties by id."""
    if not np.isfinite(scores[non_constant]).all():
        raise StatisticsError("A ranking's scores hold NaN or infinity: its inputs are broken.")
    ids = np.flatnonzero(non_constant)
    return np.asarray(ids[np.argsort(-scores[ids], kind="stable")])


def probeless(moments: Moments, outputs: int) -> Vector:
    """Score neurons by Probeless (Antverg and Belinkov 2022): the sum over pairs of classes of |difference of mean activations|.

    Parameters
    ----------
    moments : Moments
        Over [D neurons | one-hot labels]; they hold the means of the classes.
    outputs : int
        Classes, at least 2.

    Returns
    -------
    (D,) float64
        On raw neurons, as in the paper: it depends on their scale.

    Raises
    ------
    StatisticsError
        Fewer than two classes occur.
    """
    means = class_means(moments, outputs)
    ordered = np.sort(means, axis=1)
    # Sum over pairs of differences, from the sorted values: each counts once for every smaller, and against every larger one.
    rank = 2.0 * np.arange(1, ordered.shape[1] + 1) - ordered.shape[1] - 1.0
    return np.asarray(ordered @ rank)


def class_means(moments: Moments, outputs: int) -> Float64[Floats, "d k"]:
    """Return the mean of each neuron in each class that occurs, less its mean over all rows, (D, classes)."""
    if outputs < 2:
        raise StatisticsError("Class means need classes; the task is a regression.")
    width = moments.width - outputs
    counts = moments.count * moments.mean[width:]
    occurs = counts > 0.5
    if occurs.sum() < 2:
        raise StatisticsError("All labels are equal: a ranking needs at least two classes.")
    return np.asarray(moments.comoment[:width, width:][:, occurs] / counts[occurs])


def mutual_information(rows: Shaped[NDArray[Any], "n d"], labels: Shaped[NDArray[Any], " n"], *, bins: int = BINS) -> Vector:
    """Estimate the mutual information of each neuron with the label, in nats, by counting.

    A neuron is binned by its quantiles, a regression's target too (8 bins); the plug-in estimate is biased upwards by about
    (bins - 1)(classes - 1) / 2n, alike for all neurons.

    Parameters
    ----------
    rows : (n, D)
    labels : (n,) int64 class ids, or float64 targets
    bins : int

    Returns
    -------
    (D,) float64
        0 for a neuron that does not vary.
    """
    if bins < 2:
        raise ParameterError("bins", "mutual_information", "at least 2", bins)
    n, width = rows.shape
    if not n:
        raise StatisticsError("There are no rows to rank neurons by.")
    if labels.dtype.kind == "f":
        targets = _bin(np.asarray(labels, dtype=np.float64)[:, None], 8)[:, 0]
    else:
        targets = np.unique(labels, return_inverse=True)[1]
    classes = int(targets.max()) + 1
    of_label = np.bincount(targets, minlength=classes) / n
    information = np.empty(width)
    for start in range(0, width, _COLUMNS):
        codes = _bin(np.asarray(rows[:, start : start + _COLUMNS]), bins)
        columns = codes.shape[1]
        flat = (codes * classes + targets[:, None]) + np.arange(columns) * (bins * classes)
        joint = np.bincount(flat.ravel(), minlength=columns * bins * classes).reshape(columns, bins, classes) / n
        independent = joint.sum(axis=2, keepdims=True) * of_label
        ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
        information[start : start + columns] = (joint * np.log(ratio)).sum(axis=(1, 2))
    return np.maximum(information, 0.0)


def _bin(values: Shaped[NDArray[Any], "n m"], bins: int) -> Int64[Ids, "n m"]:
    """Return the quantile bin of each value, (n, m); equal values share one."""
    edges = np.quantile(values, np.arange(1, bins) / bins, axis=0)
    codes = np.zeros(values.shape, dtype=np.int64)
    for edge in edges:
        codes += values > edge
    return codes


def probe_gradient_activation(
    rows: RowSource, labels: Shaped[NDArray[Any], " n"], coef: Float64[Floats, "k d"], intercept: Float64[Floats, " k"]
) -> Vector:
    """Return the mean over the rows of |gradient x activation| of each neuron, (D,).

    The gradient is that of a linear probe's loss at the labels: its cross-entropy, or half its squared error.

    Parameters
    ----------
    rows : RowSource
        (n, D) neurons.
    labels : (n,) int64 class ids, or float64 targets
    coef, intercept : (K, D), (K,)
        The probe in raw coordinates; one row for a regression.

    Returns
    -------
    (D,) float64
    """
    total = np.zeros(rows.shape[1])
    for start, chunk in rows.chunks(max(1, 2**22 // max(1, rows.shape[1]))):
        scores = chunk @ coef.T + intercept
        target = labels[start : start + len(chunk)]
        if len(coef) == 1:
            residual = scores - target[:, None]
        else:
            residual = np.exp(scores - scores.max(axis=1, keepdims=True))
            residual /= residual.sum(axis=1, keepdims=True)
            residual[np.arange(len(chunk)), target] -= 1.0
        total += np.abs((residual @ coef) * chunk).sum(axis=0, dtype=np.float64)
    return total / rows.shape[0]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Agreement of rankings, pair by pair.

    Attributes
    ----------
    names : tuple of str
    sizes : tuple of int
        Values of k of the overlaps.
    overlap : (len(sizes), m, m) float64
        Share of the first k neurons of one ranking that are among the first k of the other.
    tau : (m, m) float64
        Kendall's tau-b of the ranks.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    overlap: Float64[Floats, "s m m"]
    tau: Float64[Floats, "m m"]


def compare_rankings(orders: Mapping[str, Int64[Ids, " _"]], sizes: Sequence[int]) -> Agreement:
    """Compare rankings of the same neurons; raises StatisticsError where they rank different ones."""
    names, rankings = tuple(orders), list(orders.values())
    if not names:
        raise StatisticsError("There are no rankings to compare.")
    members = np.sort(rankings[0])
    for name, order in orders.items():
        if not np.array_equal(np.sort(order), members):
            raise StatisticsError(f"The rankings {names[0]!r} and {name!r} order different neurons and cannot be compared.")
    for size in sizes:
        if not 1 <= size <= len(members):
            raise ParameterError("sizes", "compare_rankings", f"in 1..{len(members)}, the neurons ranked", size)
    overlap = np.array([[[len(np.intersect1d(a[:k], b[:k])) / k for b in rankings] for a in rankings] for k in sizes])
    ranks = [np.argsort(order) for order in rankings]
    tau = np.eye(len(names))
    for i in range(len(names)):
        for j in range(i):
            # All rankings of a single neuron are the same.
            tau[i, j] = tau[j, i] = kendalltau(ranks[i], ranks[j]).statistic if len(members) > 1 else 1.0
    return Agreement(names, tuple(sizes), overlap.reshape(len(sizes), len(names), len(names)), tau)


def ranking(weights: ArrayLike, *, steps: int = 1000) -> Int64[Ids, " m"]:
    """Order neurons by linguistic correlation analysis, most important first.

    For p = 0, 1/steps, ..., 1 and for each class, the shortest (not empty) prefix of its neurons by falling |weight| that
    holds a share p of the class's weight; the union over the classes is appended to the order as far as it is new.

    Parameters
    ----------
    weights : (K, D)
        Weights of the probe, one row a class; one row for a regression.
    steps : int
        S of the papers.

    Returns
    -------
    (m,) int64
        Neurons with a weight in some class; a neuron whose weights are all zero is in no prefix, unless all are.

    Notes
    -----
    The order of the neurons that enter at one p is arbitrary in the authors' code (a Python set). Here they are ordered by
    their largest |weight| over the classes, and neurons equal in that by their id.
    """
    raw = np.atleast_2d(np.asarray(weights))
    # Rounding may decide which neuron completes a share: float32 weights are summed in float32, as in the authors' code.
    matrix = np.abs(raw if raw.dtype == np.float32 else raw.astype(np.float64))
    if steps < 1:
        raise ParameterError("steps", "ranking", "at least 1", steps)
    width = matrix.shape[1]
    shares = (np.arange(steps + 1) / steps).astype(matrix.dtype)
    entry = np.full(width, steps + 1, dtype=np.int64)
    for row in matrix:
        order = np.argsort(-row, kind="stable")
        total = np.cumsum(row[order])
        # Length of the shortest prefix that reaches each share; the full row where none does because of rounding.
        lengths = np.minimum(np.searchsorted(total, shares * row.sum(), side="left") + 1, width)
        first = np.searchsorted(lengths, np.arange(width) + 1, side="left")
        entry[order] = np.minimum(entry[order], first)
    order = np.lexsort((np.arange(width), -matrix.max(axis=0), entry))
    # The last neurons of a row can be lost to rounding, where the prefix before them already sums to the total.
    return np.asarray(order[(entry[order] <= steps) | (matrix.max(axis=0)[order] > 0)])
