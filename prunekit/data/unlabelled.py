"""Texts without labels: a fine-tuned model's answers serve as labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.batches import Encoded
from prunekit.data.columns import LABELS, OTHER_LABELS, TAGS, is_list, read_columns
from prunekit.data.labels import Space
from prunekit.data.rows import Rows, TaskData
from prunekit.errors import DataError
from prunekit.metrics.spans import Reference, answered_text
from prunekit.tasks import Task, TaskKind

if TYPE_CHECKING:
    from datasets import Dataset

#: The column of the placeholders for labels, until the model has answered.
COLUMN = "(no labels)"


def lacks_labels(data: Dataset) -> bool:
    """Return whether a table has no column with a name of labels, and none of lists with a name of tags."""
    texts, words = {*LABELS, *OTHER_LABELS}, {*TAGS}
    return not any(name.casefold() in texts or (name.casefold() in words and is_list(data, name)) for name in data.column_names)


def with_placeholders(data: Dataset, kind: TaskKind, labels: tuple[str, ...], words: str | None, split: str) -> Dataset:
    """Add a column of placeholders: the first class, the value 0, or no label at all; for a token task one a word."""
    rows = len(data)
    if COLUMN in data.column_names:
        raise DataError(f"The {split} split has a column {COLUMN!r}: give it another name.")
    if kind.traits.per_token:
        lists = [[labels[0]] * (len(row) if isinstance(row, list) else 0) for row in read_columns(data, [str(words)], split)[str(words)]]
        return data.add_column(COLUMN, lists)
    if kind.traits.many:
        from datasets import Sequence, Value

        return data.add_column(COLUMN, [[] for _ in range(rows)], feature=Sequence(Value("string")))
    return data.add_column(COLUMN, [0.0 if kind.traits.values else labels[0]] * rows)


def space_of_model(kind: TaskKind, labels: tuple[str, ...]) -> Space:
    """Return the label space of the model's head."""
    return Space(kind, () if kind.traits.values else labels, {} if kind.traits.values else {labels[0]: 0})


def answered(data: TaskData, encoded: Mapping[str, Encoded], outputs: Mapping[str, NDArray[Any]]) -> tuple[TaskData, dict[str, Encoded]]:
    """Replace labels by a model's answers.

    Parameters
    ----------
    data : TaskData
        With placeholders.
    encoded : {split: Encoded}
        Every word of a token task with a token (see `readable`).
    outputs : {split: (m, C) float}
        The model's outputs, in the order of `Encoded.labels`.
    """
    task = data.task
    splits = {name: _labelled(task, rows, encoded[name], outputs[name]) for name, rows in data.splits.items()}
    labelled = data.with_splits({name: rows for name, (rows, _) in splits.items()})
    return labelled, {name: part for name, (_, part) in splits.items()}


def _labelled(task: Task, rows: Rows, encoded: Encoded, outputs: NDArray[Any]) -> tuple[Rows, Encoded]:
    if encoded.windows is not None:
        references = _own_answers(encoded, outputs)
        return replace(rows, labels=references), replace(encoded, windows=replace(encoded.windows, references=references))
    labels: NDArray[Any] = task.answers(outputs)
    if encoded.words is None:
        return replace(rows, labels=labels), replace(encoded, labels=labels)
    by_row = tuple(np.split(labels, encoded.word_starts[1:-1]))
    return replace(rows, labels=by_row), replace(encoded, labels=labels, words=replace(encoded.words, labels=labels))


def _own_answers(encoded: Encoded, outputs: NDArray[Any]) -> NDArray[Any]:
    """Return a model's answers to questions, as references."""
    references = np.empty(len(encoded.every_label), dtype=object)
    for at, (span, reference) in enumerate(zip(encoded.every(outputs), encoded.every_label, strict=True)):
        text = answered_text(span, reference)
        references[at] = Reference(reference.context, *(((text,), (int(span[0]),)) if text else ()))
    return references


def readable(rows: Rows, encoded: Encoded) -> Rows:
    """Return the rows of a token task without the words that have no token: a model has no answer for them."""
    if encoded.words is None:
        return rows
    kept = np.split(encoded.words.ids, encoded.word_starts[1:-1])
    tokens = tuple(tuple(words[int(at)] for at in ids) for words, ids in zip(rows.tokens, kept, strict=True))
    labels = tuple(np.zeros(len(words), dtype=np.int64) for words in tokens)
    full = [at for at, words in enumerate(tokens) if words]
    return Rows(labels=labels, tokens=tokens).take(full)
