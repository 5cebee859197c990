"""The readout search of prunekit: layer selector, clusters, backward elimination in closed form, smallest size that holds.

It follows the pipeline of Dalvi et al. (2020, section 7) with other means: standardised neurons, probes fitted to their
optimum with a penalty chosen on validation, medoids instead of random representatives, an order from backward elimination
(which sees what neurons say together) instead of from weights, and a target that bounds the total loss against the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.analyzers.elimination import eliminate
from prunekit.analyzers.objective import decisions
from prunekit.analyzers.probe import Fit, Problem, fit_probes
from prunekit.analyzers.scores import score
from prunekit.select.choice import Ids, ReadoutChoice, ReadoutScores, Request
from prunekit.select.stages import Stages
from prunekit.stats.collect import Collected
from prunekit.stats.moments import Moments
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Penalties tried for the oracle; the ends are far from the best on all data seen."""
SMALL_ALPHAS = (1e-4, 1e-3, 1e-2)
"""Penalties tried for the slim probes: few neurons need less."""
RIDGE = 0.1
"""Ridge of the elimination, on correlations."""
STEP = 2 ** (-1 / 3)
"""Ratio of one size to the next larger one."""
SEARCH_ROWS = 50_000
"""Most rows that layers, penalties and sizes are compared on; what is returned is fitted on all rows."""


@dataclass(frozen=True, eq=False)
class Split:
    """Columns of a split that can be probed: rows, labels and moments over [neurons | labels]."""

    rows: RowStore
    labels: NDArray[Any]
    moments: Moments

    def columns(self, ids: Ids) -> Split:
        """Some of the neurons."""
        outputs = self.moments.width - self.rows.width
        return Split(self.rows.columns(ids), self.labels, self.moments.take(np.concatenate([ids, self.rows.width + np.arange(outputs)])))

    def sample(self, seed: int) -> Split:
        """At most SEARCH_ROWS of the rows, drawn at random; the moments stay those of all rows."""
        if len(self.rows) <= SEARCH_ROWS:
            return self
        picked = np.sort(np.random.default_rng(seed).choice(len(self.rows), SEARCH_ROWS, replace=False))
        return Split(self.rows.take(picked), self.labels[picked], self.moments)


