"""Co-moments between the layers of two models, a part at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.stats.rows import RowStore

Floats = NDArray[np.float64]

#: Bytes of co-moment held at once.
LIMIT = 256 * 2**20


def cross_norms(a: RowStore, b: RowStore, width_a: int, width_b: int, *, limit: int = LIMIT) -> Floats:
    """Squared Frobenius norms of the co-moments between all layers of two models over the same rows.

    Parameters
    ----------
    a, b : RowStore
        (n, layers_a * width_a) and (n, layers_b * width_b), in the same order of rows.
    width_a, width_b : int
        Neurons of one layer.
    limit : int
        Bytes of co-moment that are held at once; the rows are read once for each part.

    Returns
    -------
    (layers_a, layers_b) float64
        ``|X_i^T Y_j|_F^2`` of the centred columns.

    Raises
    ------
    StatisticsError
        Different numbers of rows.
    """
    if len(a) != len(b):
        raise StatisticsError(f"Two models must be read on the same rows. Got {len(a)} and {len(b)} instead.")
    mean_a, mean_b = _mean(a), _mean(b)
    found = np.empty((a.width // width_a, b.width // width_b))
    together = max(1, limit // (8 * width_a * b.width))
    for first in range(0, len(found), together):
        part = slice(first * width_a, min(first + together, len(found)) * width_a)
        comoment = np.zeros((part.stop - part.start, b.width))
        # Chunks of one size in both stores, so that they hold the same rows.
        size = max(1, 2**25 // (8 * (a.width + b.width)))
        for (_, x), (_, y) in zip(a.chunks(size), b.chunks(size), strict=True):
            comoment += (x[:, part] - mean_a[part]).T @ (y - mean_b)
        blocks = np.square(comoment).reshape(-1, width_a, found.shape[1], width_b)
        found[first : first + len(blocks)] = blocks.sum(axis=(1, 3))
    return found


def _mean(rows: RowStore) -> Floats:
    total = np.zeros(rows.width)
    for _, chunk in rows.chunks():
        total += chunk.sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(rows))
