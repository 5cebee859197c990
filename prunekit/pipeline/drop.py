"""Relative drop of a slim model on a split, with a one-sided upper confidence bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunekit.metrics import influence
from prunekit.tasks import Task

#: Confidence of the one-sided bound.
LEVEL = 0.95


@dataclass(frozen=True)
class Drop:
    """A relative loss of the metric.

    Attributes
    ----------
    dense, slim : float
        The metric of both.
    value : float
        (dense - slim) / dense; 0 where the dense metric is 0.
    upper : float
        One-sided upper bound of the loss, over the draw of the rows; with 95% confidence by default.
    rows : int
        On which it was measured; sentences of a token task.
    """

    dense: float
    slim: float
    value: float
    upper: float
    rows: int = 0


def relative_drop(
    task: Task,
    dense: NDArray[np.floating],
    slim: NDArray[np.floating],
    labels: NDArray[np.generic],
    starts: NDArray[np.int64] | None = None,
    *,
    level: float = LEVEL,
) -> Drop:
    """Compare two models on the same rows, with Student's bound for the rows and one more that is lost.

    The row that is lost is that of conformal risk control (Angelopoulos et al. 2022): without it, a model that errs on few rows
    has a bound that is too low, and one that errs on none has no margin at all.

    Parameters
    ----------
    task : Task
    dense, slim : ndarray of shape (n, C), float
        Outputs.
    labels : ndarray of shape (n,)
    starts : int64 ndarray of shape (rows + 1,), optional
        Where each row begins, if a row has several answers (words), which are drawn together; default: one answer a row.
    level : float
        Confidence of the bound.

    Raises
    ------
    StatisticsError
        As in `Task.score`.
    """
    ours, theirs = task.judged(slim, labels, starts), task.judged(dense, labels, starts)
    reference, reached, rows = theirs.value, ours.value, ours.rows
    value = _share(reference, reached)
    if not reference:
        return Drop(reference, reached, value, value, rows)
    if ours.hits is not None and theirs.hits is not None:
        squares = float((((theirs.hits - ours.hits) / reference - value * theirs.hits / reference) ** 2).sum())
        freedom = rows
    else:
        influences = influence(rows, lambda weights: _share(theirs.score(weights), ours.score(weights)))
        # Leaving out one of g groups moves the mean by 1 / (g - 1) of that group's distance from it.
        freedom = len(influences)
        squares = float((influences**2).sum()) * (freedom - 1) / max(freedom, 1) * rows**2
    return Drop(reference, reached, value, max(value, upper_bound(value, squares, rows, freedom, level)), rows)


def upper_bound(value: float, squares: float, rows: int, freedom: int, level: float = LEVEL) -> float:
    """Bound a mean from above by Student's t with one row more, which loses everything.

    Parameters
    ----------
    value : float
        Mean loss of the rows.
    squares : float
        Sum of their squared distances from it.
    rows : int
    freedom : int
        Degrees of freedom.
    level : float
        One-sided confidence.
    """
    from scipy.stats import t

    mean = (rows * value + 1) / (rows + 1)
    variance = (squares + rows / (rows + 1) * (1 - value) ** 2) / rows
    return mean + float(t.ppf(level, max(freedom, 1))) * math.sqrt(variance / (rows + 1))


def _share(reference: float, reached: float) -> float:
    return (reference - reached) / abs(reference) if reference else 0.0
