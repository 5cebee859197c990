"""Ranking metrics: nDCG@10, reciprocal rank and average precision of each query, resampled by query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.metrics.metric import Metric
from prunekit.metrics.values import Judged, judged_means

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Ranks that nDCG takes into account.
DEPTH = 10


def judged_lists(metric: Metric, scores: NDArray[np.floating], relevance: NDArray[np.floating], starts: Ints) -> Judged:
    """Prepare the mean of a ranking metric over queries.

    Gains are 2^relevance - 1, discounted by log2(rank + 1) (Burges et al. 2005); a row is relevant to reciprocal rank and average
    precision where its relevance is above 0. Of equal scores the least relevant row comes first, so that constant scores gain
    nothing. A query without a relevant row has no defined metric and is left out.

    Parameters
    ----------
    metric : Metric
        nDCG@10, MRR or MAP.
    scores, relevance : ndarray of shape (n,)
        Of all rows, those of one query together; the highest score comes first; relevance is 0 or more.
    starts : int64 ndarray of shape (queries + 1,)
        Where each query begins.

    Raises
    ------
    StatisticsError
        Shapes that do not fit, or no query with a relevant row.
    """
    if scores.shape != relevance.shape or scores.ndim != 1 or starts[-1] != len(scores):
        raise StatisticsError(f"Scores and relevance must have one shape (n,). Got {scores.shape} and {relevance.shape} instead.")
    values = by_query(metric, scores, relevance, starts)
    # A query without a relevant row is no evidence for anything, and is no row of those that are resampled.
    values = values[np.isfinite(values)]
    if not len(values):
        raise StatisticsError("No query has a relevant row: there is nothing to score.")
    return judged_means(values)


def by_query(metric: Metric, scores: NDArray[np.floating], relevance: NDArray[np.floating], starts: Ints) -> Floats:
    """Return the metric of each query, (queries,); NaN for one without a relevant row."""
    sizes = np.diff(starts)
    query = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((relevance, -np.asarray(scores, dtype=np.float64), query))
    rank = np.arange(len(order)) - np.repeat(starts[:-1], sizes) + 1
    grades = np.asarray(relevance, dtype=np.float64)[order]
    relevant = grades > 0
    relevant_counts = np.bincount(query, weights=relevant, minlength=len(sizes))
    if metric is Metric.NDCG:
        best = relevance[np.lexsort((-np.asarray(relevance), query))]
        dcg, ideal_dcg = (np.bincount(query, weights=_gains(ordered, rank), minlength=len(sizes)) for ordered in (grades, best))
        return np.where(relevant_counts > 0, dcg / np.where(relevant_counts > 0, ideal_dcg, 1.0), np.nan)
    if metric is Metric.MRR:
        first = np.full(len(sizes), np.inf)
        np.minimum.at(first, query[relevant], rank[relevant])
        return np.where(relevant_counts > 0, 1.0 / first, np.nan)
    cumulative = relevant.cumsum()
    before = np.concatenate([[0], cumulative])[starts[:-1]]
    precision = np.where(relevant, (cumulative - np.repeat(before, sizes)) / rank, 0.0)
    return np.where(
        relevant_counts > 0,
        np.bincount(query, weights=precision, minlength=len(sizes)) / np.where(relevant_counts > 0, relevant_counts, 1.0),
        np.nan,
    )


def _gains(grades: NDArray[np.floating], rank: Ints) -> Floats:
    return np.where(rank <= DEPTH, (2.0**grades - 1.0) / np.log2(rank + 1.0), 0.0)
