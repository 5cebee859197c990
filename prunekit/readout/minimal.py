"""The readout search of prunekit: layer selector, clusters, backward elimination in closed form, smallest sufficient size.

It follows the pipeline of Dalvi et al. (2020, section 7) with other methods: standardised neurons, probes fitted to their
optimum with a penalty chosen on validation, an order from backward elimination (which evaluates neurons jointly) instead of
from weights, clusters only on request and then with medoids as representatives, and a target that bounds the total loss
against the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.probes.elastic_net import Fit, Problem
from prunekit.probes.elimination import RIDGE, elimination_order
from prunekit.probes.selection import ALPHAS, Split, best, fit_and_score, path, refit, sizes_to, smallest
from prunekit.readout.choice import Ids, ReadoutChoice, ReadoutScores, Request
from prunekit.readout.progress import StageTimer
from prunekit.stats.collected import Collected
from prunekit.tasks import Task


def search(request: Request) -> ReadoutChoice:
    """Select a readout; see the module."""
    stages = StageTimer(request.progress)
    task, hidden, width = request.task, request.hidden, request.width
    train = Split(request.train.rows, request.train.labels, request.train.moments)
    validation = Split(request.validation.rows, request.validation.labels, request.validation.moments)

    sample = train.sample(request.seed)
    with stages("oracle"):
        alpha, oracle, reference = best(sample, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
    with stages("layers"):
        _, scores = fit_and_score(sample, validation, task, [Problem((i + 1) * hidden, alpha) for i in range(request.layers)])
        layers = (*scores, reference)
        floor = request.below(reference, request.layer_delta)
        # The first layer above the floor may be there by chance, so the smoothed scores must reach it, too.
        sufficient = smallest(range(len(layers)), layers, floor)
        layer = request.layers if sufficient is None else sufficient
        # [CLS] of the embedding output is a constant: a readout needs a layer with a non-constant neuron.
        layer = max(layer, int(request.varying[0]) // hidden)
        # The layers were compared on the sample; the oracle that is returned is fitted on all rows.
        oracle, oracle_score = refit(train, validation, task, (alpha, 0.3 * alpha), oracle)
    target = request.below(oracle_score, 1 - (1 - request.layer_delta) * (1 - request.neuron_delta))
    # All neurons up to the selected layer suffice; as few as the budget allows may not. Then only more depth can help.
    candidates = [_search_layers(request, sample, validation, layer, target, stages)]
    while not candidates[-1].met and candidates[-1].layer < request.layers:
        candidates.append(_search_layers(request, sample, validation, candidates[-1].layer + 1, target, stages))
    winner = candidates[-1] if candidates[-1].met else max(candidates, key=lambda candidate: (candidate.score, -candidate.layer))
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
class _Candidate:
    """The best readout of the layers up to one; `ids` are in the order of the probe's columns."""

    layer: int
    clusters: int
    ids: Ids
    fit: Fit
    trace: list[tuple[int, float]]
    score: float
    met: bool


def _search_layers(request: Request, sample: Split, validation: Split, layer: int, target: float, stages: StageTimer) -> _Candidate:
    """Cluster, rank and size the neurons of layers 0..layer."""
    with stages("clusters"):
        ids = request.varying[request.varying < (layer + 1) * request.hidden]
        if request.threshold is not None:
            ids = ids[CorrelationClusters.from_moments(sample.moments.take(ids), request.threshold).representatives_]
        representatives = len(ids)
    with stages("ranking"):
        labels = request.width + np.arange(request.task.outputs)
        order = elimination_order(sample.moments.take(np.concatenate([ids, labels])), len(ids))
        ids = ids[order[: min(request.keep, len(ids))]]
    with stages("sizes"):
        sizes = sizes_to(len(ids))
        fits, trace = path(sample.columns(ids), validation.columns(ids), request.task, sizes)
        index = smallest(sizes, [value for _, value in trace], target)
        met = index is not None
        index = len(sizes) - 1 if index is None else index
    return _Candidate(layer, representatives, ids[: sizes[index]], fits[index], trace, trace[index][1], met)


def best_on(train: Collected, validation: Collected, ids: Ids, task: Task) -> tuple[Fit, float]:
    """Return the best probe on given neurons, and its validation score."""
    with train.rows.columns(ids) as rows, validation.rows.columns(ids) as held_out_rows:
        moments = train.moments.take(np.concatenate([ids, train.rows.width + np.arange(task.outputs)]))
        problems = [Problem(len(ids), alpha) for alpha in ALPHAS]
        train_split, validation_split = Split(rows, train.labels, moments), Split(held_out_rows, validation.labels, moments)
        alpha, start, _ = best(train_split, validation_split, task, problems)
        fit, value = refit(train_split, validation_split, task, (alpha, 0.3 * alpha), start)
    return fit, value
