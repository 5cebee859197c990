"""Conversion of the label column to class ids or values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import DataError
from prunekit.tasks import TaskKind

# "01" is a code, and another one than "1".
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PADDED = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: A number as spreadsheets write it, with a decimal comma or a percent sign.
_WRITTEN = re.compile(r"\s*[+-]?\d+([.,]\d+)?\s*%?\s*", re.ASCII)
_GENERIC = re.compile(r"LABEL_\d+")
_SEPARATORS = re.compile(r"[\s_-]+")
#: Whole numbers as labels that may well be values: from this many on, a note says that they are classes.
_MANY = 20
_SHOWN, _WIDE = 8, 60

#: More classes, longer names and larger values are refused. docs/limits.md has them.
CLASSES, NAME, VALUE = 1_500, 256, 1e12

Label = str | int | float


@dataclass(frozen=True)
class Space:
    """Label space: the mapping from labels to outputs.

    Attributes
    ----------
    kind : TaskKind
    labels : tuple of str
        Class names in the order of their ids; empty for a regression.
    ids : dict
        {label as the data has it: class id}.
    note : str
        Decision that was made, if any.
    """

    kind: TaskKind
    labels: tuple[str, ...]
    ids: dict[Label, int]
    note: str = ""


def reads_as_numbers(values: Iterable[object], *, padded: bool = False) -> bool:
    """Return whether every label is a string that is a number, as in a CSV file; with `padded` zeros may stand before it."""
    shown, pattern = set(values), _PADDED if padded else _NUMBER
    return bool(shown) and all(isinstance(value, str) and pattern.fullmatch(value) for value in shown)


def is_number(value: object) -> bool:
    """Return whether a label is a number, and no truth value."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def as_number(value: object) -> object:
    """Return the number that a string is, as in a CSV file, and anything else as it is."""
    return float(value) if isinstance(value, str) and _PADDED.fullmatch(value) else value


def withheld(values: Iterable[object]) -> bool:
    """Return whether no row of a held-out split has a label: all are empty or -1, in a CSV as text, as in GLUE's test splits."""
    return all(as_number(value) in (None, "", -1) for value in values)


def plain(values: Iterable[object], column: str, where: str, *, numbers: bool, padded: bool = False) -> list[Label]:
    """Return labels as str, int or float: booleans by their name, and with `numbers` each numeric string as a number.

    With `padded` zeros may stand before a number; otherwise "01" is a name.

    Raises
    ------
    DataError
        Labels of other types, of mixed types, or not finite.
    """
    labels: list[Label] = []
    pattern = _PADDED if padded else _NUMBER
    for value in values:
        if isinstance(value, bool):
            labels.append(str(value))
        elif isinstance(value, str):
            labels.append(float(value) if numbers and pattern.fullmatch(value) else value)
        elif isinstance(value, int | float | Decimal):
            labels.append(float(value) if isinstance(value, Decimal) else value)
        else:
            raise DataError(f"The label column {column!r} of {where} must hold strings or numbers. It holds {type(value).__name__}.")
    if not numbers and len({isinstance(value, str) for value in labels}) > 1:
        raise DataError(f"The label column {column!r} of {where} mixes strings and numbers.")
    if any(isinstance(value, float) and not math.isfinite(value) for value in labels):
        raise DataError(f"The label column {column!r} of {where} holds numbers that are not finite.")
    for value in labels:
        if len(value) > NAME if isinstance(value, str) else abs(value) > VALUE:
            excess = f"names of more than {NAME} characters" if isinstance(value, str) else f"numbers beyond {VALUE:g}"
            raise DataError(f"The label column {column!r} of {where} holds {excess}, such as {_brief(str(value))!r}.")
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in labels]


