"""Layer-wise probes (Dalvi et al. 2020, section 6.1): on each layer alone and on layers 0..i."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.errors import ParameterError, StatisticsError
from prunekit.probes.elastic_net import Problem
from prunekit.probes.selection import ALPHAS, Split, best, fit_and_score
from prunekit.stats.collected import BothLabels
from prunekit.tasks import Task


@dataclass(frozen=True)
class LayerScores:
    """Validation scores of the probes, layer by layer, from the embedding output up.

    Attributes
    ----------
    alone : tuple of float
        Score of the probe on one layer; for a constant layer, `chance`.
    upto : tuple of float
        Score of the probe on layers 0..i; the last is the oracle.
    chance : float
        Score without any neuron: of the largest class, or of the mean.
    control : tuple of float or None
        Score of the probe on one layer, trained and scored on the control task.
    """

    alone: tuple[float, ...]
    upto: tuple[float, ...]
    chance: float
    control: tuple[float, ...] | None = None

    @property
    def oracle(self) -> float:
        """Score of the probe on all layers."""
        return self.upto[-1]

    @property
    def selectivity(self) -> tuple[float, ...] | None:
        """Score less the score on the control task (Hewitt and Liang 2019), layer by layer."""
        return None if self.control is None else tuple(a - b for a, b in zip(self.alone, self.control, strict=True))

    def minimal(self, delta: float) -> int:
        """Return the lowest layer i whose probe on layers 0..i scores above (1 - delta) of the oracle; the last, if none does.

        The comparison is strict and relative, as in the paper; for a negative oracle, lower is worse too.
        """
        if not 0 <= delta < 1:
            raise ParameterError("delta", "LayerScores.minimal", "in [0, 1)", delta)
        floor = self.oracle - delta * abs(self.oracle)
        return next((i for i, value in enumerate(self.upto) if value > floor), len(self.upto) - 1)


def layer_scores(train: Split, validation: Split, task: Task, hidden: int, *, control: BothLabels | None = None) -> LayerScores:
    """Probe each layer alone and together with those below it.

    Parameters
    ----------
    train, validation : Split
        (n, (L + 1) * hidden) neurons. Probes are fitted on train; penalties are chosen, and scores taken, on validation.
    task : Task
    hidden : int
        Width of a layer.
    control : (labels of train, labels of validation), optional
        The control task; see `prunekit.probes.control`.

    Raises
    ------
    StatisticsError
        Only one class, or rows whose width is not a multiple of `hidden`.
    """
    width = train.rows.width
    if hidden < 1 or width % hidden:
        raise StatisticsError(f"{width} neurons are no whole number of layers of {hidden}.")
    outputs = task.outputs
    if not train.moments.varies[width:].any():
        raise StatisticsError("All training labels are equal: there is nothing to probe for.")
    layers = [np.arange(start, start + hidden) for start in range(0, width, hidden)]
    non_constant = train.moments.non_constant(width)
    chance = _chance(train, validation, task)
    alone, controls = [], []
    for ids in layers:
        if not non_constant[ids].any():
            alone.append(chance)
            controls.append(chance)
            continue
        train_layer, held_out_layer = train.columns(ids), validation.columns(ids)
        problems = [Problem(hidden, alpha) for alpha in ALPHAS]
        alone.append(best(train_layer, held_out_layer, task, problems)[2])
        if control is not None:
            control_splits = Split.of(train_layer.rows, control[0], outputs), Split(held_out_layer.rows, control[1], held_out_layer.moments)
            controls.append(best(*control_splits, task, problems)[2])
    alpha, _, oracle = best(train, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
    # A prefix of constant layers cannot be probed.
    prefixes = [(i + 1) * hidden for i in range(len(layers) - 1)]
    usable = [size for size in prefixes if non_constant[:size].any()]
    _, scores = fit_and_score(train, validation, task, [Problem(size, alpha) for size in usable]) if usable else ([], [])
    upto = (*([chance] * (len(prefixes) - len(usable))), *scores, oracle)
    return LayerScores(tuple(alone), upto, chance, None if control is None else tuple(controls))


def _chance(train: Split, validation: Split, task: Task) -> float:
    if task.metric.of_values:
        return 0.0
    decisions = np.tile(train.moments.mean[train.rows.width :], (len(validation.labels), 1))
    return task.score(task.tuned(decisions, validation.labels), validation.labels)
