"""Seeded cuts of one split from another, which leave at least one row of every class behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.data.rows import Rows
from prunekit.errors import DataError

Ids = NDArray[np.int64]


def divide(rows: Rows, count: int, seed: int, *, name: str, groups: Ids | None = None) -> NDArray[np.bool_]:
    """Choose `count` rows for a new split, or fewer where groups are too large to fit in.

    Classes keep their shares (to a row), and the last row of a class stays: a class without a row in the training
    split cannot be learned. A group moves as a whole or not at all.

    Parameters
    ----------
    rows : Rows
    count : int
        Rows to move, at least 1.
    seed : int
    name : str
        The new split, for the error.
    groups : int64 ndarray of shape (n,), optional
        Which rows belong together; default: none do.

    Returns
    -------
    bool ndarray of shape (n,)
        The rows that move.

    Raises
    ------
    DataError
        Too few rows, or too few groups.
    """
    generator = np.random.default_rng(seed)
    labels = rows.labels
    ungrouped = groups is None or len(np.unique(groups)) == len(rows)
    chosen: NDArray[np.int64]
    if isinstance(labels, tuple):
        chosen = np.array(_by_tags(labels, count, _in_random_order(groups, len(rows), generator)), dtype=np.int64)
    elif labels.ndim == 2:
        sets = [np.flatnonzero(row) for row in labels]
        chosen = np.array(_by_tags(sets, min(count, len(rows) - 1), _in_random_order(groups, len(rows), generator)), dtype=np.int64)
    elif labels.dtype == np.int64:
        quotas = _quotas(labels, count)
        chosen = (
            _by_class(labels, quotas, generator) if ungrouped else _by_group(labels, quotas, _in_random_order(groups, len(rows), generator))
        )
    else:
        most = min(count, len(rows) - 1)
        chosen = _by_group(np.zeros(len(rows), dtype=np.int64), {0: most}, _in_random_order(groups, len(rows), generator))
    if not len(chosen):
        many = f"{len(rows)} rows"
        if not ungrouped:
            many += f" in {len(np.unique(groups))} groups that belong together"  # type: ignore[arg-type]  # None where ungrouped
        raise DataError(f"{many} are too few to cut a {name} split from: every class needs a row on both sides.")
    moved = np.zeros(len(rows), dtype=bool)
    moved[chosen] = True
    return moved


def _in_random_order(groups: Ids | None, n: int, generator: np.random.Generator) -> Iterator[Ids]:
    """Yield the rows of each group, groups in random order."""
    if groups is None:
        yield from generator.permutation(n)[:, None]
        return
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    for at in generator.permutation(len(members)).tolist():
        yield members[at]


def _quotas(labels: Ids, count: int) -> dict[int, int]:
    """Return the number of rows of each class to move."""
    classes, first_rows, sizes = np.unique(labels, return_index=True, return_counts=True)
    # In the order of their first rows: the cut must not depend on how the classes are numbered.
    classes, sizes = classes[np.argsort(first_rows)], sizes[np.argsort(first_rows)]
    exact = sizes * (count / len(labels))
    quotas = np.minimum(np.floor(exact).astype(np.int64), sizes - 1)
    # Largest remainders first, so that the total is `count` wherever the classes allow it.
    for index in np.argsort(-(exact - np.floor(exact)), kind="stable"):
        if quotas.sum() >= count:
            break
        if quotas[index] < sizes[index] - 1:
            quotas[index] += 1
    return dict(zip(classes.tolist(), quotas.tolist(), strict=True))


def _by_class(labels: Ids, quotas: dict[int, int], generator: np.random.Generator) -> Ids:
    return np.concatenate([generator.permutation(np.flatnonzero(labels == c))[:k] for c, k in quotas.items()])


def _by_group(labels: Ids, quotas: dict[int, int], groups: Iterator[Ids]) -> Ids:
    """Choose groups in their order, as long as they fit into the remaining quota of each class."""
    left, total = Counter(quotas), sum(quotas.values())
    chosen: list[Ids] = []
    for rows in groups:
        if not total:
            break
        used = Counter(labels[rows].tolist())
        if all(left[label] >= times for label, times in used.items()):
            left.subtract(used)
            total -= len(rows)
            chosen.append(rows)
    return np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)


def _by_tags(labels: Sequence[Ids], count: int, groups: Iterator[Ids]) -> list[int]:
    left = Counter(tag for row in labels for tag in row.tolist())
    chosen: list[int] = []
    for rows in groups:
        if len(chosen) == count:
            break
        used = Counter(tag for row in rows.tolist() for tag in labels[row].tolist())
        if len(chosen) + len(rows) <= count and all(left[tag] > times for tag, times in used.items()):
            left -= used
            chosen += rows.tolist()
    return chosen
