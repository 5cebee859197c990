"""What a slim model loses on a split, and how much more that may be than what was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunekit.tasks import Task

_RESAMPLES = 500
#: One standard error of a normal distribution, one-sided.
_LEVEL = 0.8413


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
        One standard error above `value`, over the draw of the rows.
    """

    dense: float
    slim: float
    value: float
    upper: float


def relative_drop(
    task: Task,
    dense: NDArray[np.floating],
    slim: NDArray[np.floating],
    labels: NDArray[np.generic],
    starts: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
) -> Drop:
    """Compare two models on the same rows, by a paired bootstrap.

    Parameters
    ----------
    task : Task
    dense, slim : ndarray of shape (n, C), float
        Outputs.
    labels : ndarray of shape (n,)
    starts : int64 ndarray of shape (rows + 1,), optional
        Where each row begins, if a row has several answers (words), which are drawn together; default: one answer a row.
    seed : int
        Of the resamples.

    Raises
    ------
    StatisticsError
        As in `Task.score`.
    """
    reference, reached = task.score(dense, labels, starts), task.score(slim, labels, starts)
    generator = np.random.default_rng(seed)
    begins = np.arange(len(labels) + 1) if starts is None else starts
    sizes = np.diff(begins)
    drawn = []
    for _ in range(_RESAMPLES):
        rows = generator.integers(len(sizes), size=len(sizes))
        own = np.concatenate([[0], np.cumsum(sizes[rows])])
        at = np.repeat(begins[rows] - own[:-1], sizes[rows]) + np.arange(own[-1])
        drawn.append(_share(task.score(dense[at], labels[at], own), task.score(slim[at], labels[at], own)))
    value = _share(reference, reached)
    return Drop(reference, reached, value, max(value, float(np.quantile(drawn, _LEVEL))))


def _share(reference: float, reached: float) -> float:
    return (reference - reached) / abs(reference) if reference else 0.0
