"""The two baselines of every report: random neurons, and neurons of large weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.errors import ParameterError
from prunekit.readout.choice import ReadoutChoice
from prunekit.stats.collected import Collected

Ids = NDArray[np.int64]


def random_neurons(available: ArrayLike, count: int, *, seed: int = 0) -> Ids:
    """Return `count` of the available flat neuron ids, drawn without replacement, ascending."""
    pool = _pool(available, count, "random_neurons")
    return np.sort(np.random.default_rng(seed).choice(pool, count, replace=False))


def magnitude_neurons(weights: ArrayLike, available: ArrayLike, count: int) -> Ids:
    """Return the `count` available neurons with the largest weights, ascending.

    Magnitude is the Euclidean norm over the classes of the weights of a probe on raw (not standardised) activations, so it
    depends on the scale of the neuron. Ties go to the lower id.

    Parameters
    ----------
    weights : (K, D)
        Raw weights of a probe on all neurons.
    available : (m,)
        Flat ids that may be selected.
    """
    pool = _pool(available, count, "magnitude_neurons")
    norms = np.linalg.norm(np.atleast_2d(np.asarray(weights, dtype=np.float64)), axis=0)[pool]
    return np.sort(pool[np.argsort(-norms, kind="stable")[:count]])


def numbered(name: str, draw: int) -> str:
    """Return the name of one of several draws: the first has no number."""
    return name if draw == 0 else f"{name} {draw + 1}"


def first_of(name: str) -> str:
    """Return the name of the first of several draws."""
    return name.partition(" ")[0]


def _pool(available: ArrayLike, count: int, of: str) -> Ids:
    pool = np.unique(np.asarray(available, dtype=np.int64))
    if not 1 <= count <= len(pool):
        raise ParameterError("count", of, f"in 1..{len(pool)}, the neurons available", count)
    return pool


def baseline_neurons(choice: ReadoutChoice, train: Collected, *, seed: int, draws: int = 1) -> dict[str, Ids]:
    """Return random neurons and neurons of large oracle weight, as many as were selected, from all non-constant neurons.

    Draws after the first are named "random 2", ...
    """
    width = choice.oracle_coef.shape[1]
    available = np.flatnonzero(train.moments.non_constant(width))
    drawn = {numbered("random", draw): random_neurons(available, choice.size, seed=(draw << 32) + seed) for draw in range(draws)}
    return {
        **drawn,
        "magnitude": magnitude_neurons(choice.oracle_coef, available, choice.size),
    }