def space_of(
    train: Sequence[Label],
    *,
    column: str,
    declared: tuple[str, ...] | None,
    kind: TaskKind | None,
    model: tuple[str, ...] | None,
    per_token: bool,
    sets: bool = False,
    value: bool = False,
) -> Space:
    """Derive the label space from the training labels.

    Parameters
    ----------
    train : sequence of str, int or float
        From `plain`.
    column : str
        The label column, for errors.
    declared : tuple of str, or None
        Names of the classes in the data's own order, where it declares them.
    kind : TaskKind, or None
        As requested; None: by the labels.
    model : tuple of str, or None
        Names of the classes of a fine-tuned model, in the order of its outputs; one name means one value, or one label that a row has or
        has not.
    per_token : bool
    sets : bool
        Whether a row has any number of labels; `train` are those of all rows.
    value : bool
        Whether the model answers with one value, so that whole numbers are values too.

    Raises
    ------
    DataError
        One class only, labels that are no values, or labels that are not the model's.
    """
    shown = set(train)
    numbers = all(not isinstance(value, str) for value in shown)
    if (
        kind is None
        and not per_token
        and not sets
        and numbers
        and (value or any(isinstance(v, float) for v in shown) or (model is not None and len(model) == 1))
    ):
        kind = TaskKind.REGRESSION
    if not per_token and not sets and model is None and declared is None and kind in (None, TaskKind.REGRESSION):
        _check_written(shown, column)
    alone = sets and model is not None and len(model) == 1
    if sets and len(shown) < (1 if alone else 2):
        only = f"one label alone, {_first(shown)!r}" if shown else "no label at all"
        must = f"no row has {model[0]!r}" if alone and model is not None else "a task with many labels has two at least"
        raise DataError(f"The label column {column!r} of train shows {only}: {must}.")
    if len(shown) < 2 and not alone:
        raise DataError(f"The label column {column!r} of train holds one value only, {_first(shown)!r}: there is nothing to tell apart.")
    if kind is not None and kind.traits.values:
        if not numbers:
            raise DataError(f"A regression needs numbers. The label column {column!r} holds {listed(_sorted(shown))}.")
        if model is not None and len(model) != 1:
            raise DataError(f"The label column {column!r} holds values, the model has {len(model)} classes: {listed(model)}.")
        return Space(TaskKind.REGRESSION, (), {})
    kind = TaskKind.TOKENS if per_token else TaskKind.LABELS if sets else TaskKind.CLASSIFICATION
    if len(shown) > CLASSES:
        hint = " If they are values, give --task regression." if numbers and not per_token else ""
        raise DataError(f"The label column {column!r} of train has {len(shown):,} classes, more than the {CLASSES:,} that can be.{hint}")
    order = _sorted(shown) if declared is None else [name for name in declared if name in shown]
    if declared is not None and model is not None:
        # Another split may spell a class in another way, and is compared with the model too.
        order += sorted((value for value in shown if value not in declared), key=str)
    if model is None:
        return Space(kind, tuple(str(value) for value in order), {value: index for index, value in enumerate(order)})
    return _as_model(kind, order, declared, model, column)


def note_names(space: Space, notes: list[str], *, asked: bool) -> None:
    """Note names that differ in nothing but case or white space, and, where no task was asked for, many whole numbers.

    Scores from 0 to 100 look like the ids of classes.
    """
    whole = space.kind is TaskKind.CLASSIFICATION and not any(isinstance(label, str) for label in space.ids)
    if whole and not asked and len(space.labels) >= _MANY:
        notes.append(f"labels: {len(space.labels)} whole numbers are taken for classes (--task regression takes them for values)")
    by_name: dict[str, list[str]] = {}
    for name in space.labels:
        by_name.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = next((names for names in by_name.values() if len(names) > 1), None)
    if alike is not None:
        notes.append(f"labels: {listed(alike)} are classes of their own, and differ in case or white space alone")


