"""Probes on reductions of one layer's vector (Matton and de Oliveira 2019): components, subsets, and each dimension alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy.typing import NDArray
from scipy.stats import rankdata

from prunekit.errors import StatisticsError
from prunekit.metrics import Metric, of_counts
from prunekit.probes.selection import Split, path
from prunekit.stats.collected import Labels
from prunekit.stats.moments import Moments
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
# Sizes of one name are equal in a call: d neurons, k classes.
Vector = Float64[Floats, " d"]
Mask = Bool[NDArray[np.bool_], " d"]
Discriminant = tuple[Float32[NDArray[np.float32], " d"], Float64[Floats, "d k"], Float64[Floats, "d k"]]
Curve = tuple[tuple[int, float], ...]
"""(number of dimensions, validation score) pairs, ascending."""

_CELLS = 2**22


def principal_axes(moments: Moments, outputs: int) -> tuple[Float64[Floats, "d m"], Float64[Floats, " m"]]:
    """Return the principal axes of the neurons, (D, m), by falling variance, and their variances, (m,), all positive."""
    width = moments.width - outputs
    values, vectors = np.linalg.eigh(moments.covariance[:width, :width])
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > max(float(values[-1]), 0.0) * 1e-10]
    if not len(order):
        raise StatisticsError("No neuron varies: there are no principal components.")
    return np.asarray(vectors[:, order]), np.asarray(values[order])


def pca_curve(train: Split, validation: Split, task: Task) -> tuple[Curve, Float64[Floats, " m"]]:
    """Score the probe on the first 1, 2, 3, 5, ... principal components.

    Parameters
    ----------
    train, validation : Split
        (n, D) neurons, of one layer as a rule. The axes are those of train; labels have no part in them.
    task : Task

    Returns
    -------
    curve : tuple of (int, float)
    explained : (m,) float64
        Share of the variance that the first 1..m components hold.
    """
    axes, values = principal_axes(train.moments, task.outputs)
    parts = tuple(_project(split, axes, train.moments.mean[: split.rows.width]) for split in (train, validation))
    curve = tuple(path(parts[0], parts[1], task, default_sizes(parts[0].rows.width))[1])
    return curve, np.cumsum(values) / values.sum()


def subset_curve(train: Split, validation: Split, task: Task, order: Int64[Ids, " m"]) -> Curve:
    """Score the probe on the first 1, 2, 3, 5, ... neurons of a ranking."""
    return tuple(path(train.columns(order), validation.columns(order), task, default_sizes(len(order)))[1])


def default_sizes(most: int) -> list[int]:
    """Return 1, 2, 3, 5, 8, 12, ...: half as many again each time, up to `most`."""
    sizes, size = [], 1
    while size < most:
        sizes.append(size)
        size += max(1, size // 2)
    return [*sizes, most]


def single_dimensions(train: Moments, rows: RowStore, labels: Labels, task: Task) -> Vector:
    """Score every dimension alone, in closed form.

    For classes it is linear discriminant analysis in one dimension: class means, one variance within the classes, class
    shares. For a regression it is least squares, so that a correlation only takes its sign from train.

    Parameters
    ----------
    train : Moments
        Over [D neurons | label columns] of the training rows: all that the fits need.
    rows : RowStore
        (n, D) held-out neurons.
    labels : (n,)
        Their labels.
    task : Task

    Returns
    -------
    (D,) float64
        Score on the held-out rows by the task's metric; a constant dimension scores as the class shares alone do.

    Raises
    ------
    StatisticsError
        Only one class, or no rows.
    """
    width = rows.width
    if train.width != width + task.outputs:
        raise StatisticsError(f"Moments of {train.width} columns do not fit {width} neurons and {task.outputs} outputs.")
    if not len(labels):
        raise StatisticsError("There are no rows to score.")
    if not train.varies[width:].any():
        raise StatisticsError("All training labels are equal: a dimension cannot tell classes apart.")
    non_constant = train.non_constant(width)
    if task.outputs == 1:
        return _correlations(train, rows, labels, task, non_constant)
    mean, slope, offset = _discriminant(train, width, non_constant)
    # The diagonal and a margin of each confusion matrix: whole ones would grow with the square of the classes.
    hits, guesses = (np.zeros((width, task.outputs), dtype=np.int64) for _ in range(2))
    step = max(1, _CELLS // (width * task.outputs))
    for start, chunk in rows.chunks(step):
        scores = (chunk - mean)[:, :, None] * slope + offset
        predicted = scores.argmax(axis=2)
        cells = predicted + np.arange(width) * task.outputs
        right = predicted == labels[start : start + len(chunk), None]
        guesses += np.bincount(cells.ravel(), minlength=guesses.size).reshape(guesses.shape)
        hits += np.bincount(cells[right], minlength=hits.size).reshape(hits.shape)
    actual = np.tile(np.bincount(labels, minlength=task.outputs).astype(np.float64), (width, 1))
    return of_counts(task.metric, hits.astype(np.float64), actual, guesses.astype(np.float64))


def _discriminant(train: Moments, width: int, non_constant: Mask) -> Discriminant:
    """Return mean (D,), slope and offset (D, K) of the one-dimensional discriminants of centred neurons."""
    counts = train.count * train.mean[width:]
    occurs = counts > 0.5
    shares = np.where(occurs, counts / train.count, 1.0)
    centres = np.where(occurs, train.comoment[:width, width:] / np.where(occurs, counts, 1.0), 0.0)
    total = train.variance[:width]
    within = total - (np.where(occurs, shares, 0.0) * centres**2).sum(axis=1)
    # Where the classes do not overlap, the nearest class mean decides.
    within = np.where(non_constant, np.maximum(within, 1e-9 * total), 1.0)
    slope = np.where(non_constant[:, None], centres / within[:, None], 0.0)
    offset = np.where(non_constant[:, None], -0.5 * centres**2 / within[:, None], 0.0) + np.where(occurs, np.log(shares), -np.inf)
    return train.mean[:width].astype(np.float32), slope, offset


def _correlations(train: Moments, rows: RowStore, labels: Labels, task: Task, non_constant: Mask) -> Vector:
    width = rows.width
    values = np.asarray(labels, dtype=np.float64)
    values = rankdata(values) if task.metric is Metric.SPEARMAN else values
    sign = np.sign(train.comoment[:width, width])
    scores = np.zeros(width)
    for start in range(0, width, 64):
        ids = np.arange(start, min(start + 64, width))
        with rows.columns(ids) as part:
            x = part.matrix().astype(np.float64)
        x = rankdata(x, axis=0) if task.metric is Metric.SPEARMAN else x
        correlations = Moments.of(np.hstack([x, values[:, None]])).correlation()[:-1, -1]
        scores[ids] = correlations * sign[ids]
    return np.where(non_constant, scores, 0.0)


def _project(split: Split, axes: Float64[Floats, "d m"], mean: Vector) -> Split:
    rows = RowStore(len(split.rows), axes.shape[1])
    for start, chunk in split.rows.chunks():
        rows.put(np.arange(start, start + len(chunk)), (chunk - mean) @ axes)
    return Split.of(rows, split.labels, split.outputs)
