"""The path of the group lasso on label columns, from second moments alone: the order in which neurons enter it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from prunekit.errors import ParameterError, StatisticsError
from prunekit.probes.solver import accelerated
from prunekit.stats.moments import Moments

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
# Sizes of one name are equal in a call: m neurons, k outputs.
Columns = Float64[Floats, "m k"]

_STEPS = 2000
_TOL = 1e-5


def lasso_path(moments: Moments, outputs: int, *, points: int = 60, smallest: float = 1e-2, most: int = 1000) -> Int64[Ids, " m"]:
    """Order neurons by when they enter the lasso path, earliest first.

    The problem at a penalty is least squares of the label columns on standardised neurons, with the sum over the neurons of
    the norm of their weights (over the outputs) as penalty (Yuan and Lin 2006); for one output it is the lasso. Penalties
    fall geometrically from the one at which the first neuron enters; neurons that enter together are ordered by their
    weight there, and those that never enter by how close they came.

    Parameters
    ----------
    moments : Moments
        Over [D neurons | label columns].
    outputs : int
        Number of label columns.
    points : int
        Number of penalties on the path.
    smallest : float
        Last penalty, as a share of the first.
    most : int
        Number of neurons at which the path ends.

    Returns
    -------
    (m,) int64
        The non-constant neurons.

    Raises
    ------
    StatisticsError
        No neuron is correlated with the labels.
    """
    if points < 2 or not 0 < smallest < 1:
        raise ParameterError("points", "lasso_path", "at least 2, with 0 < smallest < 1", (points, smallest))
    width = moments.width - outputs
    ids = np.flatnonzero(moments.non_constant(width))
    varies = moments.varies[width:]
    if not len(ids) or not varies.any():
        raise StatisticsError("There is nothing to rank: no neuron varies, or all labels are equal.")
    scale = 1.0 / np.sqrt(moments.comoment.diagonal()[ids])
    gram = moments.comoment[np.ix_(ids, ids)] * scale * scale[:, None]
    labels = moments.comoment[ids, width:] * (scale[:, None] / np.sqrt(moments.count))
    slope = np.linalg.norm(labels, axis=1)
    first = float(slope.max())
    if first <= 1e-12:
        raise StatisticsError("No neuron is correlated with the labels: there is no path to follow.")
    entry = np.full(len(ids), np.inf)
    weight = np.zeros(len(ids))
    active = np.empty(0, dtype=np.int64)
    solution = np.zeros((0, labels.shape[1]))
    previous = first
    for step, penalty in enumerate(first * smallest ** (np.arange(1, points) / (points - 1))):
        # The sequential strong rule (Tibshirani et al. 2012) guesses who may enter; the optimality conditions correct it.
        guess = np.union1d(active, np.flatnonzero(slope >= 2 * penalty - previous))
        while True:
            start = np.zeros((len(guess), labels.shape[1]))
            start[np.searchsorted(guess, active)] = solution
            solution = _solve(gram[np.ix_(guess, guess)], labels[guess], float(penalty), start)
            active = guess
            slope = np.linalg.norm(labels - gram[:, guess] @ solution, axis=1)
            missed = np.setdiff1d(np.flatnonzero(slope > penalty * (1 + 10 * _TOL) + 1e-12), guess)
            if not len(missed):
                break
            guess = np.union1d(guess, missed)
        norms = np.linalg.norm(solution, axis=1)
        entering = active[(norms > 0) & np.isinf(entry[active])]
        entry[entering] = step
        weight[entering] = norms[np.searchsorted(active, entering)]
        inside = norms > 0
        active, solution, previous = active[inside], solution[inside], float(penalty)
        if np.isfinite(entry).sum() >= min(most, len(ids)):
            break
    outside = np.isinf(entry)
    weight[outside] = slope[outside]
    return np.asarray(ids[np.lexsort((np.arange(len(ids)), -weight, entry))])


def _solve(gram: Float64[Floats, "m m"], labels: Columns, penalty: float, start: Columns) -> Columns:
    """Minimise tr(W'GW) / 2 - <labels, W> + penalty * sum of row norms, by accelerated proximal gradient with restarts."""
    if not len(gram):
        return start
    step = 1.0 / float(np.abs(gram).sum(axis=1).max()) if len(gram) > 2000 else 1.0 / (float(np.linalg.eigvalsh(gram)[-1]) * (1 + 1e-9))
    x, ahead, momentum = start, start, 1.0
    for _ in range(_STEPS):
        moved = ahead - step * (gram @ ahead - labels)
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        new = moved * np.maximum(1.0 - penalty * step / np.maximum(norms, np.finfo(float).tiny), 0.0)
        move = new - ahead
        if float(np.abs(move).max()) <= _TOL * step * penalty:
            return np.asarray(new)
        ahead, momentum = accelerated(x, ahead, new, momentum)
        x = new
    return x
