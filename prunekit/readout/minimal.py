"""The readout search of prunekit: layer selector, clusters, backward elimination in closed form, smallest size that holds.

It follows the pipeline of Dalvi et al. (2020, section 7) with other means: standardised neurons, probes fitted to their
optimum with a penalty chosen on validation, an order from backward elimination (which sees what neurons say together)
instead of from weights, clusters only when asked for and then with medoids as representatives, and a target that bounds the
total loss against the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.probes.elastic_net import Fit, Problem
from prunekit.probes.elimination import RIDGE, elimination_order
from prunekit.probes.selection import ALPHAS, Split, best, fit_and_score, path, refit, sizes_to, smallest
from prunekit.readout.choice import Ids, ReadoutChoice, ReadoutScores, Request
from prunekit.readout.progress import Stages
from prunekit.stats.collected import Collected
from prunekit.tasks import Task


def search(request: Request) -> ReadoutChoice:
    """Select a readout; see the module."""
    stages = Stages(request.progress)
    task, hidden, width = request.task, request.hidden, request.width
    train = Split(request.train.rows, request.train.labels, request.train.moments)
    validation = Split(request.validation.rows, request.validation.labels, request.validation.moments)

    few = train.sample(request.seed)
    with stages("oracle"):
        alpha, oracle, reference = best(few, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
    with stages("layers"):
        _, scores = fit_and_score(few, validation, task, [Problem((i + 1) * hidden, alpha) for i in range(request.layers)])
        layers = (*scores, reference)
        floor = request.below(reference, request.layer_delta)
        # The first layer above the floor may be there by luck, so the smoothed scores must reach it, too.
        enough = smallest(range(len(layers)), layers, floor)
        layer = request.layers if enough is None else enough
        # [CLS] of the embedding output is a constant: a readout needs a layer with a neuron that says something.
        layer = max(layer, int(request.varying[0]) // hidden)
        # The layers were compared on the same rows; the oracle that is returned has seen them all.
        oracle, oracle_score = refit(train, validation, task, (alpha, 0.3 * alpha), oracle)
    target = request.below(oracle_score, 1 - (1 - request.layer_delta) * (1 - request.neuron_delta))
    # All neurons up to the layer chosen would do; as few as the budget allows may not. Then more depth is the only cure.
    found = [_within(request, few, validation, layer, target, stages)]
    while not found[-1].met and found[-1].layer < request.layers:
        found.append(_within(request, few, validation, found[-1].layer + 1, target, stages))
    winner = found[-1] if found[-1].met else max(found, key=lambda each: (each.score, -each.layer))
    with stages("sizes"):
        chosen, reached = refit(train.columns(winner.ids), validation.columns(winner.ids), task, ALPHAS, winner.fit)
    neurons, coef = request.placed(winner.ids, chosen.coef)
    return ReadoutChoice(
        method="prunekit",
        neurons=neurons,
        coef=coef,
        intercept=chosen.intercept,
        oracle_coef=oracle.coef,
        oracle_intercept=oracle.intercept,
        scores=ReadoutScores(oracle_score, layers, None, reached),
        layer=winner.layer,
        candidates=(winner.layer + 1) * request.hidden,
        clusters=winner.clusters,
        trace=tuple(winner.trace),
        target=target,
        target_met=reached >= target,
        parameters={"alphas": list(ALPHAS), "alpha": alpha, "ridge": RIDGE},
        seconds=dict(stages.seconds),
        hidden=request.hidden,
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
        sizes = sizes_to(len(ids))
        fits, trace = path(few.columns(ids), validation.columns(ids), request.task, sizes)
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
        alpha, start, _ = best(split, other, task, problems)
        fit, value = refit(split, other, task, (alpha, 0.3 * alpha), start)
    return fit, value
