"""Rows of a ranking as lists, one for each query."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunekit.data.complete import GroupedRows
from prunekit.data.rows import Rows
from prunekit.errors import DataError

#: The highest relevance: its gain is 2^relevance - 1.
RELEVANCE = 10


def as_lists(part: GroupedRows, split: str, label: str) -> GroupedRows:
    """Put the rows of each query together, in the order of the queries' first rows.

    Raises
    ------
    DataError
        A relevance that is below 0 or above `RELEVANCE`, or a row without a query.
    """
    values, names = np.asarray(part.rows.labels, dtype=np.float64), part.names
    assert names is not None
    wrong = np.flatnonzero((values < 0) | (values > RELEVANCE))
    if len(wrong):
        raise DataError(
            f"The relevance {values[wrong[0]]:g} in row {wrong[0] + 1} of {split} (column {label!r}, the first row is 1) must be "
            f"from 0, not relevant, to {RELEVANCE}."
        )
    if any(name is None or name == "" for name in names):
        raise DataError(f"Row {[name in (None, '') for name in names].index(True) + 1} of {split} has no query (the first row is 1).")
    known: dict[object, int] = {}
    queries = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
    order = np.argsort(queries, kind="stable")
    rows = part.rows.take(order)
    return GroupedRows(
        Rows(labels=rows.labels, texts=rows.texts, pairs=rows.pairs, queries=queries[order]), tuple(names[int(at)] for at in order)
    )


def check_lists(splits: Mapping[str, Rows], notes: list[str]) -> None:
    """Refuse splits on which no ranking can be evaluated; note how many queries have no relevant row.

    Raises
    ------
    DataError
        One query alone, none with a relevant row beside others, or only lists of one row.
    """
    for name, rows in splits.items():
        assert rows.queries is not None
        starts = np.concatenate([[0], np.flatnonzero(np.diff(rows.queries)) + 1, [len(rows)]])
        if len(starts) < 3:
            raise DataError(f"The {name} split has one query alone: a ranking is judged over several, two at least in each split.")
        if (np.diff(starts) < 2).all():
            raise DataError(f"Every query of {name} has one row: there is no order to judge.")
        relevant = np.add.reduceat(np.asarray(rows.labels) > 0, starts[:-1])
        if not relevant.any():
            raise DataError(f"No query of {name} has a relevant row: there is no order to judge.")
        without_relevant = int((relevant == 0).sum())
        unjudged = f", {without_relevant:,} of them without a relevant row, which are not judged" if without_relevant else ""
        notes.append(f"{name}: {len(starts) - 1:,} queries of {len(rows):,} rows{unjudged}")
