"""Comparison of probes: penalties chosen on a validation split, prefixes of the columns fitted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from prunekit.probes.elastic_net import Fit, Problem, fit_probes
from prunekit.probes.objective import decisions
from prunekit.stats.collected import Labels
from prunekit.stats.moments import Moments, MomentsAccumulator, one_hot
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task

Ids = Int64[NDArray[np.int64], " m"]

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Penalties tried for every probe; the best was far from both ends on all data tried."""
STEP = 2 ** (-1 / 3)
"""Ratio of one size to the next larger one."""
SEARCH_ROWS = 50_000
"""Most rows on which layers, penalties and sizes are compared; the returned probes are fitted on all rows."""
SEARCH_TOL, FINAL_TOL = 1e-4, 1e-5
"""Accuracy of the fits that are compared and of those that are returned, in units of the loss."""


@dataclass(frozen=True, eq=False)
class Split:
    """Columns of a split that can be probed: rows, labels and moments over [neurons | labels]."""

    rows: RowStore
    labels: Labels
    moments: Moments

    @classmethod
    def of(cls, rows: RowStore, labels: Labels, outputs: int) -> Split:
        """Compute the moments of rows with labels; raises StatisticsError for NaN or no rows."""
        accumulator = MomentsAccumulator(rows.width + outputs)
        for start, chunk in rows.chunks():
            accumulator.update(np.hstack([chunk, one_hot(labels[start : start + len(chunk)], outputs)]))
        return cls(rows, labels, accumulator.finish())

    @property
    def outputs(self) -> int:
        """Number of label columns of the moments."""
        return self.moments.width - self.rows.width

    def columns(self, ids: Ids) -> Split:
        """Return the split with some of the neurons."""
        moments = self.moments.take(np.concatenate([ids, self.rows.width + np.arange(self.outputs)]))
        return Split(self.rows.columns(ids), self.labels, moments)

    def sample(self, seed: int) -> Split:
        """Draw at most SEARCH_ROWS of the rows at random; the moments stay those of all rows."""
        if len(self.rows) <= SEARCH_ROWS:
            return self
        picked = np.sort(np.random.default_rng(seed).choice(len(self.rows), SEARCH_ROWS, replace=False))
        return Split(self.rows.take(picked), self.labels[picked], self.moments)


def fit_and_score(
    train: Split, validation: Split, task: Task, problems: Sequence[Problem], starts: Sequence[Fit] | None = None, tol: float = SEARCH_TOL
) -> tuple[list[Fit], list[float]]:
    """Fit several probes in shared passes, and score each on validation."""
    fits = fit_probes(train.rows, train.labels, train.moments, problems, task.outputs, starts=starts, tol=tol)
    predictions = decisions(validation.rows, [(fit.coef, fit.intercept) for fit in fits])
    return fits, [task.score(task.tuned(values, validation.labels), validation.labels) for values in predictions]


def refit(train: Split, validation: Split, task: Task, alphas: Sequence[float], start: Fit) -> tuple[Fit, float]:
    """Continue a fit to its optimum on all rows; more rows may need less penalty."""
    problems = [Problem(start.coef.shape[1], alpha) for alpha in alphas]
    _, fit, value = best(train, validation, task, problems, [start] * len(problems))
    return fit, value


def best(
    train: Split, validation: Split, task: Task, problems: Sequence[Problem], starts: Sequence[Fit] | None = None
) -> tuple[float, Fit, float]:
    """Return penalty, fit and score of the problem that scores best on validation; ties go to the strongest penalty."""
    tol = SEARCH_TOL if starts is None else FINAL_TOL
    fits, scores = fit_and_score(train, validation, task, problems, starts, tol)
    at = max(range(len(problems)), key=lambda i: (scores[i], problems[i].alpha))
    return problems[at].alpha, fits[at], scores[at]


def path(train: Split, validation: Split, task: Task, sizes: Sequence[int]) -> tuple[list[Fit], list[tuple[int, float]]]:
    """Fit a probe on the first columns for each (ascending) size, with the best penalty of the largest."""
    alpha, widest, value = best(train, validation, task, [Problem(sizes[-1], alpha) for alpha in ALPHAS])
    if len(sizes) == 1:
        return [widest], [(sizes[-1], value)]
    fits, scores = fit_and_score(train, validation, task, [Problem(size, alpha) for size in sizes[:-1]])
    return [*fits, widest], list(zip(sizes, [*scores, value], strict=True))


def sizes_to(most: int) -> list[int]:
    """Return sizes from 1 to `most`, about a quarter apart, ascending."""
    sizes, size = [], float(most)
    while round(size) >= 1:
        sizes.append(round(size))
        size *= STEP
    return sorted(set(sizes))


def smallest(sizes: Sequence[int], scores: Sequence[float], target: float) -> int | None:
    """Return the index of the smallest size that reaches the target, also on the smoothed path; None if none does.

    The first size above a target on a finite validation split is too often there by chance. More neurons help on average,
    so the scores are smoothed by isotonic regression, and both must reach the target.
    """
    order = np.argsort(sizes)
    smooth = np.empty(len(sizes))
    smooth[order] = IsotonicRegression().fit_transform(np.array(sizes, dtype=np.float64)[order], np.array(scores)[order])
    return next((int(i) for i in order if scores[i] >= target and smooth[i] >= target), None)
