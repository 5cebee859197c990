"""Values of metrics: predictions beside labels, as a function of the rows' weights.

Weights of one give the value of a metric, multinomial weights that of a bootstrap resample. So two models are compared on the same
resamples, words of one sentence stay together, and memory does not depend on the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.metrics.metric import Metric

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Judged:
    """Predictions of one model on n rows, ready to be scored against the labels.

    Attributes
    ----------
    rows : int
        Units of resampling: rows, or sentences of a token task.
    score : callable
        Weights of the rows, (n,) float64, none negative and not all 0 -> the metric. Integers stand for repeated rows.
    hits : ndarray of shape (n,), or None
        Correct (1) or wrong (0) by row where the metric is their mean, which has an exact interval.
    """

    rows: int
    score: Callable[[Floats], float]
    hits: Floats | None = None

    @property
    def value(self) -> float:
        """The metric of the rows as they are."""
        return self.score(np.ones(self.rows))


def judged(
    metric: Metric, predicted: NDArray[np.generic], actual: NDArray[np.generic], *, classes: int, starts: Ints | None = None
) -> Judged:
    """Prepare the score of predictions.

    Parameters
    ----------
    metric : Metric
    predicted, actual : ndarray of shape (m,)
        Class ids in 0..classes - 1, or values where the metric is of values.
    classes : int
        Ignored of values.
    starts : int64 ndarray of shape (n + 1,), optional
        Where the predictions of each row begin, where a row has several, as words of a sentence; by default each is a row.

    Raises
    ------
    StatisticsError
        No predictions, arrays that differ in length, or class ids outside the range.
    """
    if predicted.shape != actual.shape or actual.ndim != 1:
        raise StatisticsError(f"Predictions and labels must have one shape (n,). Got {predicted.shape} and {actual.shape} instead.")
    if not len(actual):
        raise StatisticsError("A score needs at least one row. Got none.")
    rows = len(actual) if starts is None else len(starts) - 1
    owner = None if starts is None else np.repeat(np.arange(rows), np.diff(starts))
    if metric.of_values:
        score = _correlation(metric, predicted.astype(np.float64), actual.astype(np.float64))
        return Judged(rows, _by_row(score, owner))
    for ids in (actual, predicted):
        if ids.min() < 0 or ids.max() >= classes:
            raise StatisticsError(f"Labels must be class ids in 0..{classes - 1}. Got {int(ids.min())}..{int(ids.max())} instead.")
    predicted_ids, actual_ids = predicted.astype(np.int64), actual.astype(np.int64)
    if metric in (Metric.ACCURACY, Metric.AGREEMENT):
        hits = (predicted_ids == actual_ids).astype(np.float64)
        return Judged(rows, _by_row(lambda weights: float(weights @ hits) / (weights.sum() or 1.0), owner), hits if owner is None else None)
    correct = predicted_ids == actual_ids
    matched = actual_ids[correct]

    def of_margins(weights: Floats) -> float:
        hits, margins = _class_weights(matched, weights[correct], classes), _class_weights(actual_ids, weights, classes)
        return float(of_counts(metric, hits, margins, _class_weights(predicted_ids, weights, classes))[0])

    return Judged(rows, _by_row(of_margins, owner))


def judged_spans(hits: Floats, predicted: Floats, actual: Floats) -> Judged:
    """Prepare micro F1 of spans, such as entities, from counts of correct, predicted and actual ones by row.

    Parameters
    ----------
    hits, predicted, actual : float64 ndarray of shape (n,)
        Counts by row.
    """

    def score(weights: Floats) -> float:
        total = float(weights @ (predicted + actual))
        return 2 * float(weights @ hits) / total if total else 0.0

    return Judged(len(hits), score)


def judged_means(values: Floats) -> Judged:
    """Prepare the mean of a value of each row, (n,) float64."""
    if not len(values):
        raise StatisticsError("A score needs at least one row. Got none.")
    return Judged(len(values), lambda weights: float(weights @ values) / (weights.sum() or 1.0))


def cosines(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> Floats:
    """Return the cosine of each row of one (n, D) array with that of another, (n,) float64; 0 for a vector of zeros."""
    x, y = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.asarray(np.divide((x * y).sum(axis=1), lengths, out=np.zeros(len(x)), where=lengths > 0))


def _class_weights(ids: Ints, weights: Floats, classes: int) -> Floats:
    """Return the total weight of each class, (1, classes)."""
    return np.asarray(np.bincount(ids, weights, classes)[None], dtype=np.float64)


def _by_row(score: Callable[[Floats], float], owner: Ints | None) -> Callable[[Floats], float]:
    """Return a metric of predictions as one of rows: each prediction has the weight of its row."""
    return score if owner is None else lambda weights: score(weights[owner])


def of_counts(metric: Metric, hits: Floats, actual: Floats, predicted: Floats) -> Floats:
    """Score each of R confusion matrices.

    Matthews is the correlation of two one-hot matrices (J. Gorodkin 2004, R_K), 0 where a side does not vary; macro F1 is the mean over
    the classes that occur on either side. A matrix of no rows scores 0.

    Parameters
    ----------
    metric : Metric
        One of classes.
    hits, actual, predicted : float64 ndarray of shape (R, C)
        The diagonal and the margins of each confusion matrix.

    Returns
    -------
    float64 ndarray of shape (R,)
    """
    total = actual.sum(axis=1)
    if metric in (Metric.ACCURACY, Metric.AGREEMENT):
        return _ratio(hits.sum(axis=1), total)
    if metric is Metric.F1:
        occurs = actual + predicted
        return _ratio(_ratio(2 * hits, occurs).sum(axis=1), np.count_nonzero(occurs, axis=1).astype(np.float64))
    covariance = hits.sum(axis=1) * total - (actual * predicted).sum(axis=1)
    spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.asarray(np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0))


def _correlation(metric: Metric, predicted: Floats, actual: Floats) -> Callable[[Floats], float]:
    """Return Pearson's or Spearman's coefficient as a function of the weights of pairs; 0 where either side is constant."""
    sides = predicted, actual
    # Ties are determined once, since a resample does not change the order of the values.
    ties = [np.unique(side, return_inverse=True) for side in sides]

    def ranks(inverse: Ints, count: int, weights: Floats) -> Floats:
        counts = np.bincount(inverse, weights, count)
        return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])

    def score(weights: Floats) -> float:
        drawn = weights > 0
        # Decided on the values: the computed variance of a constant such as 0.1 need not be exactly 0.
        if any(np.ptp(side[drawn]) == 0 for side in sides):
            return 0.0
        x, y = sides if metric is Metric.PEARSON else (ranks(inverse, len(values), weights) for values, inverse in ties)
        total = weights.sum()
        x, y = x - weights @ x / total, y - weights @ y / total
        scale = np.sqrt((weights @ (x * x)) * (weights @ (y * y)))
        return float(np.clip(weights @ (x * y) / scale, -1.0, 1.0)) if scale > 0 else 0.0

    return score
