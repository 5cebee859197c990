"""Loading of a task with three splits from a source."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prunekit.data.cells import with_lists
from prunekit.data.columns import (
    Columns,
    class_names,
    group_names,
    is_list,
    query_column,
    read_columns,
    refuse,
    resolve,
    text_column,
    text_values,
)
from prunekit.data.complete import GroupedRows, check_defined, complete, note_majority
from prunekit.data.files import CELL, RawData, read_source
from prunekit.data.labels import (
    Label,
    Space,
    ids_of,
    is_number,
    listed,
    note_names,
    plain,
    reads_as_numbers,
    space_of,
    targets_of,
    withheld,
)
from prunekit.data.lists import as_lists, check_lists
from prunekit.data.options import Asked
from prunekit.data.questions import holds_questions, load_questions
from prunekit.data.rows import Rows, TaskData
from prunekit.data.sentences import are_sentences, load_sentences
from prunekit.data.sets import as_table, faults, flags_of_one, indicated, indicator_columns, indicator_width, joined, one_each
from prunekit.data.trees import TREE, trees_of
from prunekit.data.unlabelled import COLUMN, lacks_labels, space_of_model, with_placeholders
from prunekit.errors import DataError, ParameterError
from prunekit.metrics import Metric
from prunekit.metrics.entities import resembles_scheme, scheme_of
from prunekit.tasks import ALIASES, Task, TaskKind

if TYPE_CHECKING:
    from datasets import Dataset

_IGNORED = -100  # the label of a word without a tag, by convention


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
    answers: TaskKind | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    judged: bool = True,
) -> TaskData:
    """Read a task's data.

    Splits are taken as they are, and one that is missing is cut (seeded, classes in their shares) as described in
    `prunekit.data.complete`. The label space is that of train.

    Parameters
    ----------
    source : str, Path, data in memory or None
        A CSV, TSV, JSON, JSONL or Parquet file; a directory with train, validation (dev, valid) and test files; a hub
        data set id; a `datasets.Dataset` or `DatasetDict`, a pandas DataFrame, a dict of lists by column, a pair (texts, labels)
        of lists, or a dict of these by split; None for the embedded data (see `prunekit.data.demo`).
    text, text_pair, label : str, optional
        Columns of a task on texts or pairs, or of questions, their contexts and answers; by convention where not named. A label column
        of lists is one of rows with any number of labels, and so are several columns of 0 and 1, whose names `label` joins by
        commas: "angry,sad,glad".
    tokens, tags : str, optional
        Columns of a task on words; by convention where not named.
    task : str, optional
        A `TaskKind`; by the columns and labels where not given.
    metric : str, optional
        A `Metric`; where not given, the first of the kind's `Traits.metrics`, but entity F1 for entity tags, Spearman for an embedder's
        pairs with scores, and agreement where classes or tags have no labels.
    labels : sequence of str, optional
        Class names of a fine-tuned model in the order of its outputs. The data's labels must be among them.
    group : str, optional
        Column of what rows have in common (a document, a query, an author): rows of one group stay on one side of every cut, and
        splits that come with the data must not share one.
    fine_tuned : bool
        Whether the model that is evaluated may have been trained on the train split: a missing split is then never cut from it.
    answers : TaskKind, optional
        Task of the model's head: data without a column of labels then has placeholders, until the model has answered; for an embedder
        labels are not read.
    config : str, optional
        Configuration of a hub data set.
    seed : int
        Seed of the cuts.
    trust_remote_code : bool
        Passed on to the `datasets` library for a hub data set (it runs no code of data sets from version 4 on).
    judged : bool
        Whether the metric must have a value on held-out rows.

    Returns
    -------
    TaskData

    Raises
    ------
    DataError
        A source, column, row or label that cannot be used.
    ParameterError
        A parameter out of range, or a named column that does not exist.
    DependencyError
        `source=None` without the packages that the embedded data comes from.
    """
    kind = None if task is None else _member(TaskKind, task, "task")
    wanted_metric = None if metric is None else _member(Metric, metric, "metric")
    if source is None:
        options = {"text": text, "text_pair": text_pair, "label": label, "tokens": tokens, "tags": tags, "group": group, "config": config}
        return _embedded({name: value for name, value in options.items() if value is not None}, kind, wanted_metric, labels, seed)

    loaded = read_source(source, config=config, trust_remote_code=trust_remote_code)
    loaded = loaded._replace(splits={split: with_lists(data, (label, tokens, tags), split) for split, data in loaded.splits.items()})
    named_columns = {"text": text, "text_pair": text_pair, "label": label, "tokens": tokens, "tags": tags, "group": group}
    model = None if labels is None else tuple(labels)
    data = _read_task(loaded, Asked(named_columns, kind, model, wanted_metric, answers, fine_tuned, seed))
    if judged and data.labelled and not data.task.kind.traits.vectors:
        data = replace(data, notes=(*data.notes, *check_defined(data, loaded.splits.keys())))
    return replace(data, notes=(*loaded.notes, *data.notes))


def _read_task(loaded: RawData, asked: Asked) -> TaskData:
    """Read rows as the task says that was named, or that the columns and the model's head show."""
    named_columns, kind, model, metric, answers = asked.columns, asked.kind, asked.labels, asked.metric, asked.answers
    if are_sentences(loaded, named_columns, kind, answers):
        return load_sentences(loaded, named_columns, metric=metric, seed=asked.seed)
    if kind is TaskKind.QUESTIONS or (kind is None and _are_questions(loaded, named_columns, answers)):
        answering = answers is TaskKind.QUESTIONS
        return load_questions(loaded, named_columns, metric=metric, fine_tuned=asked.fine_tuned, answering=answering, seed=asked.seed)
    if kind is TaskKind.LABELS and named_columns["label"] is None and model is not None and _has_columns(loaded.splits["train"], model):
        # Columns of 0 and 1 under the names of the model's own labels.
        named_columns = {**named_columns, "label": ",".join(model)}
    named = named_columns["label"] is not None or named_columns["tags"] is not None or kind not in (None, answers)
    if answers is not None and not named and lacks_labels(loaded.splits["train"]):
        return _without_labels(loaded, asked, answers)
    if metric is Metric.AGREEMENT:
        must = "another where the data has labels: agreement is with the dense model, on data without"
        raise ParameterError("metric", "load_data", must, metric.value)
    ranked = metric in TaskKind.RANKING.traits.metrics
    if kind is None and answers is TaskKind.REGRESSION and (ranked or query_column(loaded.splits["train"]) is not None):
        kind = TaskKind.RANKING
    return _with_labels(loaded, replace(asked, columns=named_columns, kind=kind))