def _check_written(shown: set[Label], column: str) -> None:
    """Refuse texts that are numbers but for a decimal comma, a percent sign or white space: as names each would be a class."""
    other = next((value for value in shown if isinstance(value, str) and not _NUMBER.fullmatch(value) and not value.isdecimal()), None)
    if other is not None and all(isinstance(value, str) and _WRITTEN.fullmatch(value) for value in shown):
        raise DataError(
            f"The label column {column!r} of train holds numbers that are not written as such, such as {other!r}: write them with a "
            "decimal point and nothing else, or give --task text-classification where they are names."
        )


def _as_model(kind: TaskKind, order: Sequence[Label], declared: tuple[str, ...] | None, model: tuple[str, ...], column: str) -> Space:
    """Map labels to a fine-tuned model's outputs: by name, else by id where nothing contradicts it."""
    for fold in (str, _folded):
        by_name = {fold(name): index for index, name in enumerate(model)}
        if len(by_name) == len(model) and all(fold(value) in by_name for value in order):
            return Space(kind, model, {value: by_name[fold(value)] for value in order})
    if all(isinstance(value, int) and 0 <= value < len(model) for value in order):
        note = f"labels: the ids of {column!r} are taken as the model's ({listed(model)})"
        return Space(kind, model, {value: int(value) for value in order}, note)
    if declared is not None and len(declared) <= len(model) and all(_GENERIC.fullmatch(name) for name in model):
        note = f"labels: the model does not name its classes, the ids of {column!r} are taken as its own"
        return Space(kind, model, {name: declared.index(name) for name in declared}, note)
    unnamed = all(_GENERIC.fullmatch(name) for name in model)
    hint = " The model does not name its classes: write the data's names into id2label of its config.json, in the order of its outputs."
    problem = f"The label column {column!r} does not fit the model: it holds {listed(order)}, the model has {listed(model)}."
    raise DataError(problem + hint * unnamed)


def _folded(name: object) -> str:
    """Return a name folded: without case, and with one underscore for spaces, hyphens and underscores."""
    return _SEPARATORS.sub("_", str(name).casefold())


def targets_of(labels: Sequence[Label], column: str, split: str) -> NDArray[np.float64]:
    """Return the labels as numbers; train alone says that they are numbers, so that another split may hold text."""
    values = [as_number(label) for label in labels]
    strays = [value for value in values if not isinstance(value, int | float) or not abs(value) <= VALUE]
    if strays:
        must = f"numbers between -{VALUE:g} and {VALUE:g}"
        raise DataError(f"The label column {column!r} of {split} must hold {must}, as that of train does. It holds {listed(strays)}.")
    return np.array(values, dtype=np.float64)


def ids_of(labels: Sequence[Label], column: str, space: Space, seen: set[Label], split: str) -> NDArray[np.int64]:
    """Return the class ids of labels; raises DataError for one that no row of train shows."""
    unseen = [label for label in labels if label not in seen or label not in space.ids]
    if unseen:
        numbers = space.kind is TaskKind.CLASSIFICATION and not any(isinstance(label, str) for label in (*seen, unseen[0]))
        hint = " If labels are values, give --task regression." if numbers else ""
        raise DataError(f"The label {unseen[0]!r} of {split} (column {column!r}) is in no row of train: it cannot be learned.{hint}")
    return np.array([space.ids[label] for label in labels], dtype=np.int64)


def _sorted(shown: set[Label]) -> list[Label]:
    if any(isinstance(value, str) for value in shown):
        return sorted(shown, key=str)
    return sorted(shown, key=float)


def _first(shown: set[Label]) -> Label | None:
    return next(iter(shown), None)


def listed(names: Sequence[object]) -> str:
    """Return the first names on one line, each shortened and printable."""
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(_brief(str(name)) for name in names[:_SHOWN]) + more


def _brief(name: str) -> str:
    if name != name.strip() or not name:
        return repr(name) if len(name) <= _WIDE else f"{name[: _WIDE - 3]!r}..."
    name = name if len(name) <= _WIDE else f"{name[: _WIDE - 3]}..."
    return name if name.isprintable() else ascii(name)[1:-1]
