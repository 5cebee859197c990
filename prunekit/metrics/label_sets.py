"""Rows with any number of labels: scores of label sets, and the thresholds on logits above which labels are predicted.

Label sets are (n, C) bool. F1 is computed from sparse matrices, so that the cost of a resample is in the
number of labels that are set, not in n times C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.metrics.metric import Metric
from prunekit.metrics.values import Judged, judged_spans, of_counts

Floats = NDArray[np.float64]
Sets = NDArray[np.bool_]

#: Fewest validation rows with a label for which it has a threshold of its own; the other labels share one.
LEAST = 20


def judged_sets(metric: Metric, predicted: Sets, actual: Sets) -> Judged:
    """Prepare micro or macro F1 of label sets, or the share of equal sets, by rows.

    Micro F1 pools the labels of all rows; macro F1 is the mean of the F1 of each label that occurs on either side.

    Parameters
    ----------
    metric : Metric
        Micro F1, macro F1 or agreement.
    predicted, actual : bool ndarray of shape (n, C)

    Raises
    ------
    StatisticsError
        No rows, or arrays of different shapes.
    """
    if predicted.shape != actual.shape or actual.ndim != 2:
        raise StatisticsError(f"Label sets must have one shape (n, C). Got {predicted.shape} and {actual.shape} instead.")
    if not len(actual):
        raise StatisticsError("A score needs at least one row. Got none.")
    if metric is Metric.AGREEMENT:
        same = (predicted == actual).all(axis=1).astype(np.float64)
        return Judged(len(same), lambda weights: float(weights @ same) / (weights.sum() or 1.0), same)
    both = predicted & actual
    if metric is Metric.MICRO_F1:
        hits, ours, theirs = (sets.sum(axis=1, dtype=np.float64) for sets in (both, predicted, actual))
        return judged_spans(hits, ours, theirs)
    from scipy.sparse import csr_array

    tables = [csr_array(sets.T, dtype=np.float64) for sets in (both, actual, predicted)]

    def score(weights: Floats) -> float:
        hits, theirs, ours = (np.asarray(table @ weights)[None] for table in tables)
        return float(of_counts(metric, hits, theirs, ours)[0])

    return Judged(len(actual), score)


def probabilities(logits: Floats) -> Floats:
    """Return the sigmoid of label logits."""
    from scipy.special import expit

    return np.asarray(expit(logits))


def best_thresholds(outputs: NDArray[np.floating], labels: Sets) -> Floats:
    """Return the logits above which labels are predicted, by the best F1 on these rows.

    A label that at least `LEAST` rows show has the threshold of its own best F1; the others share that of the best micro F1 of all
    labels together: a threshold of its own would overfit on few rows (Y. Yang, "A study of thresholding strategies for text
    categorization", SIGIR 2001). Where no row has a label, it is 0.

    Parameters
    ----------
    outputs : ndarray of shape (n, C), floating
    labels : bool ndarray of shape (n, C)

    Returns
    -------
    float64 ndarray of shape (C,)
    """
    scores = np.asarray(outputs, dtype=np.float64)
    if not labels.any():
        return np.zeros(scores.shape[1])
    shared = _best_cuts(scores.reshape(-1, 1), labels.reshape(-1, 1))
    own = np.flatnonzero(labels.sum(axis=0) >= LEAST)
    thresholds = np.repeat(shared, scores.shape[1])
    if len(own):
        thresholds[own] = _best_cuts(scores[:, own], labels[:, own])
    return thresholds


def _best_cuts(scores: Floats, labels: Sets) -> Floats:
    """Return the threshold of the best F1 of each column, midway between two neighbouring scores; the highest of equals."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, present = np.take_along_axis(scores, order, 0), np.take_along_axis(labels, order, 0)
    hits = present.cumsum(axis=0, dtype=np.float64)
    predicted = np.arange(1, len(scores) + 1, dtype=np.float64)[:, None]
    f1 = 2 * hits / (predicted + labels.sum(axis=0))
    below = np.vstack([ranked[1:], ranked[-1:] - 1.0])
    # Rows with equal scores are on the same side of any threshold.
    f1[below == ranked] = -1.0
    at = f1.argmax(axis=0)[None]
    return np.asarray((np.take_along_axis(ranked, at, 0)[0] + np.take_along_axis(below, at, 0)[0]) / 2)