def _has_columns(train: Dataset, labels: tuple[str, ...]) -> bool:
    """Return whether a table without a column of labels has one for each label, whose names can be joined by commas."""
    plain_names = not any("," in name or name != name.strip() for name in labels)
    return plain_names and lacks_labels(train) and set(labels) <= set(train.column_names)


def _are_questions(loaded: RawData, named_columns: Mapping[str, str | None], answers: TaskKind | None) -> bool:
    """Return whether rows are read as questions where no task is named: by the model's head, or by the names of the columns."""
    if named_columns["tokens"] is not None or named_columns["tags"] is not None:
        return False
    named = any(named_columns[name] is not None for name in ("text", "text_pair", "label"))
    return answers is TaskKind.QUESTIONS or (not named and holds_questions(loaded.splits["train"]))


def _with_labels(loaded: RawData, asked: Asked) -> TaskData:
    """Read rows with the labels of the data."""
    kind, model, metric, value = asked.kind, asked.labels, asked.metric, asked.answers is TaskKind.REGRESSION
    tables, label, group = loaded.splits, asked.columns["label"], asked.columns["group"]
    names = indicator_columns(tables["train"], label)
    if names:
        assert label is not None
        tables = {split: joined(data, names, label, split) for split, data in tables.items()}
    lists = kind is not None and kind.traits.lists
    if lists:
        group = group or query_column(tables["train"])
        if group is None:
            raise ParameterError("group", "load_data", "the column of a ranking's queries (query, query_id or qid by its name)", None)
    columns = resolve(tables["train"], **{**asked.columns, "group": group}, kind=kind)
    notes: list[str] = []
    trees = columns.tokens is not None and all(set(TREE) <= set(data.column_names) for data in tables.values())
    notes += _unused(tables["train"], {*columns.names, *(TREE if trees else ())})
    splits, space = _read(tables, columns, kind, model, notes, names or None, value=value)
    if trees:
        splits = {
            split: replace(part, rows=replace(part.rows, trees=trees_of(tables[split], part.rows, split))) for split, part in splits.items()
        }
    if lists:
        assert kind is not None
        splits = {split: as_lists(part, split, columns.label) for split, part in splits.items()}
        space = replace(space, kind=kind)
        notes.append(f"lists: the rows of one {columns.group!r} are put in order; queries, not rows, are drawn for intervals")
    if model is None:
        note_names(space, notes, asked=kind is not None)
    if space.kind is TaskKind.REGRESSION and value and asked.kind is None and {*splits["train"].rows.labels} == {0.0, 1.0}:
        notes.append(
            "labels: 0 and 1 are compared as values with the one output of the model's head; if that is the logit of a class, write "
            '"problem_type": "multi_label_classification" into its config.json, and if it ranks the texts of queries, name their column '
            "with --group"
        )
    task = Task(space.kind, metric or _usual_metric(space, notes), space.labels)
    completed = complete(splits, asked.seed, notes, fine_tuned=asked.fine_tuned, single=loaded.single)
    if lists:
        check_lists(completed, notes)
    if metric is None:
        note_majority(task, completed["test"], notes)
    return TaskData.of(task, completed, notes, {"source": loaded.name})


