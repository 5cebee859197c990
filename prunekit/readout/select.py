"""Selection of the readout: the neurons that the classifier reads, and the classifier."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np

from prunekit.errors import ParameterError, StatisticsError
from prunekit.readout import dalvi2020, minimal
from prunekit.readout.choice import Floats, Ids, Progress, ReadoutChoice, ReadoutScores, Request
from prunekit.stats.collected import Collected
from prunekit.tasks import Task

Method = Literal["prunekit", "dalvi2020"]

__all__ = ["Method", "Progress", "ReadoutChoice", "ReadoutScores", "fit_readout", "select_readout"]


def select_readout(
    train: Collected,
    validation: Collected,
    *,
    task: Task,
    layers: int,
    hidden: int,
    keep: int,
    method: Method = "prunekit",
    layer_delta: float = 0.01,
    neuron_delta: float = 0.01,
    threshold: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ReadoutChoice:
    """Choose the fewest neurons that serve the task about as well as all of them, and fit the classifier that reads them.

    Parameters
    ----------
    train, validation : Collected
        Probes are fitted on train; every choice is made on validation.
    task : Task
    layers, hidden : int
        Blocks L and width H of the model: the rows have (L + 1) * H neurons.
    keep : int
        Largest number of neurons that may be read.
    method : {"prunekit", "dalvi2020"}
        The search of this package, or that of Dalvi et al. (2020), reproduced.
    layer_delta, neuron_delta : float
        Relative loss of the validation score allowed to the layer selector and to the neurons, in [0, 1).
    threshold : float, optional
        Distance 1 - |correlation| at which clusters are cut. By default 0.3 in dalvi2020, as in the paper, and no clusters
        in prunekit: its elimination accounts for redundancy itself, and does better on all neurons.
    seed : int
        Seed of what is random: much of dalvi2020; in prunekit only the sample of the rows, where there are very many.
    progress : callable, optional
        Called with (stage, stages done, stages in all).

    Returns
    -------
    ReadoutChoice
        `target_met` is False if no size within `keep` reaches the target; the largest one is used then.

    Raises
    ------
    ParameterError, StatisticsError
    """
    if method not in get_args(Method):
        raise ParameterError("method", "select_readout", f"one of {', '.join(get_args(Method))}", method)
    if keep < 1:
        raise ParameterError("keep", "select_readout", "at least 1 neuron", keep)
    for name, value in (("layer_delta", layer_delta), ("neuron_delta", neuron_delta)):
        if not 0 <= value < 1:
            raise ParameterError(name, "select_readout", "in [0, 1)", value)
    if threshold is None and method == "dalvi2020":
        threshold = 0.3
    if threshold is not None and not 0 <= threshold <= 1:
        raise ParameterError("threshold", "select_readout", "in [0, 1]", threshold)
    request = Request(
        train=train,
        validation=validation,
        task=task,
        layers=layers,
        hidden=hidden,
        keep=keep,
        layer_delta=layer_delta,
        neuron_delta=neuron_delta,
        threshold=threshold,
        seed=seed,
        progress=progress,
    )
    _check(request)
    selection = dalvi2020.search(request) if method == "dalvi2020" else minimal.search(request)
    common = {"keep": keep, "layer_delta": layer_delta, "neuron_delta": neuron_delta, "threshold": threshold, "seed": seed}
    return dataclasses.replace(selection, parameters={**common, **selection.parameters})


def fit_readout(train: Collected, validation: Collected, ids: Ids, *, task: Task) -> tuple[Floats, Floats, float]:
    """Fit the classifier on given neurons (those of a baseline, for example), with the penalty chosen on validation.

    Parameters
    ----------
    ids : (k,) int64
        Flat neuron ids.

    Returns
    -------
    coef (outputs, k), intercept (outputs,), validation score
    """
    picked = np.asarray(ids, dtype=np.int64)
    fit, value = minimal.best_on(train, validation, picked, task)
    return fit.coef, fit.intercept, value


def _check(request: Request) -> None:
    for name, split in (("train", request.train), ("validation", request.validation)):
        if split.rows.width != request.width:
            raise StatisticsError(
                f"A model of {request.layers} blocks of width {request.hidden} has {request.width} neurons. "
                f"The rows of {name} have {split.rows.width} instead."
            )
        if not len(split.rows):
            raise StatisticsError(f"The {name} split has no rows.")
    outputs = request.task.outputs
    if request.train.moments.width != request.width + outputs:
        raise StatisticsError(f"The task has {outputs} outputs. The moments have {request.train.moments.width - request.width} instead.")
    if not request.train.moments.varies[request.width :].any():
        raise StatisticsError("All training labels are equal: there is nothing to select neurons for.")
    if not len(request.varying):
        raise StatisticsError("No neuron varies over the training rows: there is nothing to select.")
