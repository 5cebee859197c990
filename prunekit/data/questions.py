"""Questions on contexts, in SQuAD's layout: rows, or its own nested file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.data.cells import parsed
from prunekit.data.columns import absent, group_names, read_columns, text_values
from prunekit.data.complete import GroupedRows, complete
from prunekit.data.files import RawData
from prunekit.data.labels import listed
from prunekit.data.rows import Rows, TaskData
from prunekit.errors import DataError, ParameterError
from prunekit.metrics import Metric
from prunekit.metrics.spans import Reference
from prunekit.tasks import Task, TaskKind

if TYPE_CHECKING:
    from datasets import Dataset

#: The columns by their names, and the options that name others.
COLUMNS = {"text": "question", "text_pair": "context", "label": "answers"}
#: Most answers to one question.
ANSWERS = 1000
_FORM = "{'text': [...], 'answer_start': [...]}"


def holds_questions(data: Dataset) -> bool:
    """Return whether a table has the columns of SQuAD, by name."""
    return set(COLUMNS.values()) <= set(data.column_names)


def load_questions(
    source: RawData, named: Mapping[str, str | None], *, metric: Metric | None, fine_tuned: bool, answering: bool, seed: int
) -> TaskData:
    """Read questions, contexts and answers.

    Questions on one context stay on one side of every cut.

    Parameters
    ----------
    source : RawData
    named : mapping
        Columns as the user named them: text (the question), text_pair (the context), label (the answers), group; others must be None.
    metric : Metric, optional
        Default: F1 of the words of an answer.
    fine_tuned : bool
        Whether the model may have been trained on train.
    answering : bool
        Whether the model has a head for the task, whose answers replace those of data without a column of answers.
    seed : int
        Seed of the cuts.

    Raises
    ------
    DataError
        A column that is missing, or a row that cannot be used.
    ParameterError
        A named column that does not exist, or is of another task.
    """
    for parameter in ("tokens", "tags"):
        if named.get(parameter) is not None:
            raise ParameterError(parameter, "load_data", "left out for questions, which are read as texts", named[parameter])
    first = source.splits["train"]
    for parameter in (*COLUMNS, "group"):
        name = named.get(parameter)
        if name is not None and name not in first.column_names:
            raise absent(parameter, name, first.column_names)
    columns = {parameter: named.get(parameter) or usual for parameter, usual in COLUMNS.items()}
    labelled = named.get("label") is not None or columns["label"] in first.column_names or not answering
    notes: list[str] = []
    parts = {}
    for split, data in source.splits.items():
        if labelled and split != "train" and columns["label"] not in data.column_names:
            notes.append(f"{split}: not used, it has no column {columns['label']!r}")
            continue
        parts[split] = _read_split(data, columns, named.get("group"), split, labelled=labelled)
    used = {*columns.values(), named.get("group")}
    unused = [name for name in first.column_names if name not in used]
    if unused:
        notes.append(f"columns not used: {listed(unused)}")
    if not labelled:
        notes.append("no answers were seen: the model's own stand for them, in what is trained and measured")
    if labelled and not any(label.texts for label in parts["train"].rows.references):
        raise DataError(f"No question of train has an answer: give some, or leave the column {columns['label']!r} out.")
    silent = labelled and any(not label.texts for label in parts["train"].rows.references)
    if silent:
        parts = {split: GroupedRows(replace(part.rows, silent=True), part.names) for split, part in parts.items()}
    for split, part in parts.items():
        empty = sum(not label.texts for label in part.rows.references)
        if labelled and empty and not silent:
            raise DataError(
                f"{empty} questions of {split} have no answer, and none of train: whether there is one cannot be learned. "
                "Leave them out, or give such questions to train."
            )
        if empty and labelled:
            notes.append(f"{split}: {empty:,} of {len(part.rows):,} questions have no answer in their context")
    splits = complete(parts, seed, notes, fine_tuned=fine_tuned or not labelled, single=source.single or len(parts) == 1)
    task = Task(TaskKind.QUESTIONS, metric or TaskKind.QUESTIONS.traits.metrics[0])
    return replace(TaskData.of(task, splits, notes, {"source": source.name}), labelled=labelled)


def _read_split(data: Dataset, columns: Mapping[str, str], group: str | None, split: str, *, labelled: bool) -> GroupedRows:
    required = [columns["text"], columns["text_pair"], *([columns["label"]] if labelled else []), *([group] if group else [])]
    missing = [name for name in required if name not in data.column_names]
    if missing:
        hint = "question, context and answers by their names, or --text, --text-pair and --label"
        raise DataError(f"The {split} split has no column {missing[0]!r}: questions need {hint}. It has {listed(data.column_names)}.")
    values = read_columns(data, list(dict.fromkeys(required)), split)
    texts, contexts = (text_values(values[columns[name]], columns[name], split) for name in ("text", "text_pair"))
    labels = np.empty(len(texts), dtype=object)
    for at, context in enumerate(contexts):
        where = f"Row {at + 1} of {split} (the first row is 1)"
        labels[at] = _reference(values[columns["label"]][at], context, columns["label"], where) if labelled else Reference(context)
    names = None if group is None else group_names(values[group], group, split)
    return GroupedRows(Rows(labels=labels, texts=texts, pairs=contexts), names)


def _reference(value: Any, context: str, column: str, where: str) -> Reference:
    """Return the reference of a row's answers, which are lists in an object or objects in a list; of a CSV the text of one."""
    value = parsed(value)
    if isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        value = {name: [answer.get(name) for answer in value] for name in ("text", "answer_start")}
    texts, starts = (value.get(name) for name in ("text", "answer_start")) if isinstance(value, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise DataError(f"{where} must hold {_FORM} in column {column!r}. It holds {_describe(value)}.")
    if len(texts) != len(starts) or len(texts) > ANSWERS:
        must = f"as many texts as starts, {ANSWERS} at most"
        raise DataError(f"{where} must hold {must}, in column {column!r}. It holds {len(texts)} and {len(starts)}.")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text or isinstance(start, bool) or not isinstance(start, int):
            raise DataError(f"{where} must hold texts and whole numbers in column {column!r}. It holds {str((text, start))[:80]}.")
        if start < 0 or context[start : start + len(text)] != text:
            raise DataError(
                f"{where} has the answer {text[:40]!r} at character {start}, where its context has "
                f"{context[max(start, 0) : max(start, 0) + min(len(text), 40)]!r}."
            )
    return Reference(context, tuple(texts), tuple(starts))


def _describe(value: Any) -> str:
    if value is None:
        return "nothing; the lists are empty where there is no answer"
    if isinstance(value, str):
        return f"text that is neither JSON nor a Python literal, {value[:40]!r}"
    if isinstance(value, dict):
        return f"an object with {listed(list(value))}" if value else "an empty object"
    return f"a {type(value).__name__}"