def _without_labels(loaded: RawData, asked: Asked, kind: TaskKind) -> TaskData:
    """Read rows of a task whose labels are placeholders."""
    named_columns, labels = asked.columns, asked.labels or ("text",)
    first, per_token = loaded.splits["train"], kind.traits.per_token
    words = (named_columns["tokens"] or text_column(first)) if per_token else None
    tables = {split: with_placeholders(data, kind, labels, words, split) for split, data in loaded.splits.items()}
    columns = resolve(
        tables["train"],
        text=None if per_token else named_columns["text"],
        text_pair=None if per_token else named_columns["text_pair"],
        label=None if per_token else COLUMN,
        tokens=words,
        tags=COLUMN if per_token else None,
        kind=kind,
        group=named_columns["group"],
    )
    notes = ["no labels were seen: the model's own answers stand for them, in what is chosen, trained and measured"]
    # A column of labels may have a name that is not known as one.
    notes += (f"{note} (--label and --tags name one of labels)" for note in _unused(tables["train"], {*columns.names}))
    splits, space = _read(tables, columns, kind, labels, notes, None, space_of_model(kind, labels))
    task = Task(space.kind, space.kind.traits.metrics[0], space.labels)
    task = task.alike if asked.metric is None else replace(task, metric=asked.metric)
    completed = complete(splits, asked.seed, notes, fine_tuned=True, single=loaded.single or len(splits) == 1)
    return replace(TaskData.of(task, completed, notes, {"source": loaded.name}), labelled=False)


def _unused(data: Dataset, used: Container[str]) -> list[str]:
    """Return a note on the columns that are not used, if there are some."""
    unused = [column for column in data.column_names if column not in used]
    return [f"columns not used: {listed(unused)}"] if unused else []


def _usual_metric(space: Space, notes: list[str]) -> Metric:
    scheme = scheme_of(space.labels) if space.kind.traits.per_token else None
    if scheme is None:
        if space.kind.traits.per_token and resembles_scheme(space.labels):
            notes.append(
                f"metric: the share of right words, since {listed([*space.labels])} look like tags of entities and are of no scheme: "
                "BIO, BILOU and IOBES are read, in the form B-PER"
            )
        return space.kind.traits.metrics[0]
    notes.append(
        f"metric: entity F1 as conlleval counts, the tags are {scheme}, and the share of right words beside it; its interval resamples "
        "sentences (--metric accuracy for words alone)"
    )
    return Metric.ENTITY_F1


E = TypeVar("E", TaskKind, Metric)


def _member(enum: type[E], value: str, parameter: str) -> E:
    try:
        return enum(value)
    except ValueError:
        names: list[str] = [member.value for member in list[E](enum)] + (list(ALIASES) if enum is TaskKind else [])
        raise ParameterError(parameter, "load_data", f"one of {', '.join(names)}", str(value)) from None


