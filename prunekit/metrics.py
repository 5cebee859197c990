"""Metrics: names, units and values, and confidence intervals of a value, of a ratio or of a difference of two.

A metric is a function of the rows' weights: weights of one give its value, multinomial weights that of a bootstrap resample.
So two models are compared on the same resamples, words of one sentence stay together, and memory does not depend on the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import ParameterError, StatisticsError

RESAMPLES = 1000
LEVEL = 0.95
#: Most groups of rows that are left out in turn for the acceleration of BCa.
_JACKKNIFE = 200

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Metric(StrEnum):
    """Metrics, higher is better."""

    ACCURACY = "accuracy"
    F1 = "f1"  # macro-averaged
    MATTHEWS = "matthews"
    PEARSON = "pearson"
    SPEARMAN = "spearman"
    COSINE = "cosine"  # mean over the rows, to the dense model's vectors
    ENTITY_F1 = "entity-f1"  # micro-averaged over the entities of BIO, BILOU or IOBES tags
    AGREEMENT = "agreement"  # with the predictions of the dense model, where there are no labels
    NDCG = "ndcg@10"  # of the rows of each query
    MRR = "mrr"
    MAP = "map"
    MICRO_F1 = "micro-f1"  # over the labels of rows that have any number of them
    ANSWER_F1 = "answer-f1"  # of the words of an answer, as SQuAD counts
    EXACT_MATCH = "exact-match"

    @property
    def label(self) -> str:
        """Name in reports: "macro F1"."""
        return _TRAITS[self].label

    @property
    def percent(self) -> bool:
        """Whether it is a fraction that reads as a percentage; correlations do not."""
        return _TRAITS[self].percent

    @property
    def unit(self) -> str:
        """A percent sign, or nothing."""
        return "%" if self.percent else ""

    @property
    def of_values(self) -> bool:
        """Whether it compares values, of a regression, rather than classes."""
        return _TRAITS[self].of_values

    def show(self, value: float) -> str:
        """Format a value, or a difference of two, without its unit."""
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"

    def formatted(self, value: float) -> str:
        """Format a value with its unit."""
        return self.show(value) + self.unit


@dataclass(frozen=True)
class _Traits:
    label: str
    percent: bool
    of_values: bool = False


_TRAITS = {
    Metric.ACCURACY: _Traits("accuracy", percent=True),
    Metric.F1: _Traits("macro F1", percent=True),
    Metric.MATTHEWS: _Traits("Matthews r", percent=False),
    Metric.PEARSON: _Traits("Pearson r", percent=False, of_values=True),
    Metric.SPEARMAN: _Traits("Spearman r", percent=False, of_values=True),
    Metric.COSINE: _Traits("cosine to dense", percent=False),
    Metric.ENTITY_F1: _Traits("entity F1", percent=True),
    Metric.MICRO_F1: _Traits("micro F1", percent=True),
    Metric.NDCG: _Traits("nDCG@10", percent=True),
    Metric.MRR: _Traits("MRR", percent=True),
    Metric.MAP: _Traits("MAP", percent=True),
    Metric.AGREEMENT: _Traits("agreement with dense", percent=True),
    Metric.ANSWER_F1: _Traits("answer F1", percent=True),
    Metric.EXACT_MATCH: _Traits("exact match", percent=True),
}


class Interval(NamedTuple):
    """A figure with its confidence interval over the draw of the rows."""

    value: float
    low: float
    high: float


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


def interval(found: Judged, *, level: float = LEVEL, seed: int = 0) -> Interval:
    """Return the confidence interval of a metric, over the sampling of the rows.

    Wilson's score interval where rows are correct or wrong; otherwise BCa (B. Efron, "Better bootstrap confidence intervals", JASA 1987)
    over 1,000 seeded resamples of the rows.

    Parameters
    ----------
    found : Judged
    level : float
        Coverage, in (0, 1).
    seed : int
        Of the resamples.

    Raises
    ------
    ParameterError
        A level outside (0, 1).
    """
    _check_level(level, "interval")
    if found.hits is not None:
        from scipy.stats import binomtest

        exact = binomtest(int(found.hits.sum()), found.rows).proportion_ci(level, method="wilson")
        return Interval(found.value, float(exact.low), float(exact.high))
    return _bca(found.rows, found.score, level, seed)


def compare(ours: Judged, theirs: Judged, *, by: Literal["share", "difference"] = "share", level: float = LEVEL, seed: int = 0) -> Interval:
    """Compare one model with another on the same rows, with a paired BCa interval.

    Parameters
    ----------
    ours, theirs : Judged
        Of the same rows in the same order; the metrics may differ.
    by : {"share", "difference"}
        ours / theirs, or ours - theirs. A share of a reference that is not above 0 is refused.
    level, seed
        As in `interval`.

    Raises
    ------
    ParameterError
        A level outside (0, 1).
    StatisticsError
        Rows that differ in number, or a share of a reference that is not above 0.
    """
    _check_level(level, "compare")
    if ours.rows != theirs.rows:
        raise StatisticsError(f"Two models are compared on the same rows. Got {ours.rows} and {theirs.rows} of them.")
    if by == "difference":
        return _bca(ours.rows, lambda weights: ours.score(weights) - theirs.score(weights), level, seed)
    if theirs.value <= 0:
        raise StatisticsError(f"A share needs a reference above 0. Got {theirs.value:.4g} instead.")

    def share(weights: Floats) -> float:
        reference = theirs.score(weights)
        # The share is unbounded on a resample where the reference is not above 0.
        return ours.score(weights) / reference if reference > 0 else np.inf

    return _bca(ours.rows, share, level, seed)


def _check_level(level: float, of: str) -> None:
    if not 0 < level < 1:
        raise ParameterError("level", of, "in (0, 1)", level)


def draws(rows: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield the weights of the rows in each resample: how often each is drawn, (rows,) float64; equal for equal seeds."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(rows, size=rows), minlength=rows).astype(np.float64)


def influence(rows: int, statistic: Callable[[Floats], float]) -> Floats:
    """Return the influence of groups of rows on a statistic, by the delete-a-group jackknife.

    Every row is a group by itself up to 200; beyond, rows are assigned to 200 groups in turn.

    Returns
    -------
    float64 ndarray of shape (min(rows, 200),)
        Mean of the values without one group, minus each of them; empty for a single row.
    """
    groups = min(rows, _JACKKNIFE)
    if groups < 2:
        return np.zeros(0)
    group = np.arange(rows) % groups
    values = np.array([statistic((group != left_out).astype(np.float64)) for left_out in range(groups)])
    return np.asarray(values.mean() - values)


def _bca(rows: int, statistic: Callable[[Floats], float], level: float, seed: int) -> Interval:
    """Return the bias-corrected and accelerated interval of a bootstrap over rows."""
    from scipy.special import ndtr, ndtri

    value = statistic(np.ones(rows))
    resampled = np.sort([statistic(weights) for weights in draws(rows, seed)])
    # A resample that ties with the value counts half on either side.
    below = (np.count_nonzero(resampled < value) + 0.5 * np.count_nonzero(resampled == value)) / len(resampled)
    bias = float(ndtri(np.clip(below, 1 / len(resampled), 1 - 1 / len(resampled))))
    influences = influence(rows, statistic)
    spread = float((influences**2).sum()) ** 1.5
    acceleration = float((influences**3).sum()) / (6 * spread) if spread > 0 else 0.0
    ends = ndtri(np.array([(1 - level) / 2, (1 + level) / 2])) + bias
    with np.errstate(invalid="ignore"):
        # A quantile between two infinite resamples is infinite.
        low, high = (np.inf if np.isnan(end) else end for end in np.quantile(resampled, ndtr(bias + ends / (1 - acceleration * ends))))
    return Interval(value, min(float(low), value), max(float(high), value))
