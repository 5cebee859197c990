"""Lists that a model puts in order: nDCG@10, reciprocal rank and average precision of each query, drawn by query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.metrics import Judged, Metric

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Places that nDCG looks at.
DEPTH = 10


def judged_lists(metric: Metric, scores: NDArray[np.floating], relevance: NDArray[np.floating], starts: Ints) -> Judged:
    """The mean over queries of how well their rows are ordered.

    Gains are 2^relevance - 1, discounted by log2(place + 1) (Burges et al. 2005); a row is relevant to reciprocal rank and average
    precision where its relevance is above 0. Of equal scores the least relevant row comes first, so that a model that says nothing
    gains nothing. A query without a relevant row says nothing of any order and is left out.

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
    known = np.isfinite(values)
    if not known.any():
        raise StatisticsError("No query has a relevant row: there is nothing to score.")
    filled = np.where(known, values, 0.0)

    def score(weights: Floats) -> float:
        total = float(weights @ known)
        return float(weights @ filled) / total if total else 0.0

    return Judged(len(values), score)


def by_query(metric: Metric, scores: NDArray[np.floating], relevance: NDArray[np.floating], starts: Ints) -> Floats:
    """The metric of each query, (queries,); NaN for one without a relevant row."""
    sizes = np.diff(starts)
    query = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((relevance, -np.asarray(scores, dtype=np.float64), query))
    place = np.arange(len(order)) - np.repeat(starts[:-1], sizes) + 1
    grades = np.asarray(relevance, dtype=np.float64)[order]
    relevant = grades > 0
    there = np.bincount(query, weights=relevant, minlength=len(sizes))
    if metric is Metric.NDCG:
        best = relevance[np.lexsort((-np.asarray(relevance), query))]
        found, ideal = (np.bincount(query, weights=_gains(each, place), minlength=len(sizes)) for each in (grades, best))
        return np.where(there > 0, found / np.where(there > 0, ideal, 1.0), np.nan)
    if metric is Metric.MRR:
        first = np.full(len(sizes), np.inf)
        np.minimum.at(first, query[relevant], place[relevant])
        return np.where(there > 0, 1.0 / first, np.nan)
    so_far = relevant.cumsum()
    before = np.concatenate([[0], so_far])[starts[:-1]]
    precision = np.where(relevant, (so_far - np.repeat(before, sizes)) / place, 0.0)
    return np.where(there > 0, np.bincount(query, weights=precision, minlength=len(sizes)) / np.where(there > 0, there, 1.0), np.nan)


def _gains(grades: NDArray[np.floating], place: Ints) -> Floats:
    return np.where(place <= DEPTH, (2.0**grades - 1.0) / np.log2(place + 1.0), 0.0)