def search(request: Request) -> ReadoutChoice:
    """Select a readout; see the module."""
    stages = Stages(request.progress)
    task, hidden, width = request.task, request.hidden, request.width
    train = Split(request.train.rows, request.train.labels, request.train.moments)
    validation = Split(request.validation.rows, request.validation.labels, request.validation.moments)

    few = train.sample(request.seed)
    with stages("oracle"):
        alpha, oracle, oracle_score = _best(few, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
    with stages("layers"):
        _, scores = _fit(few, validation, task, [Problem((i + 1) * hidden, alpha) for i in range(request.layers)])
        layers = (*scores, oracle_score)
        floor = request.below(oracle_score, request.layer_delta)
        layer = next((i for i, value in enumerate(layers) if value > floor), request.layers)
        # The layers were compared on the same rows; the oracle that is returned has seen them all.
        oracle, oracle_score = _refit(train, few, validation, task, (alpha, 0.3 * alpha), oracle, oracle_score)
    with stages("clusters"):
        pool = request.varying[request.varying < (layer + 1) * hidden]
        clusters = CorrelationClusters.from_moments(train.moments.take(pool), request.threshold)
        ids = pool[clusters.representatives_]
    with stages("ranking"):
        order = elimination_order(train.moments.take(np.concatenate([ids, width + np.arange(task.outputs)])), len(ids))
        ids = ids[order[: min(request.keep, len(ids))]]
    with stages("sizes"):
        train, few, validation = train.columns(ids), few.columns(ids), validation.columns(ids)
        sizes = _sizes(len(ids))
        target = request.below(oracle_score, 1 - (1 - request.layer_delta) * (1 - request.neuron_delta))
        slim, trace = _path(few, validation, task, sizes)
        at = smallest(sizes, [value for _, value in trace], target)
        if at is None:
            at = max(range(len(sizes)), key=lambda i: (trace[i][1], sizes[i]))
        chosen, reached = _refit(train.columns(np.arange(sizes[at])), few, validation, task, SMALL_ALPHAS, slim[at], trace[at][1])
    return request.choice(
        "prunekit",
        ids[: sizes[at]],
        (chosen.coef, chosen.intercept),
        (oracle.coef, oracle.intercept),
        scores=ReadoutScores(oracle_score, layers, None, reached),
        layer=layer,
        clusters=len(clusters.representatives_),
        trace=trace,
        target=target,
        target_met=reached >= target,
        parameters={"alphas": list(ALPHAS), "small_alphas": list(SMALL_ALPHAS), "alpha": alpha, "ridge": RIDGE},
        seconds=stages.seconds,
    )


def best_on(train: Collected, validation: Collected, ids: Ids, task: Task) -> tuple[Fit, float]:
    """The best probe on given neurons, and its validation score."""
    with train.rows.columns(ids) as rows, validation.rows.columns(ids) as held:
        moments = train.moments.take(np.concatenate([ids, train.rows.width + np.arange(task.outputs)]))
        problems = [Problem(len(ids), alpha) for alpha in ALPHAS]
        _, fit, value = _best(Split(rows, train.labels, moments), Split(held, validation.labels, moments), task, problems)
    return fit, value


def elimination_order(moments: Moments, width: int) -> Ids:
    """Order of standardised neurons by backward elimination for ridge regression on the label columns, best first."""
    deviation = np.sqrt(moments.variance[:width])
    gram = moments.comoment[:width, :width] / (moments.count * deviation[:, None] * deviation)
    gram[np.diag_indices(width)] += RIDGE
    linear = moments.comoment[:width, width:] / (moments.count * deviation[:, None])
    return eliminate([gram], np.linalg.solve(gram, linear))


def smallest(sizes: list[int], scores: list[float], target: float) -> int | None:
    """Index of the smallest size that reaches the target, and on the smoothed path reaches it, too; None if none does.

    The first size above a target on a finite validation split is too often there by luck. More neurons help on average, so
    the scores are smoothed by isotonic regression, and both must hold.
    """
    order = np.argsort(sizes)
    smooth = np.empty(len(sizes))
    smooth[order] = IsotonicRegression().fit_transform(np.array(sizes, dtype=np.float64)[order], np.array(scores)[order])
    return next((int(i) for i in order if scores[i] >= target and smooth[i] >= target), None)


def _sizes(most: int) -> list[int]:
    sizes, size = [], float(most)
    while round(size) >= 1:
        sizes.append(round(size))
        size *= STEP
    return sorted(set(sizes))


def _fit(
    train: Split, validation: Split, task: Task, problems: Sequence[Problem], starts: Sequence[Fit] | None = None
) -> tuple[list[Fit], list[float]]:
    fits = fit_probes(train.rows, train.labels, train.moments, problems, task.outputs, starts=starts)
    found = decisions(validation.rows, [(fit.coef, fit.intercept) for fit in fits])
    return fits, [score(task.metric, validation.labels, values) for values in found]


def _refit(train: Split, few: Split, validation: Split, task: Task, alphas: Sequence[float], start: Fit, value: float) -> tuple[Fit, float]:
    """Continue a fit on the few rows with all of them; more rows may need less penalty."""
    if train.rows is few.rows or len(train.rows) == len(few.rows):
        return start, value
    problems = [Problem(start.coef.shape[1], alpha) for alpha in alphas]
    _, fit, value = _best(train, validation, task, problems, [start] * len(problems))
    return fit, value


def _best(
    train: Split, validation: Split, task: Task, problems: Sequence[Problem], starts: Sequence[Fit] | None = None
) -> tuple[float, Fit, float]:
    """The problem that scores best on validation; of equals, the one with the strongest penalty."""
    fits, scores = _fit(train, validation, task, problems, starts)
    at = max(range(len(problems)), key=lambda i: (scores[i], problems[i].alpha))
    return problems[at].alpha, fits[at], scores[at]


def _path(train: Split, validation: Split, task: Task, sizes: list[int]) -> tuple[list[Fit], list[tuple[int, float]]]:
    problems = [Problem(size, alpha) for size in sizes for alpha in SMALL_ALPHAS]
    fits, scores = _fit(train, validation, task, problems)
    best = [max(range(i, i + len(SMALL_ALPHAS)), key=lambda j: (scores[j], j)) for i in range(0, len(problems), len(SMALL_ALPHAS))]
    return [fits[j] for j in best], [(size, scores[j]) for size, j in zip(sizes, best, strict=True)]
