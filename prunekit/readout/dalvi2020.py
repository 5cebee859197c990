"""Efficient transfer learning of Dalvi et al. (2020, section 7): layer selector, correlation clusters, neuron ranking.

It follows the released code: probes by Adam on raw neurons, one random representative a cluster, the first size of a coarse
grid whose retrained probe beats the target on the development split.
"""

from __future__ import annotations

import numpy as np

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.errors import StatisticsError
from prunekit.probes.dalvi_probe import DalviProbe
from prunekit.probes.objective import decision, decisions
from prunekit.probes.rankings import ranking
from prunekit.readout.choice import Floats, Ids, ReadoutChoice, ReadoutScores, Request
from prunekit.readout.progress import StageTimer

PERCENTS = (*(i / 10 for i in range(1, 6)), *range(1, 11), *range(15, 51, 5), *range(60, 91, 10))
"""Sizes tried, in percent of all neurons of the model."""
STEPS = 1000


def search(request: Request) -> ReadoutChoice:
    """Select a readout; see the module."""
    assert request.threshold is not None
    stages = StageTimer(request.progress)
    probe = DalviProbe(request.task.outputs, seed=request.seed)
    train, validation = request.train, request.validation

    # The oracle is the last of the prefixes: one training serves both.
    with stages("oracle"):
        widths = [(i + 1) * request.hidden for i in range(request.layers + 1)]
        prefixes = probe.fit(train.rows, train.labels, widths)
        layers = [request.task.score(values, validation.labels) for values in decisions(validation.rows, prefixes)]
    with stages("layers"):
        floor = request.below(layers[-1], request.layer_delta)
        layer = next((i for i, value in enumerate(layers) if value > floor), request.layers)
        # [CLS] of the embedding output is a constant: a readout needs a layer with a neuron that is none.
        layer = max(layer, int(request.varying[0]) // request.hidden)
    with stages("clusters"):
        moments = train.moments.take(np.arange((layer + 1) * request.hidden))
        clusters = CorrelationClusters.from_moments(moments, request.threshold, "random", request.seed)
        kept = clusters.representatives_
        with train.rows.columns(kept) as rows:
            [(coef, intercept)] = probe.fit(rows, train.labels)
        base = _score(request, kept, coef, intercept)
    with stages("ranking"):
        # A constant neuron acts as a bias; here it is excluded from the neurons.
        order = ranking(coef, steps=STEPS)
        order = kept[order[np.isin(kept[order], request.varying)]]
        if not len(order):
            raise StatisticsError("Every neuron that stands for a cluster is constant on the rows of train: lower the threshold.")
    with stages("sizes"):
        target = request.below(base, request.neuron_delta)
        sizes = grid(request.width, min(len(order), request.keep))
        trace: list[tuple[int, float]] = []
        for size in sizes:
            with train.rows.columns(order[:size]) as rows:
                [(coef, intercept)] = probe.fit(rows, train.labels)
            trace.append((size, _score(request, order[:size], coef, intercept)))
            if trace[-1][1] > target:
                break
    neurons, coef = request.placed(order[: trace[-1][0]], coef)
    oracle_coef, oracle_intercept = prefixes[-1]
    return ReadoutChoice(
        method="dalvi2020",
        neurons=neurons,
        coef=coef,
        intercept=intercept,
        oracle_coef=oracle_coef,
        oracle_intercept=oracle_intercept,
        scores=ReadoutScores(layers[-1], tuple(layers), base, trace[-1][1]),
        layer=layer,
        candidates=(layer + 1) * request.hidden,
        clusters=len(kept),
        trace=tuple(trace),
        target=target,
        target_met=trace[-1][1] > target,
        parameters={"l1": probe.l1, "l2": probe.l2, "lr": probe.lr, "epochs": probe.epochs, "batch": probe.batch, "steps": STEPS},
        seconds=dict(stages.seconds),
        hidden=request.hidden,
    )


def grid(width: int, most: int) -> list[int]:
    """Return the sizes of the paper's coarse grid for a model of `width` neurons, up to `most`; `most` itself if all are larger."""
    sizes = sorted({max(1, int(percent * width / 100)) for percent in PERCENTS})
    return [size for size in sizes if size <= most] or [most]


def _score(request: Request, ids: Ids, coef: Floats, intercept: Floats) -> float:
    validation = request.validation
    with validation.rows.columns(ids) as rows:
        return request.task.score(decision(rows, coef, intercept), validation.labels)
