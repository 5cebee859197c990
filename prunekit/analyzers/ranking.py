"""Rankings of neurons by the weights of a probe (Dalvi et al. 2019, 2020)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.errors import ParameterError

Ids = NDArray[np.int64]


def ranking(weights: ArrayLike, *, steps: int = 1000) -> Ids:
    """Order neurons by linguistic correlation analysis, most important first.

    For p = 0, 1/steps, ..., 1 and for each class, the shortest (not empty) prefix of its neurons by falling |weight| that
    holds a share p of the class's weight; the union over the classes is appended to the order as far as it is new.

    Parameters
    ----------
    weights : (K, D)
        Weights of the probe, one row a class; one row for a regression.
    steps : int
        S of the papers.

    Returns
    -------
    (m,) int64
        Neurons with a weight in some class; a neuron whose weights are all zero is in no prefix, unless all are.

    Notes
    -----
    The order of the neurons that enter at one p is arbitrary in the authors' code (a Python set). Here they are ordered by
    their largest |weight| over the classes, and neurons equal in that by their id.
    """
    given = np.atleast_2d(np.asarray(weights))
    # Which neuron completes a share is decided by rounding at times: float32 weights are summed in float32, as the authors do.
    matrix = np.abs(given if given.dtype == np.float32 else given.astype(np.float64))
    if steps < 1:
        raise ParameterError("steps", "ranking", "at least 1", steps)
    width = matrix.shape[1]
    shares = (np.arange(steps + 1) / steps).astype(matrix.dtype)
    entry = np.full(width, steps + 1, dtype=np.int64)
    for row in matrix:
        order = np.argsort(-row, kind="stable")
        total = np.cumsum(row[order])
        # Length of the shortest prefix that reaches each share; the whole row where rounding lets none do.
        lengths = np.minimum(np.searchsorted(total, shares * row.sum(), side="left") + 1, width)
        first = np.searchsorted(lengths, np.arange(width) + 1, side="left")
        entry[order] = np.minimum(entry[order], first)
    order = np.lexsort((np.arange(width), -matrix.max(axis=0), entry))
    # The last of a row can be lost to rounding, where the sum of its prefix reaches the whole without them.
    return np.asarray(order[(entry[order] <= steps) | (matrix.max(axis=0)[order] > 0)])
