"""Lists and objects that a cell of a CSV holds as text, as JSON or as Python writes them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prunekit.data.columns import LABELS, TAGS, TOKENS, is_list, read_columns
from prunekit.data.files import CELL
from prunekit.validation.reading import ReadError, parse_json

if TYPE_CHECKING:
    from datasets import Dataset

_ENDS = {"[": "]", "{": "}"}


def parsed(cell: object) -> object:
    """Return the list or object that a text is, and anything else as it is."""
    text = cell.strip() if isinstance(cell, str) and len(cell) <= CELL else ""
    if not text or _ENDS.get(text[0]) != text[-1]:
        return cell
    try:
        return parse_json(text)
    except ReadError:
        pass
    try:
        # As pandas writes a list; literals alone, nothing is run.
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return cell


def with_lists(data: Dataset, named: Iterable[str | None], split: str) -> Dataset:
    """Return a table whose columns of labels, tags or words hold lists, where each cell is the text of one.

    Parameters
    ----------
    data : Dataset
    named : iterable of str or None
        Columns that the user named; others are found by their names.
    split : str
    """
    known = {*LABELS, *TAGS, *TOKENS}
    wanted = [name for name in data.column_names if name in named or name.casefold() in known]
    for name in wanted:
        if is_list(data, name) or getattr(data.features[name], "dtype", None) not in ("string", "large_string"):
            continue
        lists = _lists(read_columns(data, [name], split)[name])
        if lists is not None:
            data = data.remove_columns(name).add_column(name, lists)
    return data


def _lists(cells: list[Any]) -> list[Any] | None:
    """Return a column's lists of texts or of whole numbers; None where a cell is none of these."""
    if not cells or not isinstance(cells[0], str) or not cells[0].lstrip().startswith("["):
        return None
    lists = [parsed(cell) for cell in cells]
    for kind in (str, int):
        if all(isinstance(row, list) and all(type(item) is kind for item in row) for row in lists):
            return lists
    return None
