"""From a source to a task with three splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prunekit.data.columns import Columns, class_names, resolve
from prunekit.data.complete import Grouped, complete
from prunekit.data.files import CELL, read_source
from prunekit.data.labels import Label, Space, listed, plain, reads_as_numbers, space_of
from prunekit.data.rows import Rows, TaskData
from prunekit.data.sentences import load_sentences
from prunekit.errors import DataError, ParameterError
from prunekit.metrics import Metric, scheme_of
from prunekit.tasks import ALIASES, Task, TaskKind

if TYPE_CHECKING:
    from datasets import Dataset

TREE = ("head", "deprel")  # columns of a dependency tree, as Universal Dependencies call them
_IGNORED = -100  # what trainers write for a word that has no tag


def load_data(
    source: object = None,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    tokens: str | None = None,
    tags: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    labels: Sequence[str] | None = None,
    group: str | None = None,
    config: str | None = None,
    fine_tuned: bool = False,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> TaskData:
    """Read a task's data.

    Splits are taken as they are, and one that is missing is cut (seeded, classes in their shares) as `prunekit.data.complete`
    says. The label space is that of train.

    Parameters
    ----------
    source : str, Path, data in memory or None
        A CSV, TSV, JSON, JSONL or Parquet file; a directory with train, validation (dev, valid) and test files; a hub
        data set id; a `datasets.Dataset` or `DatasetDict`, a pandas DataFrame, a dict of lists by column, a pair (texts, labels)
        of lists, or a dict of these by split; None for the embedded data (see `prunekit.data.demo`).
    text, text_pair, label : str, optional
        Columns of a task on texts or pairs; by convention where not named.
    tokens, tags : str, optional
        Columns of a task on words; by convention where not named.
    task : str, optional
        A `TaskKind`; by the columns and labels where not given.
    metric : str, optional
        A `Metric`; accuracy for classes, Pearson for values where not given.
    labels : sequence of str, optional
        Class names of a fine-tuned model in the order of its outputs. The data's labels must be among them.
    group : str, optional
        Column of what rows have in common (a document, a query, an author): rows of one group stay on one side of every cut, and
        splits that come with the data must not share one.
    fine_tuned : bool
        Whether the model that is judged may have been trained on the train split: what is missing is then never cut from it.
    config : str, optional
        Configuration of a hub data set.
    seed : int
        Seed of the cuts.
    trust_remote_code : bool
        Passed on to the `datasets` library for a hub data set (it runs no code of data sets from version 4 on).

    Returns
    -------
    TaskData

    Raises
    ------
    DataError
        A source, column, row or label that cannot be used.
    ParameterError
        A parameter outside what is allowed, or a named column that does not exist.
    DependencyError
        `source=None` without the packages that the embedded data comes from.
    """
    kind = None if task is None else _member(TaskKind, task, "task")
    wanted = None if metric is None else _member(Metric, metric, "metric")
    if source is None:
        given = {"text": text, "text_pair": text_pair, "label": label, "tokens": tokens, "tags": tags, "group": group, "config": config}
        return _embedded({name: value for name, value in given.items() if value is not None}, kind, wanted, labels, seed)

    came = read_source(source, config=config, trust_remote_code=trust_remote_code)
    if kind is TaskKind.EMBEDDING:
        asked = {"text": text, "text_pair": text_pair, "label": label, "tokens": tokens, "tags": tags, "group": group}
        return load_sentences(came, asked, metric=wanted, seed=seed)
    found = came.splits
    columns = resolve(found["train"], text=text, text_pair=text_pair, label=label, tokens=tokens, tags=tags, kind=kind, group=group)
    notes: list[str] = []
    trees = columns.tokens is not None and all(set(TREE) <= set(data.column_names) for data in found.values())
    used = {*columns.names, *(TREE if trees else ())}
    unused = [column for column in found["train"].column_names if column not in used]
    if unused:
        notes.append(f"columns not used: {listed(unused)}")
    splits, space = _read(found, columns, kind, None if labels is None else tuple(labels), notes)
    if trees:
        splits = {
            split: replace(part, rows=replace(part.rows, trees=_trees(found[split], part.rows, split))) for split, part in splits.items()
        }
    the_task = Task(space.kind, wanted or _usual_metric(space, notes), space.labels)
    whole = complete(splits, seed, notes, fine_tuned=fine_tuned, single=came.single)
    return TaskData.of(the_task, whole, notes, {"source": came.name})


def _usual_metric(space: Space, notes: list[str]) -> Metric:
    scheme = scheme_of(space.labels) if space.kind.traits.per_token else None
    if scheme is None:
        return space.kind.traits.metrics[0]
    notes.append(
        f"metric: entity F1 as conlleval counts, the tags are {scheme}, and the share of right words beside it; its interval resamples "
        "sentences (--metric accuracy for words alone)"
    )
    return Metric.ENTITY_F1


#: Parameters of `load_data` that say which column is which, and how the data is read.
E = TypeVar("E", TaskKind, Metric)


def _member(of: type[E], value: str, parameter: str) -> E:
    try:
        return of(value)
    except ValueError:
        names: list[str] = [member.value for member in list[E](of)] + (list(ALIASES) if of is TaskKind else [])
        raise ParameterError(parameter, "load_data", f"one of {', '.join(names)}", str(value)) from None


def _embedded(given: dict[str, str], kind: TaskKind | None, metric: Metric | None, labels: Sequence[str] | None, seed: int) -> TaskData:
    from prunekit.data.demo import load_docstrings

    for parameter, value in given.items():
        raise ParameterError(parameter, "load_data", "given with a source only, the embedded data has columns of its own", value)
    if kind not in (None, TaskKind.CLASSIFICATION):
        raise ParameterError("task", "load_data", f"{TaskKind.CLASSIFICATION.value!r} for the embedded data", str(kind))
    found = load_docstrings(seed=seed)
    task, splits = found.task, found.splits
    if labels is not None:
        names = task.labels
        space = space_of(names, column="library", declared=None, kind=None, model=tuple(labels), per_token=False)
        ids = np.array([space.ids[name] for name in names], dtype=np.int64)
        task = replace(task, labels=space.labels)
        splits = {name: replace(rows, labels=ids[rows.labels]) for name, rows in splits.items()}
    if metric is not None:
        task = replace(task, metric=metric)
    return TaskData.of(task, splits, found.notes, found.provenance)


def _read(
    found: dict[str, Dataset], columns: Columns, kind: TaskKind | None, model: tuple[str, ...] | None, notes: list[str]
) -> tuple[dict[str, Grouped], Space]:
    """Rows of every split that has labels, in the label space of train."""
    raw = {"train": _values(found["train"], columns, "train")}
    shown = set(_flat(raw["train"], columns))
    for name in (name for name in found if name != "train"):
        if columns.label not in found[name].column_names:
            notes.append(f"{name}: not used, it has no column {columns.label!r}")
            continue
        values = _values(found[name], columns, name)
        marks = set(_flat(values, columns))
        if marks <= {None, -1} and not marks & shown:
            notes.append(f"{name}: not used, its rows have no labels")
            continue
        raw[name] = values
    for name, values in raw.items():
        _check_rows(values, columns, name)

    declared = class_names(found["train"], columns.label)
    numbers = declared is None and reads_as_numbers(shown)
    flat = {name: plain(_flat(values, columns), columns.label, name, numbers=numbers) for name, values in raw.items()}
    space = space_of(flat["train"], column=columns.label, declared=declared, kind=kind, model=model, per_token=columns.tokens is not None)
    if space.note:
        notes.append(space.note)
    if declared is not None and model is None and len(space.labels) < len(declared):
        absent = [name for name in declared if name not in space.labels]
        notes.append(f"labels: left out, train does not show them: {listed(absent)}")
    seen = set(flat["train"])
    rows = {name: _rows(values, flat[name], columns, space, seen, name) for name, values in raw.items()}
    return {name: Grouped(rows[name], None if columns.group is None else tuple(raw[name][columns.group])) for name in raw}, space


def _values(data: Dataset, columns: Columns, split: str) -> dict[str, list[Any]]:
    """Read the columns of a split as Python values; declared classes by their names, -1 among these as no label."""
    for column in columns.names:
        if column not in data.column_names:
            raise DataError(f"The {split} split has no column {column!r}, which train has. It has {listed(data.column_names)}.")
    try:
        values: dict[str, list[Any]] = data.select_columns(list(columns.names)).with_format(None)[:]
    except (ValueError, OSError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"The columns {listed(columns.names)} of {split} cannot be read: {reason}.") from None
    names = class_names(data, columns.label)
    if names is not None:
        by_id: dict[int | None, str | None] = {**dict(enumerate(names)), None: None, -1: None}
        marks = values[columns.label]
        strange = {i for i in (chain.from_iterable(row or () for row in marks) if columns.tokens else marks) if i not in by_id}
        if strange:
            raise DataError(f"The column {columns.label!r} of {split} holds the class {min(strange)}, and declares {len(names)} classes.")
        values[columns.label] = [[by_id[i] for i in row or ()] for row in marks] if columns.tokens else [by_id[i] for i in marks]
    return values


def _flat(values: dict[str, list[Any]], columns: Columns) -> list[Any]:
    column = values[columns.label]
    if columns.tokens is not None:
        column = list(chain.from_iterable(row or () for row in column))
    for value in column:
        if isinstance(value, list | dict):
            kind = type(value).__name__
            if columns.tokens is not None:
                raise DataError(f"The tags column {columns.label!r} holds a {kind} for a word: one tag a word is needed.")
            raise DataError(
                f"The label column {columns.label!r} holds a {kind} in each row: one label a row is needed (for one a word, --tags)."
            )
    return column


def _check_rows(values: dict[str, list[Any]], columns: Columns, split: str) -> None:
    def refuse(column: str, what: str, bad: Callable[[int, Any], bool]) -> None:
        rows = [at for at, value in enumerate(values[column]) if bad(at, value)]
        if rows:
            count = f"{len(rows)} row{'s' * (len(rows) > 1)}"
            raise DataError(f"The column {column!r} of {split} {what} in {count}, first in row {rows[0] + 1} (the first row is 1).")

    for column in (columns.text, columns.pair):
        if column is not None:
            refuse(column, "holds no text", lambda _, value: value is not None and not isinstance(value, str))
            refuse(column, "is empty", lambda _, value: not value or value.isspace())
            refuse(column, f"holds a text of more than {CELL:,} characters", lambda _, value: len(value) > CELL)
    if columns.group is not None:
        refuse(columns.group, "holds no name of a group", lambda _, value: isinstance(value, list | dict))
    if columns.tokens is None:
        refuse(columns.label, "has no label", lambda _, value: value is None or value == "")
        return
    words = values[columns.tokens]
    refuse(columns.tokens, "is empty", lambda _, row: not row)
    refuse(columns.tokens, "holds other than words", lambda _, row: not all(isinstance(word, str) for word in row))
    refuse(columns.tokens, f"holds more than {CELL:,} characters", lambda _, row: sum(map(len, row)) > CELL)
    refuse(columns.label, "has not one tag a word", lambda at, row: len(row or ()) != len(words[at]))
    refuse(columns.label, "has words without a tag", lambda _, row: any(tag in (None, "", _IGNORED) for tag in row))


def _rows(values: dict[str, list[Any]], labels: list[Label], columns: Columns, space: Space, seen: set[Label], split: str) -> Rows:
    encoded = np.array(labels, dtype=np.float64) if space.kind.traits.values else _ids(labels, columns.label, space, seen, split)
    if columns.tokens is None:
        assert columns.text is not None
        pairs = None if columns.pair is None else tuple(values[columns.pair])
        return Rows(labels=encoded, texts=tuple(values[columns.text]), pairs=pairs)
    words = tuple(tuple(row) for row in values[columns.tokens])
    ends = np.cumsum([len(row) for row in words])[:-1]
    return Rows(labels=tuple(np.split(encoded, ends)), tokens=words)


def _trees(data: Dataset, rows: Rows, split: str) -> tuple[tuple[tuple[int, ...], tuple[str, ...]], ...]:
    """The dependency tree of each row."""
    values = data.select_columns(list(TREE)).with_format(None)[:]
    found = tuple((tuple(heads or ()), tuple(names or ())) for heads, names in zip(values[TREE[0]], values[TREE[1]], strict=True))
    for at, ((heads, names), words) in enumerate(zip(found, rows.tokens, strict=True)):
        fits = len(heads) == len(names) == len(words)
        if not fits or not all(isinstance(head, int) for head in heads) or not all(isinstance(name, str) for name in names):
            what = f"a number in {TREE[0]!r} and a name in {TREE[1]!r} for each word"
            raise DataError(f"Row {at + 1} of {split} must have {what} (the first row is 1).")
    return found


def _ids(labels: list[Label], column: str, space: Space, seen: set[Label], split: str) -> NDArray[Any]:
    unseen = [label for label in labels if label not in seen]
    if unseen:
        raise DataError(f"The label {unseen[0]!r} of {split} (column {column!r}) is in no row of train: it cannot be learned.")
    return np.array([space.ids[label] for label in labels], dtype=np.int64)
