"""Rows with any number of labels: which are predicted, how that is scored, and from which logit on a label is said to be there.

Label sets are (n, C) bool. F1 is counted from sparse tables, so that a resample costs as much as there are labels, not as n times C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import ModelError, StatisticsError
from prunekit.metrics import Judged, Metric, judged_spans, of_counts

Floats = NDArray[np.float64]
Sets = NDArray[np.bool_]

#: Rows of validation that must show a label for it to have a threshold of its own; others share one.
LEAST = 20


def judged_sets(metric: Metric, predicted: Sets, actual: Sets) -> Judged:
    """Micro or macro F1 of label sets, or the share of those that are the same, by rows.

    Micro F1 counts labels over all rows together; macro F1 is the mean of the F1 of each label that occurs on either side.

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
    """Of a label's logit."""
    from scipy.special import expit

    return np.asarray(expit(logits))


def read_thresholds(stored: object, width: int, where: str) -> Floats:
    """Thresholds as logits (width,), from what a config holds, probabilities in the order of the outputs; None is a half of each.

    Raises
    ------
    ModelError
        Other than one number in [0, 1] for each label.
    """
    if stored is None:
        return np.zeros(width)
    shares = [each for each in stored if type(each) in (float, int) and 0 <= each <= 1] if isinstance(stored, list) else []
    if not isinstance(stored, list) or not len(shares) == len(stored) == width:
        raise ModelError(f"{where} has thresholds that are not {width} numbers from 0 to 1, one for each label.")
    from scipy.special import logit

    return np.asarray(logit(np.array(shares, dtype=np.float64)))


def best_thresholds(outputs: NDArray[np.floating], labels: Sets) -> Floats:
    """Logits above which labels are said to be there, chosen for the best F1 on these rows.

    A label that at least `LEAST` rows show has the threshold of its own best F1; the others share that of the best micro F1 of all
    labels together: on few rows a threshold of its own would be luck (Y. Yang, "A study of thresholding strategies for text
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
    shared = _best(scores.reshape(-1, 1), labels.reshape(-1, 1))
    own = np.flatnonzero(labels.sum(axis=0) >= LEAST)
    found = np.repeat(shared, scores.shape[1])
    if len(own):
        found[own] = _best(scores[:, own], labels[:, own])
    return found


def _best(scores: Floats, labels: Sets) -> Floats:
    """Of each column the cut of the best F1, between two neighbouring scores; the strictest of equals."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, there = np.take_along_axis(scores, order, 0), np.take_along_axis(labels, order, 0)
    hits = there.cumsum(axis=0, dtype=np.float64)
    named = np.arange(1, len(scores) + 1, dtype=np.float64)[:, None]
    f1 = 2 * hits / (named + labels.sum(axis=0))
    below = np.vstack([ranked[1:], ranked[-1:] - 1.0])
    # Rows with one score are on one side of any cut.
    f1[below == ranked] = -1.0
    at = f1.argmax(axis=0)[None]
    return np.asarray((np.take_along_axis(ranked, at, 0)[0] + np.take_along_axis(below, at, 0)[0]) / 2)
