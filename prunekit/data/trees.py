"""Dependency trees of the rows of a token task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunekit.data.columns import read_columns
from prunekit.data.rows import Rows
from prunekit.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

#: Columns of a tree, as Universal Dependencies call them.
TREE = ("head", "deprel")


def trees_of(data: Dataset, rows: Rows, split: str) -> tuple[tuple[tuple[int, ...], tuple[str, ...]], ...]:
    """Return the dependency tree of each row."""
    values = read_columns(data, TREE, split)
    trees = tuple((tuple(heads or ()), tuple(names or ())) for heads, names in zip(values[TREE[0]], values[TREE[1]], strict=True))
    for at, ((heads, names), words) in enumerate(zip(trees, rows.tokens, strict=True)):
        fits = len(heads) == len(names) == len(words)
        if not fits or not all(isinstance(head, int) for head in heads) or not all(isinstance(name, str) for name in names):
            must = f"a number in {TREE[0]!r} and a name in {TREE[1]!r} for each word"
            raise DataError(f"Row {at + 1} of {split} must have {must} (the first row is 1).")
    return trees
