"""Cutting one split from another, seeded; nothing that only one row can teach is taken from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.data.rows import Rows
from prunekit.errors import DataError


def cut(rows: Rows, count: int, seed: int, *, name: str) -> tuple[Rows, Rows]:
    """Move `count` rows of `rows` to a new split, both in their original order.

    Classes keep their shares (to a row), and the last row that shows a class stays: a class that no row of the
    training split shows cannot be learned.

    Parameters
    ----------
    rows : Rows
    count : int
        Rows to move, at least 1.
    seed : int
    name : str
        The new split, for the error.

    Returns
    -------
    (Rows, Rows)
        What stays, and the new split.

    Raises
    ------
    DataError
        Too few rows.
    """
    generator = np.random.default_rng(seed)
    labels = rows.labels
    chosen: NDArray[np.int64]
    if isinstance(labels, tuple):
        chosen = np.array(_by_tags(labels, count, generator), dtype=np.int64)
    elif labels.dtype == np.int64:
        chosen = _by_class(labels, count, generator)
    else:
        chosen = generator.permutation(len(rows))[: min(count, len(rows) - 1)]
    if not len(chosen):
        raise DataError(f"{len(rows)} rows are too few to cut a {name} split from: every class needs a row on both sides.")
    moved = np.zeros(len(rows), dtype=bool)
    moved[chosen] = True
    return rows.take(np.flatnonzero(~moved)), rows.take(np.flatnonzero(moved))


def _by_class(labels: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    classes, seen, sizes = np.unique(labels, return_index=True, return_counts=True)
    # In the order of their first rows: the cut must not depend on how the classes are numbered.
    classes, sizes = classes[np.argsort(seen)], sizes[np.argsort(seen)]
    exact = sizes * (count / len(labels))
    take = np.minimum(np.floor(exact).astype(np.int64), sizes - 1)
    # Largest remainders first, so that the total is what was asked wherever the classes allow it.
    for index in np.argsort(-(exact - np.floor(exact)), kind="stable"):
        if take.sum() >= count:
            break
        if take[index] < sizes[index] - 1:
            take[index] += 1
    drawn = [generator.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, take, strict=True)]
    return np.concatenate(drawn)


def _by_tags(labels: Sequence[NDArray[np.int64]], count: int, generator: np.random.Generator) -> list[int]:
    left = Counter(tag for row in labels for tag in row.tolist())
    chosen: list[int] = []
    for index in generator.permutation(len(labels)).tolist():
        if len(chosen) == count:
            break
        used = Counter(labels[index].tolist())
        if all(left[tag] > times for tag, times in used.items()):
            left -= used
            chosen.append(index)
    return chosen
