"""Correlation clusters at one threshold without the whole correlation matrix: a sample of rows says which pairs can matter.

Average linkage merges two clusters below a distance t only if some pair of their neurons is closer than t. So the clusters
at t are those of each connected component of the graph of pairs closer than t, taken by itself, and correlations between
components are never needed. A sample of the rows finds the components (with a margin for what the sample does not know);
the correlations within them are then exact, over all rows. Neurons that fire together on very few rows can be missed by the sample
(corr 0.9 through one row in 10,000: 21 clusters became 40), so the package itself clusters from exact correlations.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import fastcluster
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from prunekit.errors import ParameterError, StatisticsError
from prunekit.stats.rows import RowStore

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ids = NDArray[np.int64]

SAMPLE = 2048
"""Rows of the sample."""
SIGMAS = 6.0
"""Margin of the sample, in standard errors of Fisher's z."""
_BLOCK = 1024


def clusters_of_rows(path: Path, threshold: float = 0.3, *, sample: int = SAMPLE, seed: int = 0) -> Ids:
    """Clusters of the columns, as `CorrelationClusters` finds them, in one pass over the rows and little memory.

    Products are taken in float32 on centred rows and summed in float64 from chunk to chunk: correlations err by about 1e-6.

    Parameters
    ----------
    path : Path
        A .npy file of (n, D) neurons, float32.
    threshold : float
        Distance 1 - |correlation| at which the tree is cut, in [0, 1). Near 1 all neurons are in one component, and nothing
        is saved.
    sample : int
        Rows that decide which pairs are looked at: all pairs whose sampled correlation is within `SIGMAS` standard errors
        of the threshold, or above. A pair that matters is missed with a probability of about 1e-9, for neurons that are not
        far from normal; with `sample` >= n with none.
    seed : int
        Of the sample.

    Returns
    -------
    (D,) int64
        Cluster of each neuron, numbered by first appearance.

    Raises
    ------
    ParameterError
        A threshold or a sample out of range.
    StatisticsError
        NaN or infinity among the rows, or fewer than two rows.
    """
    if not 0 <= threshold < 1:
        raise ParameterError("threshold", "clusters_of_rows", "in [0, 1)", threshold)
    if sample < 16:
        raise ParameterError("sample", "clusters_of_rows", "at least 16", sample)
    mapped = np.load(path, mmap_mode="r")
    n, width = mapped.shape
    if n < 2:
        raise StatisticsError(f"Correlations need at least two rows. Got {n}.")
    picked = np.sort(np.random.default_rng(seed).choice(n, min(sample, n), replace=False))
    drawn = np.array(mapped[picked])
    shift = drawn.mean(axis=0)
    drawn -= shift
    norms = np.linalg.norm(drawn, axis=0)
    # float32 noise around a constant is no variance.
    varies = norms > 1e-6 * np.sqrt(len(drawn)) * np.abs(shift)
    drawn *= np.where(varies, 1.0 / np.where(varies, norms, 1.0), 0.0).astype(np.float32)
    lowest = 1.0 - threshold
    if len(drawn) < n:
        lowest = float(np.tanh(np.arctanh(min(lowest, 1 - 1e-12)) - SIGMAS / np.sqrt(len(drawn) - 3)))
    # No pair of a broken column is near; the pass over all rows tells.
    component = _components(np.nan_to_num(drawn, copy=False), varies, max(lowest - 1e-5, 0.0))
    del drawn
    order = np.argsort(component, kind="stable")
    bounds = np.flatnonzero(np.diff(component[order], prepend=-1, append=-2))
    parts = [order[a:b] for a, b in itertools.pairwise(bounds) if b - a > 1]
    found = np.arange(width)
    # Many small products: one thread does them faster than several that wait for each other.
    with threadpool_limits(1), RowStore.open(path) as rows:
        comoments = _comoments(rows, shift, parts)
    for ids, comoment in zip(parts, comoments, strict=True):
        scale = 1.0 / np.sqrt(comoment.diagonal())
        distance = np.clip(1.0 - np.abs(comoment * scale * scale[:, None]), 0.0, 1.0)
        tree = fastcluster.linkage(distance[np.triu_indices(len(ids), 1)], method="average", preserve_input=False)
        cut = fcluster(tree, t=threshold, criterion="distance")
        # Any member names the cluster; numbers are given afterwards.
        found[ids] = ids[np.unique(cut, return_index=True)[1]][cut - 1]
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)


def _step(rows: RowStore) -> int:
    """Rows of a chunk that stays in the cache while it is worked on."""
    return max(16, 2**21 // max(1, rows.shape[1]))


def _components(drawn: Singles, varies: NDArray[np.bool_], lowest: float) -> Ids:
    """Connected component of each column, by pairs whose product over the standardised rows drawn is at least `lowest`."""
    width = drawn.shape[1]
    pairs: list[tuple[Ids, Ids]] = []
    for i in range(0, width, _BLOCK):
        # Blocks of columns on and below the diagonal: each pair once, and no D x D matrix.
        block = drawn[:, i : i + _BLOCK].T @ drawn[:, : i + _BLOCK]
        near = np.flatnonzero(np.abs(block, out=block).ravel() >= lowest)
        row, column = np.divmod(near, block.shape[1])
        below = column < row + i
        pairs.append((row[below] + i, column[below]))
    first, second = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    # Columns without variance are at a distance of 1 from all others.
    both = varies[first] & varies[second]
    graph = coo_array((np.ones(int(both.sum()), dtype=np.int8), (first[both], second[both])), shape=(width, width))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _comoments(rows: RowStore, shift: Singles, parts: list[Ids]) -> list[Floats]:
    """Exact co-moment of each group of columns, in one pass; `shift`, (D,), is about their mean."""
    n, width = rows.shape
    wanted = np.concatenate([*parts, np.empty(0, dtype=np.int64)])
    # Groups of one size are multiplied together.
    sizes = sorted({len(part) for part in parts})
    alike = [[at for at, part in enumerate(parts) if len(part) == size] for size in sizes]
    places = np.cumsum([0, *(len(part) for part in parts)])
    picks = [np.concatenate([np.arange(places[at], places[at + 1]) for at in group]) for group in alike]
    order = wanted[np.concatenate([*picks, np.empty(0, dtype=np.int64)])]
    products = [np.zeros((len(group), size, size)) for size, group in zip(sizes, alike, strict=True)]
    sums, ones = np.zeros(width), np.ones(_step(rows), dtype=np.float32)
    centred = np.empty((len(ones), width), dtype=np.float32)
    gathered = np.empty((len(ones), len(order)), dtype=np.float32)
    for _, chunk in rows.chunks(len(ones)):
        here, columns = centred[: len(chunk)], gathered[: len(chunk)]
        np.subtract(chunk, shift, out=here)
        sums += ones[: len(chunk)] @ here
        np.take(here, order, axis=1, out=columns, mode="clip")
        start = 0
        for total in products:
            groups, size, _ = total.shape
            block = columns[:, start : start + groups * size].reshape(len(chunk), groups, size)
            total += block.transpose(1, 2, 0) @ block.transpose(1, 0, 2)
            start += groups * size
    if not np.isfinite(sums).all():
        broken = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise StatisticsError(f"Column {broken} holds NaN or infinity: the model or the data is broken.")
    found: list[Floats] = [np.empty(0)] * len(parts)
    for group, total in zip(alike, products, strict=True):
        for at, product in zip(group, total, strict=True):
            # Rows were centred on the mean of the sample: take out what that left.
            left = sums[parts[at]] / np.sqrt(n)
            found[at] = product - np.outer(left, left)
    return found
