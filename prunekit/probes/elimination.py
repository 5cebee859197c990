"""Backward elimination of neurons in closed form, from second moments alone (optimal brain surgeon on a quadratic loss).

For a quadratic loss with Hessian H and minimiser W, removing feature j and refitting all others raises the loss by
sum_k W[j, k]^2 / (2 [H^-1]_jj) (Hassibi and Stork 1993). Removing the least costly feature repeatedly, with W and
H^-1 updated exactly, is greedy backward elimination without refitting.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.linalg import blas, cholesky, lapack, solve_triangular

from prunekit.errors import StatisticsError
from prunekit.stats.moments import Moments, mirror

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
# Sizes of one name are equal in a call: d neurons, k outputs.
Square = Float64[Floats, "d d"]
Columns = Float64[Floats, "d k"]
Order = Int64[Ids, " d"]

_CANDIDATES = 128
_PENDING = 256
RIDGE = 0.1
"""Ridge of the elimination order, on correlations."""


def eliminate(hessian: Square, linear: Columns, *, overwrite: bool = False) -> Order:
    """Order features by backward elimination: most important first.

    Parameters
    ----------
    hessian : (D, D) float64
        Positive definite; the loss is ``sum_k w_k' H w_k / 2 - b_k' w_k``.
    linear : (D, K) float64
        b, one column for each output.
    overwrite : bool
        Whether the Hessian may be overwritten.

    Returns
    -------
    (D,) int64
        All features; for every N, the first N are the set that elimination leaves.

    Raises
    ------
    StatisticsError
        If the Hessian is not positive definite.

    Notes
    -----
    Features are removed in blocks: the cheapest candidates are eliminated one after the other, exactly, on their own small part
    of the inverse. A block ends before its next removal would cost more than the cheapest feature outside it. The updates
    of the inverse are kept as a low-rank product, and applied when it has `_PENDING` columns, as in blocked factorisations:
    the work is that of three factorisations, and the memory twice the Hessian.
    """
    inverse, solution = _solve(hessian, linear, overwrite)
    diagonal = inverse.diagonal().copy()
    features = np.arange(len(solution))
    present = np.ones(len(features), dtype=bool)
    removed: list[int] = []
    # The current inverse is `inverse` less half @ half'.
    pending, used = np.empty((len(features), _PENDING + _CANDIDATES // 2), order="F"), 0
    while len(remaining := np.flatnonzero(present)) > 1:
        cost = np.square(solution[remaining]).sum(axis=1) / diagonal[remaining]
        count = min(len(remaining), max(2, min(_CANDIDATES, len(remaining) // 8)))
        picked = np.argpartition(cost, count - 1)[:count] if count < len(remaining) else np.arange(len(remaining))
        outside = np.delete(cost, picked)
        candidates, half = remaining[picked], pending[:, :used]
        small = inverse[np.ix_(candidates, candidates)] - half[candidates] @ half[candidates].T
        bound = float(outside.min()) if len(outside) else np.inf
        leaving = candidates[_eliminate_block(small, solution[candidates], bound, len(remaining) - 1)]
        columns = inverse[:, leaving] - half @ half[leaving].T
        factor = cholesky(columns[leaving], lower=True)
        update = solve_triangular(factor, columns.T, lower=True).T
        solution -= update @ solve_triangular(factor, solution[leaving], lower=True)
        diagonal -= np.square(update).sum(axis=1)
        pending[:, used : used + len(leaving)] = update
        used += len(leaving)
        present[leaving] = False
        removed.extend(features[leaving].tolist())
        if used >= _PENDING:
            kept = np.flatnonzero(present)
            features, solution, diagonal, half = features[kept], solution[kept], diagonal[kept], pending[kept, :used]
            # The transpose of a symmetric matrix in C order is itself in Fortran's.
            inverse = blas.dsyrk(-1.0, half, beta=1.0, c=inverse[np.ix_(kept, kept)].T, lower=1, overwrite_c=1)
            mirror(inverse)
            pending, used, present = pending[: len(kept)], 0, np.ones(len(kept), dtype=bool)
    return np.concatenate([features[present], np.array(removed[::-1], dtype=np.int64)])


def elimination_order(moments: Moments, width: int) -> Order:
    """Order standardised neurons by backward elimination for ridge regression on the label columns, best first."""
    deviation = np.sqrt(moments.variance[:width])
    gram = moments.count * deviation[:, None] * deviation
    np.divide(moments.comoment[:width, :width], gram, out=gram)
    gram[np.diag_indices(width)] += RIDGE
    return eliminate(gram, moments.comoment[:width, width:] / (moments.count * deviation[:, None]), overwrite=True)


def _eliminate_block(small: Square, local: Columns, bound: float, most: int) -> list[int]:
    """Eliminate candidates greedily, overwriting their part of the inverse; at least one, at most half of them (or `most`)."""
    remaining = np.ones(len(small), dtype=bool)
    leaving: list[int] = []
    limit = min(most, max(1, len(small) // 2))
    while len(leaving) < limit:
        cost = np.where(remaining, np.square(local).sum(axis=1) / small.diagonal(), np.inf)
        j = int(cost.argmin())
        if leaving and cost[j] > bound:
            break
        factor = small[:, j] / small[j, j]
        local -= np.outer(factor, local[j])
        small -= np.outer(factor, small[j])
        small[j, j] = 1.0  # keeps the divisions defined; `remaining` excludes the removed feature
        remaining[j] = False
        leaving.append(j)
    return leaving


def _solve(hessian: Square, linear: Columns, overwrite: bool) -> tuple[Square, Columns]:
    """Return the inverse, (D, D) in Fortran order, and the minimiser, (D, K)."""
    # The transpose of a symmetric matrix in C order is itself in Fortran's, so nothing is copied.
    matrix = hessian.T if overwrite else np.array(hessian, order="F")
    factor, info = lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
    if info != 0:
        raise StatisticsError("The second moments are not positive definite: raise the ridge.")
    solution, failed = lapack.dpotrs(factor, linear, lower=1)
    inverse, info = lapack.dpotri(factor, lower=1, overwrite_c=1)
    assert info == failed == 0
    mirror(inverse)
    return inverse, np.ascontiguousarray(solution)
