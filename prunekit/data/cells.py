"""Lists and objects that a cell of a CSV holds as text, as JSON or as Python writes them."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prunekit.data.columns import LABELS, TAGS, TOKENS, is_list, read_columns
from prunekit.data.files import CELL
from prunekit.validation.reading import ReadError, parse_json

if TYPE_CHECKING:
    from datasets import Dataset

_ENDS = {"[": "]", "{": "}"}
_EMPTY = (None, "")
#: Whole numbers from here on do not fit into a column.
_WIDE = 2**63


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
        value = ast.literal_eval(text)
        return cell if _joins_texts(text) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return cell


def _joins_texts(text: str) -> bool:
    """Return whether texts follow each other without a comma, as numpy writes an array: Python would make one of them."""
    blank = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in blank]
    return any(kinds[at] == kinds[at + 1] == tokenize.STRING for at in range(len(kinds) - 1))


def with_lists(data: Dataset, named: Iterable[str | None], split: str) -> Dataset:
    """Return a table whose columns of labels, tags or words hold lists, where each cell is the text of one.

    Parameters
    ----------
    data : Dataset
    named : iterable of str or None
        Columns that the user named; others are found by their names.
    split : str
    """
    tabled = any(name.casefold() in TOKENS for name in data.column_names)
    # Without words a column called "tags" is not read, or is one of texts.
    known = {*LABELS, *(TAGS if tabled else ()), *TOKENS}
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
    full = [cell for cell in cells if cell not in _EMPTY]
    if not full or not isinstance(full[0], str) or not full[0].lstrip().startswith("["):
        return None
    # A cell that is empty is a row without an answer, which whoever reads the column refuses by its number.
    lists = [None if cell in _EMPTY else parsed(cell) for cell in cells]
    rows = [row for row in lists if isinstance(row, list)]
    texts = all(type(item) is str for row in rows for item in row)
    numbers = all(type(item) is int and -_WIDE <= item < _WIDE for row in rows for item in row)
    return lists if len(rows) == len(full) and (texts or numbers) else None
