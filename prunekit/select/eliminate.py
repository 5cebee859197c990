"""The readout search of prunekit: layer selector, clusters, backward elimination in closed form, smallest size that holds.

It follows the pipeline of Dalvi et al. (2020, section 7) with other means: standardised neurons, probes fitted to their
optimum with a penalty chosen on validation, an order from backward elimination (which sees what neurons say together)
instead of from weights, clusters only when asked for and then with medoids as representatives, and a target that bounds the
total loss against the oracle.
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
"""Penalties tried for every probe; the ends are far from the best on all data seen."""
RIDGE = 0.1
"""Ridge of the elimination, on correlations."""
STEP = 2 ** (-1 / 3)
"""Ratio of one size to the next larger one."""
SEARCH_ROWS = 50_000
"""Most rows that layers, penalties and sizes are compared on; what is returned is fitted on all rows."""
SEARCH_TOL, FINAL_TOL = 1e-4, 1e-5
"""Accuracy of the fits that are compared and of those that are returned, in units of the loss."""


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
        alpha, oracle, reference = _best(few, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
    with stages("layers"):
        _, scores = _fit(few, validation, task, [Problem((i + 1) * hidden, alpha) for i in range(request.layers)])
        layers = (*scores, reference)
        floor = request.below(reference, request.layer_delta)
        layer = next((i for i, value in enumerate(layers) if value > floor), request.layers)
        # [CLS] of the embedding output is a constant: a readout needs a layer with a neuron that says something.
        layer = max(layer, int(request.varying[0]) // hidden)
        # The layers were compared on the same rows; the oracle that is returned has seen them all.
        oracle, oracle_score = _refit(train, validation, task, (alpha, 0.3 * alpha), oracle)
    target = request.below(oracle_score, 1 - (1 - request.layer_delta) * (1 - request.neuron_delta))
    # All neurons up to the layer chosen would do; as few as the budget allows may not. Then more depth is the only cure.
    found = [_within(request, few, validation, layer, target, stages)]
    while not found[-1].met and found[-1].layer < request.layers:
        found.append(_within(request, few, validation, found[-1].layer + 1, target, stages))
    best = found[-1] if found[-1].met else max(found, key=lambda each: (each.score, -each.layer))
    with stages("sizes"):
        chosen, reached = _refit(train.columns(best.ids), validation.columns(best.ids), task, ALPHAS, best.fit)
    return request.choice(
        "prunekit",
        best.ids,
        (chosen.coef, chosen.intercept),
        (oracle.coef, oracle.intercept),
        scores=ReadoutScores(oracle_score, layers, None, reached),
        layer=best.layer,
        clusters=best.clusters,
        trace=best.trace,
        target=target,
        target_met=reached >= target,
        parameters={"alphas": list(ALPHAS), "alpha": alpha, "ridge": RIDGE},
        seconds=stages.seconds,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """The best readout of the layers up to one; `ids` are in the order of the probe's columns."""

    layer: int
    clusters: int
    ids: Ids
    fit: Fit
    trace: list[tuple[int, float]]
    score: float
    met: bool


def _within(request: Request, few: Split, validation: Split, layer: int, target: float, stages: Stages) -> _Found:
    """Cluster, rank and size the neurons of layers 0..layer."""
    with stages("clusters"):
        ids = request.varying[request.varying < (layer + 1) * request.hidden]
        if request.threshold is not None:
            ids = ids[CorrelationClusters.from_moments(few.moments.take(ids), request.threshold).representatives_]
        left = len(ids)
    with stages("ranking"):
        labels = request.width + np.arange(request.task.outputs)
        order = elimination_order(few.moments.take(np.concatenate([ids, labels])), len(ids))
        ids = ids[order[: min(request.keep, len(ids))]]
    with stages("sizes"):
        sizes = _sizes(len(ids))
        fits, trace = _path(few.columns(ids), validation.columns(ids), request.task, sizes)
        at = smallest(sizes, [value for _, value in trace], target)
        met = at is not None
        at = len(sizes) - 1 if at is None else at
    return _Found(layer, left, ids[: sizes[at]], fits[at], trace, trace[at][1], met)


def best_on(train: Collected, validation: Collected, ids: Ids, task: Task) -> tuple[Fit, float]:
    """The best probe on given neurons, and its validation score."""
    with train.rows.columns(ids) as rows, validation.rows.columns(ids) as held:
        moments = train.moments.take(np.concatenate([ids, train.rows.width + np.arange(task.outputs)]))
        problems = [Problem(len(ids), alpha) for alpha in ALPHAS]
        split, other = Split(rows, train.labels, moments), Split(held, validation.labels, moments)
        alpha, start, _ = _best(split, other, task, problems)
        fit, value = _refit(split, other, task, (alpha, 0.3 * alpha), start)
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
    train: Split, validation: Split, task: Task, problems: Sequence[Problem], starts: Sequence[Fit] | None = None, tol: float = SEARCH_TOL
) -> tuple[list[Fit], list[float]]:
    fits = fit_probes(train.rows, train.labels, train.moments, problems, task.outputs, starts=starts, tol=tol)
    found = decisions(validation.rows, [(fit.coef, fit.intercept) for fit in fits])
    return fits, [score(task.metric, validation.labels, values) for values in found]


def _refit(train: Split, validation: Split, task: Task, alphas: Sequence[float], start: Fit) -> tuple[Fit, float]:
    """Continue a fit to its optimum on all rows; more rows may need less penalty."""
    problems = [Problem(start.coef.shape[1], alpha) for alpha in alphas]
    _, fit, value = _best(train, validation, task, problems, [start] * len(problems))
    return fit, value


def _best(
    train: Split, validation: Split, task: Task, problems: Sequence[Problem], starts: Sequence[Fit] | None = None
) -> tuple[float, Fit, float]:
    """The problem that scores best on validation; of equals, the one with the strongest penalty."""
    tol = SEARCH_TOL if starts is None else FINAL_TOL
    fits, scores = _fit(train, validation, task, problems, starts, tol)
    at = max(range(len(problems)), key=lambda i: (scores[i], problems[i].alpha))
    return problems[at].alpha, fits[at], scores[at]


def _path(train: Split, validation: Split, task: Task, sizes: list[int]) -> tuple[list[Fit], list[tuple[int, float]]]:
    """A probe for each size, with the penalty that suits the largest."""
    alpha, widest, value = _best(train, validation, task, [Problem(sizes[-1], alpha) for alpha in ALPHAS])
    if len(sizes) == 1:
        return [widest], [(sizes[-1], value)]
    fits, scores = _fit(train, validation, task, [Problem(size, alpha) for size in sizes[:-1]])
    return [*fits, widest], list(zip(sizes, [*scores, value], strict=True))
