"""Confidence intervals of a metric, and of a ratio or a difference of two on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from prunekit.errors import ParameterError, StatisticsError
from prunekit.metrics.values import Floats, Judged

RESAMPLES = 1000
LEVEL = 0.95
#: Most groups of rows that are left out in turn for the acceleration of BCa.
_JACKKNIFE = 200


class Interval(NamedTuple):
    """A figure with its confidence interval over the draw of the rows."""

    value: float
    low: float
    high: float


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
