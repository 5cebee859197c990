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
    task: Task, dense: NDArray[np.floating], slim: NDArray[np.floating], labels: NDArray[np.generic], *, seed: int = 0
) -> Drop:
    """Compare two models on the same rows, by a paired bootstrap.

    Parameters
    ----------
    task : Task
    dense, slim : ndarray of shape (n, C), float
        Outputs.
    labels : ndarray of shape (n,)
    seed : int
        Of the resamples.

    Raises
    ------
    StatisticsError
        As in `Task.score`.
    """
    reference, reached = task.score(dense, labels), task.score(slim, labels)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(_RESAMPLES):
        rows = generator.integers(len(labels), size=len(labels))
        drawn.append(_share(task.score(dense[rows], labels[rows]), task.score(slim[rows], labels[rows])))
    value = _share(reference, reached)
    return Drop(reference, reached, value, max(value, float(np.quantile(drawn, _LEVEL))))


def _share(reference: float, reached: float) -> float:
    return (reference - reached) / abs(reference) if reference else 0.0