def _embedded(options: dict[str, str], kind: TaskKind | None, metric: Metric | None, labels: Sequence[str] | None, seed: int) -> TaskData:
    from prunekit.data.demo import load_docstrings

    for parameter, value in options.items():
        raise ParameterError(parameter, "load_data", "given with a source only, the embedded data has columns of its own", value)
    if kind not in (None, TaskKind.CLASSIFICATION):
        raise ParameterError("task", "load_data", f"{TaskKind.CLASSIFICATION.value!r} for the embedded data", str(kind))
    data = load_docstrings(seed=seed)
    task, splits = data.task, data.splits
    if labels is not None:
        names = task.labels
        space = space_of(names, column="library", declared=None, kind=None, model=tuple(labels), per_token=False)
        ids = np.array([space.ids[name] for name in names], dtype=np.int64)
        task = replace(task, labels=space.labels)
        splits = {name: replace(rows, labels=ids[rows.labels]) for name, rows in splits.items()}
    if metric is not None:
        task = replace(task, metric=metric)
    return TaskData.of(task, splits, data.notes, data.provenance)


def _read(
    tables: dict[str, Dataset],
    columns: Columns,
    kind: TaskKind | None,
    model: tuple[str, ...] | None,
    notes: list[str],
    order: tuple[str, ...] | None,
    known: Space | None = None,
    *,
    value: bool = False,
) -> tuple[dict[str, GroupedRows], Space]:
    """Read the rows of every split that has labels, in the label space of train; `order` is that of label columns that were named."""
    raw = {"train": _values(tables["train"], columns, "train")}
    train_labels = set(_flat(raw["train"], columns))
    for name in (name for name in tables if name != "train"):
        if columns.label not in tables[name].column_names:
            notes.append(f"{name}: not used, it has no column {columns.label!r}")
            continue
        values = _values(tables[name], columns, name)
        split_labels = set(_flat(values, columns))
        unlabelled = (
            all(row is None for row in values[columns.label])
            if columns.sets
            else withheld(split_labels) and not split_labels & train_labels
        )
        if unlabelled:
            notes.append(f"{name}: not used, its rows have no labels")
            continue
        raw[name] = values
    declared = order or class_names(tables["train"], columns.label)
    if columns.sets and declared is None and model is not None and len(model) == 1:
        for values in raw.values():
            values[columns.label] = flags_of_one(values[columns.label])
    width = indicator_width(raw["train"][columns.label], columns.label, model) if columns.sets and declared is None else 0
    if width:
        numbers_of = "a number in each row, 0 or 1" if width == 1 else f"{width} numbers in each row, 0 or 1, one for each label"
        notes.append(f"labels: {columns.label!r} holds {numbers_of}")
    for name, values in raw.items():
        if width:
            values[columns.label] = indicated(values[columns.label], width, columns.label, name)
        _check_rows(values, columns, name)

    padded = value or (kind is not None and kind.traits.values)
    # A file of another kind may hold the numbers of train as text.
    numbers = declared is None and (all(map(is_number, train_labels)) or reads_as_numbers(train_labels, padded=padded))
    flat = {name: plain(_flat(values, columns), columns.label, name, numbers=numbers, padded=padded) for name, values in raw.items()}
    per_token = columns.tokens is not None
    # A label that a fine-tuned model has need not be in train.
    shown = flat["train"] if model is None else list(chain.from_iterable(flat.values()))
    space = known or space_of(
        shown, column=columns.label, declared=declared, kind=kind, model=model, per_token=per_token, sets=columns.sets, value=value
    )
    if space.note:
        notes.append(space.note)
    if declared is not None and model is None and len(space.labels) < len(declared):
        absent = [name for name in declared if name not in space.labels]
        notes.append(f"labels: left out, train does not show them: {listed(absent)}")
    seen = set(shown)
    lacking = sorted(map(str, seen - set(flat["train"])))
    if lacking and not space.kind.traits.values:
        notes.append(f"labels: in no row of train, known to the model's own head alone: {listed(lacking)}")
    rows = {name: _rows(values, flat[name], columns, space, seen, name) for name, values in raw.items()}
    group = columns.group
    names = {name: None if group is None else group_names(values[group], group, name) for name, values in raw.items()}
    return {name: GroupedRows(rows[name], names[name]) for name in raw}, space


