"""Label sets: 0/1 columns, or one column of 0/1 lists, as one column of lists of labels, and what such a column must hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.columns import read_columns
from prunekit.data.labels import listed
from prunekit.errors import DataError, ParameterError
from prunekit.validation.reading import first_duplicate

if TYPE_CHECKING:
    from datasets import Dataset

#: Marks between names in one text.
_MARKS = ",;|"
_YES_NO = {0: False, 1: True, "0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def indicator_columns(data: Dataset, label: str | None) -> tuple[str, ...]:
    """Return the columns that a list of names, joined by commas, refers to; none where it is one column's name.

    Raises
    ------
    ParameterError
        A name that is no column, one that is there twice, or one alone with a comma.
    """
    if label is None or "," not in label or label in data.column_names:
        return ()
    names = tuple(name.strip() for name in label.split(","))
    missing = [name for name in names if name not in data.column_names]
    if missing:
        must = f"one column of the data, or several with commas between ({listed(data.column_names)})"
        raise ParameterError("label", "load_data", must, missing[0] or label)
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise ParameterError("label", "load_data", "columns of which each is named once", duplicates[0])
    return names


def joined(data: Dataset, names: Sequence[str], column: str, split: str) -> Dataset:
    """Put a column of lists of names in the place of 0/1 columns, where a split has them.

    Raises
    ------
    DataError
        A column that holds other than 0 and 1 (or false and true).
    """
    if not all(name in data.column_names for name in names):
        return data
    if column in data.column_names:
        raise DataError(f"The {split} split has a column {column!r}: give it another name.")
    values = read_columns(data, names, split)
    table = [_flags(values[name], name, split) for name in names]
    sets = [[name for name, flag in zip(names, row, strict=True) if flag] for row in zip(*table, strict=True)]
    from datasets import Sequence as ListOf
    from datasets import Value

    return data.remove_columns(list(names)).add_column(column, sets, feature=ListOf(Value("string")))


def _flags(values: Sequence[Any], name: str, split: str) -> list[bool]:
    flags = []
    for at, value in enumerate(values):
        key = value.strip().casefold() if isinstance(value, str) else value
        if isinstance(key, list | dict) or key not in _YES_NO:
            shown = "nothing" if value is None or value == "" else repr(value)[:60]
            raise DataError(
                f"The label column {name!r} of {split} must hold 0 or 1 in each row. Row {at + 1} holds {shown} (the first row is 1)."
            )
        flags.append(_YES_NO[key])
    return flags


def one_each(values: Sequence[Any], column: str, split: str) -> list[list[Any] | None]:
    """Return one label a row as lists of labels, None for an empty cell.

    Raises
    ------
    DataError
        Cells of several names with a mark between: fewer names make all cells than there are different ones.
    """
    texts = {value for value in values if isinstance(value, str)}
    for mark in _MARKS:
        several = min((text for text in texts if mark in text), default=None)
        names = {name.strip() for text in texts for name in text.split(mark)} - {""}
        if several is not None and len(names) < len(texts - {""}):
            cure = f"Give a list of names in each row, as JSON in a CSV: {json.dumps([name.strip() for name in several.split(mark)])}."
            raise DataError(f"The label column {column!r} of {split} holds several names in one text, such as {several!r}. {cure}")
    return [None if value in (None, "") else [value] for value in values]


def faults(sets: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Yield rows whose labels cannot be used, and why: no list at all, a label without a name, or one that is there twice."""
    for at, labels in enumerate(sets):
        if labels is None:
            yield at, "has no list of labels (an empty list is a row without any)"
        elif any(label is None or label == "" for label in labels):
            yield at, "has a label without a name"
        elif len(set(labels)) < len(labels):
            yield at, f"names the label {listed([first_duplicate(labels)])} twice"


def indicator_width(sets: Sequence[Any], column: str, model: Sequence[str] | None) -> int:
    """Return how many labels rows of 0 and 1 have, one number for each label; 0 where rows are lists of labels.

    They are lists of as many numbers in each row, two at least: as labels, one would be there twice, or each row would have both. One
    number is enough where the model has one label. Raises DataError where the model has another number of labels.
    """
    widths = {len(row) if isinstance(row, list) else 0 for row in sets}
    width = widths.pop() if len(widths) == 1 else 0
    if width < (1 if model is not None and len(model) == 1 else 2) or not all(flag in (0, 1) for row in sets for flag in row):
        return 0
    if model is not None and len(model) != width:
        cure = "Give one number for each, in the model's order."
        raise DataError(
            f"The label column {column!r} holds {width} numbers, 0 or 1, in each row, the model has {len(model)} labels. {cure}"
        )
    return width


def flags_of_one(sets: Sequence[Any]) -> list[Any]:
    """Return rows of one text each, "0", "1", "false" or "true", as rows of the number 0 or 1; other rows as they are."""
    keys = [row[0].strip().casefold() if isinstance(row, list) and len(row) == 1 and isinstance(row[0], str) else None for row in sets]
    return [[int(_YES_NO[key])] for key in keys] if all(key in _YES_NO for key in keys) else list(sets)


def indicated(sets: Sequence[Any], width: int, column: str, split: str) -> list[list[int]]:
    """Put the numbers of the labels that a row has in the place of its `width` numbers 0 and 1; raises DataError for other rows."""
    for at, row in enumerate(sets):
        if not isinstance(row, list) or len(row) != width or any(flag not in (0, 1) for flag in row):
            raise DataError(
                f"Row {at + 1} of {split} must hold {width} numbers, 0 or 1, in column {column!r}, as each row of train does (the first "
                "row is 1)."
            )
    return [[at for at, flag in enumerate(row) if flag] for row in sets]


def as_table(ids: NDArray[Any], sizes: Sequence[int], width: int) -> NDArray[np.bool_]:
    """Return the class ids of all rows, end to end, as an indicator array, (n, width) bool."""
    table = np.zeros((len(sizes), width), dtype=bool)
    table[np.repeat(np.arange(len(sizes)), sizes), ids] = True
    return table
