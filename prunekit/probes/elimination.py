"""Backward elimination of neurons in closed form, from second moments alone (optimal brain surgeon on a quadratic loss).

For a quadratic loss with Hessian H and minimiser W, removing feature j and re-solving all others raises the loss by
sum_k W[j, k]^2 / (2 [H^-1]_jj) (Hassibi and Stork 1993). Removing the least costly feature again and again, with W and
H^-1 kept exact, is greedy backward elimination without ever refitting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from prunekit.errors import StatisticsError
from prunekit.stats.moments import Moments

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_CANDIDATES = 128
RIDGE = 0.1
"""Ridge of the elimination order, on correlations."""


def eliminate(hessians: Sequence[Floats], weights: Floats, keep: int = 1) -> Ids:
    """Order features by backward elimination: most important first.

    Parameters
    ----------
    hessians : sequence of (D, D) float64
        Positive definite Hessians. Either one for all outputs, or one for each output.
    weights : (D, K) float64
        Minimiser for each output.
    keep : int
        Stop when so many are left; those come first, in the order of their cost at that moment.

    Returns
    -------
    (D,) int64
        All features; for every N >= keep, the first N are the set that elimination leaves.

    Notes
    -----
    Features leave in blocks: the cheapest candidates are eliminated one after the other, exactly, on their own small part
    of the inverses, and what they do to all others is applied in one matrix product. A block ends before its next removal
    would cost more than the cheapest feature outside it.
    """
    inverses = [_invert(hessian) for hessian in hessians]
    solution = np.array(weights, dtype=np.float64)
    shared = len(inverses) == 1
    alive = np.arange(len(solution))
    removed: list[int] = []
    while len(alive) > keep:
        cost = _cost(inverses, solution, shared)
        count = min(len(alive), max(2, min(_CANDIDATES, len(alive) // 8)))
        candidates = np.argpartition(cost, count - 1)[:count] if count < len(alive) else np.arange(len(alive))
        outside = np.delete(cost, candidates)
        bound = float(outside.min()) if len(outside) else np.inf
        leaving = _eliminate_block(inverses, solution, shared, candidates, bound, len(alive) - keep)
        removed.extend(alive[leaving].tolist())
        staying = np.setdiff1d(np.arange(len(alive)), leaving)
        for i, inverse in enumerate(inverses):
            cross = inverse[np.ix_(staying, leaving)]
            gain = np.linalg.solve(inverse[np.ix_(leaving, leaving)], cross.T)
            columns = slice(None) if shared else slice(i, i + 1)
            solution[staying, columns] -= gain.T @ solution[leaving, columns]
            inverses[i] = inverse[np.ix_(staying, staying)] - cross @ gain
        solution = solution[staying]
        alive = alive[staying]
    last = np.argsort(-_cost(inverses, solution, shared), kind="stable")
    return np.concatenate([alive[last], np.array(removed[::-1], dtype=np.int64)])


def elimination_order(moments: Moments, width: int) -> Ids:
    """Order of standardised neurons by backward elimination for ridge regression on the label columns, best first."""
    deviation = np.sqrt(moments.variance[:width])
    gram = moments.comoment[:width, :width] / (moments.count * deviation[:, None] * deviation)
    gram[np.diag_indices(width)] += RIDGE
    linear = moments.comoment[:width, width:] / (moments.count * deviation[:, None])
    return eliminate([gram], np.linalg.solve(gram, linear))


def _cost(inverses: Sequence[Floats], solution: Floats, shared: bool) -> Floats:
    if shared:
        return np.asarray(np.square(solution).sum(axis=1) / inverses[0].diagonal())
    return np.asarray(sum(np.square(solution[:, k]) / inverse.diagonal() for k, inverse in enumerate(inverses)))


def _eliminate_block(inverses: Sequence[Floats], solution: Floats, shared: bool, candidates: Ids, bound: float, most: int) -> Ids:
    """Greedy elimination among the candidates; at least one leaves, and at most half of them (or `most`)."""
    small = [inverse[np.ix_(candidates, candidates)] for inverse in inverses]
    local = solution[candidates]
    here = np.ones(len(candidates), dtype=bool)
    leaving: list[int] = []
    limit = min(most, max(1, len(candidates) // 2))
    while len(leaving) < limit:
        cost = np.where(here, _cost(small, local, shared), np.inf)
        j = int(cost.argmin())
        if leaving and cost[j] > bound:
            break
        for i, part in enumerate(small):
            columns = slice(None) if shared else slice(i, i + 1)
            factor = part[:, j] / part[j, j]
            local[:, columns] -= np.outer(factor, local[j, columns])
            part -= np.outer(factor, part[j])
            part[j, j] = 1.0  # gone: keeps the divisions defined, `here` keeps it out
        here[j] = False
        leaving.append(j)
    return np.asarray(candidates[leaving])


def _invert(hessian: Floats) -> Floats:
    factor, info = lapack.dpotrf(hessian, lower=1, clean=0)
    if info != 0:
        raise StatisticsError("The second moments are not positive definite: raise the ridge.")
    inverse, info = lapack.dpotri(factor, lower=1, overwrite_c=1)
    assert info == 0
    lower = np.tril(inverse)
    return np.asarray(lower + np.tril(lower, -1).T)
