"""Scores of predictions, higher is better."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from prunekit.errors import StatisticsError
from prunekit.tasks import Metric

Floats = NDArray[np.float64]


def score(metric: Metric, labels: NDArray[Any], decisions: Floats) -> float:
    """Score decisions of a classifier or a regression.

    Parameters
    ----------
    metric : Metric
    labels : (n,) int64 class ids, or float64 targets
    decisions : (n, K) float64
        One column a class, the highest wins; or (n, 1) predictions.

    Returns
    -------
    float
        Accuracy and F1 (macro over the classes that occur in labels or predictions) in [0, 1], correlations in [-1, 1]. A
        correlation with a constant is 0.

    Raises
    ------
    StatisticsError
        No rows, or NaN among the decisions.
    """
    if not len(labels):
        raise StatisticsError("There are no rows to score.")
    if not np.isfinite(decisions).all():
        raise StatisticsError("The probe predicts NaN or infinity: its inputs are broken.")
    if metric is Metric.PEARSON:
        return _pearson(np.asarray(labels, dtype=np.float64), decisions[:, 0])
    if metric is Metric.SPEARMAN:
        return _pearson(rankdata(labels), rankdata(decisions[:, 0]))
    predicted = decisions.argmax(axis=1)
    if metric is Metric.ACCURACY:
        return float((predicted == labels).mean())
    classes = max(decisions.shape[1], int(labels.max()) + 1)
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, predicted), 1.0)
    return _macro_f1(table) if metric is Metric.F1 else _matthews(table)


def said(metric: Metric, value: float) -> str:
    """A score, or a difference of two, as a person reads it: shares in percent."""
    return f"{value:.1%}" if metric in (Metric.ACCURACY, Metric.F1) else f"{value:.3f}"


def _pearson(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    # Rounding of a constant is not a direction.
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 1e-12 * len(a) * float(np.abs(a).max(initial=0.0)) else 0.0


def _macro_f1(table: Floats) -> float:
    both = table.sum(axis=0) + table.sum(axis=1)
    seen = both > 0
    return float((2.0 * table.diagonal()[seen] / both[seen]).mean())


def _matthews(table: Floats) -> float:
    """Multi-class Matthews correlation (Gorodkin 2004, R_K)."""
    n, true, predicted = table.sum(), table.sum(axis=1), table.sum(axis=0)
    covariance = table.trace() * n - true @ predicted
    spread = (n**2 - predicted @ predicted) * (n**2 - true @ true)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0