def _values(data: Dataset, columns: Columns, split: str) -> dict[str, list[Any]]:
    """Read the columns of a split as Python values; declared classes by their names, -1 among these as no label."""
    for column in columns.names:
        if column not in data.column_names:
            raise DataError(f"The {split} split has no column {column!r}, which train has. It has {listed(data.column_names)}.")
    values = read_columns(data, columns.names, split)
    names = class_names(data, columns.label)
    if names is not None:
        by_id: dict[int | None, str | None] = {**dict(enumerate(names)), None: None, -1: None}
        ids, lists = values[columns.label], is_list(data, columns.label)
        undeclared = {i for i in (chain.from_iterable(row or () for row in ids) if lists else ids) if i not in by_id}
        if undeclared:
            raise DataError(
                f"The column {columns.label!r} of {split} holds the class {min(undeclared)}, and declares {len(names)} classes."
            )
        values[columns.label] = [None if row is None else [by_id[i] for i in row] for row in ids] if lists else [by_id[i] for i in ids]
    if columns.sets and not is_list(data, columns.label):
        values[columns.label] = one_each(values[columns.label], columns.label, split)
    return values


def _flat(values: dict[str, list[Any]], columns: Columns) -> list[Any]:
    column = values[columns.label]
    if columns.listed:
        column = list(chain.from_iterable(row or () for row in column))
    for value in column:
        if isinstance(value, list | dict):
            kind = type(value).__name__
            if columns.sets:
                raise DataError(f"The label column {columns.label!r} holds a {kind} in a list: a list of names is needed in each row.")
            if columns.tokens is not None:
                raise DataError(f"The tags column {columns.label!r} holds a {kind} for a word: one tag a word is needed.")
            raise DataError(
                f"The label column {columns.label!r} holds a {kind} in each row: one label a row is needed (for one a word, --tags)."
            )
    return column


def _check_rows(values: dict[str, list[Any]], columns: Columns, split: str) -> None:
    def check(column: str, problem: str, bad: Callable[[int, Any], bool]) -> None:
        refuse(values[column], column, split, problem, bad)

    for column in (columns.text, columns.pair):
        if column is not None:
            text_values(values[column], column, split)
    if columns.sets:
        for at, fault in faults(values[columns.label]):
            raise DataError(f"Row {at + 1} of {split} {fault}, in column {columns.label!r} (the first row is 1).")
        return
    if columns.tokens is None:
        check(columns.label, "has no label", lambda _, value: value is None or value == "")
        return
    words = values[columns.tokens]
    check(columns.tokens, "is empty", lambda _, row: not row)
    check(columns.tokens, "holds other than words", lambda _, row: not all(isinstance(word, str) for word in row))
    check(columns.tokens, f"holds more than {CELL:,} characters", lambda _, row: sum(map(len, row)) > CELL)
    check(columns.label, "has not one tag a word", lambda at, row: len(row or ()) != len(words[at]))
    check(columns.label, "has words without a tag", lambda _, row: any(tag in (None, "", _IGNORED) for tag in row))


def _rows(values: dict[str, list[Any]], labels: list[Label], columns: Columns, space: Space, seen: set[Label], split: str) -> Rows:
    values_asked = space.kind.traits.values
    encoded: NDArray[Any] = targets_of(labels, columns.label, split) if values_asked else ids_of(labels, columns.label, space, seen, split)
    if columns.tokens is None:
        assert columns.text is not None
        pairs = None if columns.pair is None else tuple(values[columns.pair])
        if columns.sets:
            encoded = as_table(encoded, [len(row) for row in values[columns.label]], len(space.labels))
        return Rows(labels=encoded, texts=tuple(values[columns.text]), pairs=pairs)
    words = tuple(tuple(row) for row in values[columns.tokens])
    ends = np.cumsum([len(row) for row in words])[:-1]
    return Rows(labels=tuple(np.split(encoded, ends)), tokens=words)
