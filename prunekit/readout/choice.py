"""Inputs and result of a readout selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.stats.collected import Collected
from prunekit.tasks import Task

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with (stage, stages done, stages in all)."""

STAGES = ("oracle", "layers", "clusters", "ranking", "sizes")


@dataclass(frozen=True)
class ReadoutScores:
    """Scores on the validation split.

    Attributes
    ----------
    oracle : float
        Score of the probe on all neurons.
    layers : tuple of float
        Scores of the probe on layers 0..i, for each i.
    base : float or None
        Score of the probe on the clusters' representatives; None where the method does not use it.
    chosen : float
        Score of the probe on the selected neurons.
    """

    oracle: float
    layers: tuple[float, ...]
    base: float | None
    chosen: float


@dataclass(frozen=True, eq=False)
class ReadoutChoice:
    """The neurons that the classifier reads, the classifier, and a record of the selection.

    Attributes
    ----------
    method : str
    neurons : {layer: dimensions}
        Layers and dimensions ascending; only layers that are read.
    coef : (outputs, k) float64
        Columns in the order of `ids`: by layer, then by dimension. Reads raw (not standardised) neurons.
    intercept : (outputs,) float64
    oracle_coef, oracle_intercept : (outputs, D), (outputs,) float64
    scores : ReadoutScores
    layer : int
        Layer from the layer selector; nothing above it is read.
    candidates, clusters : int
        Neurons up to that layer, and how many of them the clusters leave (all non-constant ones, if there are no clusters).
    trace : tuple of (int, float)
        Sizes tried and their scores.
    target : float
        Score that the sizes had to reach.
    target_met : bool
        Whether it was reached. If no size within the budget does, as much of the budget is used as the sizes allow.
    parameters : dict
        Parameters of the method; plain JSON.
    seconds : {stage: seconds}
    hidden : int
        Width of a layer, H.
    """

    method: str
    neurons: Mapping[int, tuple[int, ...]]
    coef: Floats
    intercept: Floats
    oracle_coef: Floats
    oracle_intercept: Floats
    scores: ReadoutScores
    layer: int
    candidates: int
    clusters: int
    trace: tuple[tuple[int, float], ...]
    target: float
    target_met: bool
    parameters: Mapping[str, Any]
    seconds: Mapping[str, float]
    hidden: int

    @property
    def ids(self) -> Ids:
        """Flat neuron ids, layer * H + dimension, ascending, (k,)."""
        return np.array([layer * self.hidden + dim for layer, dims in self.neurons.items() for dim in dims], dtype=np.int64)

    @property
    def size(self) -> int:
        """Number of neurons read, k."""
        return int(self.coef.shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """Inputs of a method; checked by `select_readout`."""

    train: Collected
    validation: Collected
    task: Task
    layers: int
    hidden: int
    keep: int
    layer_delta: float
    neuron_delta: float
    threshold: float | None
    seed: int
    progress: Progress | None

    @property
    def width(self) -> int:
        """Number of neurons, D."""
        return (self.layers + 1) * self.hidden

    @property
    def varying(self) -> Ids:
        """Flat ids of the non-constant neurons, which alone can be selected."""
        return np.flatnonzero(self.train.moments.non_constant(self.width))

    def below(self, score: float, delta: float) -> float:
        """Return the score lowered by a relative delta; for a negative score, too, lower is worse."""
        return score - delta * abs(score)

    def placed(self, ids: Ids, coef: Floats) -> tuple[dict[int, tuple[int, ...]], Floats]:
        """Return the neurons by layer, and the probe's columns in that order.

        Parameters
        ----------
        ids : (k,) int64
            Flat neuron ids, one for each column.
        coef : (outputs, k) float64

        Returns
        -------
        {layer: dimensions}, ascending, and (outputs, k) float64
        """
        order = np.argsort(ids)
        layers, dims = np.divmod(ids[order], self.hidden)
        return {int(layer): tuple(dims[layers == layer].tolist()) for layer in np.unique(layers)}, np.ascontiguousarray(coef[:, order])
