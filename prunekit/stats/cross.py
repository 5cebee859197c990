"""Co-moments a part at a time: between two models, or of one whose own does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.stats.rows import RowStore

Floats = NDArray[np.float64]
# Sizes of one name are equal in a call: d columns.
Vector = Float64[Floats, " d"]

#: Maximum bytes of the co-moment held at once.
LIMIT = 256 * 2**20


def comoment_parts(a: RowStore, b: RowStore, *, unit: int = 1, limit: int = LIMIT) -> Iterator[tuple[int, Float64[Floats, "_ b"]]]:
    """Yield rows of the co-moment ``(a - mean)^T (b - mean)``, part after part; both stores are read once for each part.

    Parameters
    ----------
    a, b : RowStore
        (n, A) and (n, B), in the same order of rows; they may be one store.
    unit : int
        A part has a multiple of this many rows.
    limit : int
        Maximum bytes of a part, which has at least `unit` rows.

    Yields
    ------
    (first column of a, (k, B) float64)

    Raises
    ------
    StatisticsError
        Different numbers of rows.
    """
    if len(a) != len(b):
        raise StatisticsError(f"Two models must be read on the same rows. Got {len(a)} and {len(b)} instead.")
    mean_a = column_mean(a)
    mean_b = mean_a if b is a else column_mean(b)
    step = unit * max(1, limit // (8 * unit * b.width))
    # Chunks of one size in both stores, so that they hold the same rows.
    size = max(1, 2**25 // (8 * (a.width + b.width)))
    for first in range(0, a.width, step):
        part = slice(first, min(first + step, a.width))
        comoment = np.zeros((part.stop - first, b.width))
        for (_, x), (_, y) in zip(a.chunks(size), b.chunks(size), strict=True):
            comoment += (x[:, part] - mean_a[part]).T @ (y - mean_b)
        yield first, comoment


def cross_norms(a: RowStore, b: RowStore, width_a: int, width_b: int, *, limit: int = LIMIT) -> Float64[Floats, "a b"]:
    """Return the squared Frobenius norms of the co-moments between all layers of two models over the same rows.

    Parameters
    ----------
    a, b : RowStore
        (n, layers_a * width_a) and (n, layers_b * width_b), in the same order of rows.
    width_a, width_b : int
        Neurons of one layer.
    limit : int
        As in `comoment_parts`.

    Returns
    -------
    (layers_a, layers_b) float64
        ``|X_i^T Y_j|_F^2`` of the centred columns.
    """
    parts = []
    for _, comoment in comoment_parts(a, b, unit=width_a, limit=limit):
        np.square(comoment, out=comoment)
        parts.append(comoment.reshape(-1, width_a, b.width // width_b, width_b).sum(axis=(1, 3)))
    return np.concatenate(parts)


def column_mean(rows: RowStore) -> Vector:
    """Return the mean of each column, (D,) float64."""
    total = np.zeros(rows.width)
    for _, chunk in rows.chunks():
        total += chunk.sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(rows))


def column_squares(rows: RowStore, mean: Vector) -> Vector:
    """Return the sum of squares of each centred column, the diagonal of the co-moment, (D,) float64."""
    total = np.zeros(rows.width)
    for _, chunk in rows.chunks():
        total += np.square(chunk - mean).sum(axis=0)
    return total
