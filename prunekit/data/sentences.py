"""Texts for an embedder: single ones or pairs, with or without similarity scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from prunekit.data.columns import (
    LABELS,
    absent,
    class_names,
    group_names,
    holds_words,
    pair_columns,
    read_columns,
    refuse,
    text_column,
    text_values,
    triple_columns,
)
from prunekit.data.complete import GroupedRows, complete
from prunekit.data.files import CELL, RawData
from prunekit.data.labels import VALUE, as_number, listed, withheld
from prunekit.data.rows import Rows, TaskData
from prunekit.data.unlabelled import lacks_labels
from prunekit.errors import DataError, ParameterError
from prunekit.metrics import Metric
from prunekit.tasks import Task, TaskKind

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from datasets import Dataset

#: Least number of texts of a split that is evaluated: fewer have no meaningful neighbours.
LEAST = 3
_SCORED = (Metric.SPEARMAN, Metric.PEARSON)


def are_sentences(loaded: RawData, named_columns: Mapping[str, str | None], kind: TaskKind | None, answers: TaskKind | None) -> bool:
    """Return whether rows are read as texts for an embedder: where the task is named, or by the model, unless they are words with tags."""
    if kind is not None or answers is not TaskKind.EMBEDDING:
        return kind is TaskKind.EMBEDDING
    named, train = named_columns["tokens"] or named_columns["tags"], loaded.splits["train"]
    return named is None and not (holds_words(train) and not lacks_labels(train))


def load_sentences(source: RawData, named: Mapping[str, str | None], *, metric: Metric | None, seed: int) -> TaskData:
    """Read texts; scores, where a split has some, are for evaluation and never learned.

    Parameters
    ----------
    source : RawData
    named : mapping
        Columns as the user named them: text, text_pair, label (the score), group; others must be None.
    metric : Metric, optional
        Default: Spearman's correlation with the scores where the test split has some, else the cosine to the dense model's vectors.
    seed : int
        Seed of the cuts.

    Returns
    -------
    TaskData
        The labels are float64 scores, NaN where a split has none.

    Raises
    ------
    DataError
        A column, text or score that cannot be used.
    ParameterError
        A column that does not exist, or a metric that needs scores where there are none.
    """
    for parameter in ("tokens", "tags"):
        if named.get(parameter) is not None:
            raise ParameterError(parameter, "load_data", "left out for an embedder, which reads texts", named[parameter])
    for parameter in ("text", "text_pair", "label", "group"):
        name = named.get(parameter)
        if name is not None and not any(name in data.column_names for data in source.splits.values()):
            raise absent(parameter, name, source.splits["train"].column_names)
    notes: list[str] = []
    unscored: list[str] = []
    parts = {split: _read_split(data, named, split, notes, unscored) for split, data in source.splits.items()}
    if not all(np.isnan(np.asarray(part.rows.labels)).all() for part in parts.values()):
        for split in unscored:
            if split != "train":
                notes.append(f"{split}: not used, its rows have no scores")
                del parts[split]
    splits = complete(parts, seed, notes, fine_tuned=False, single=source.single)
    scored = not np.isnan(np.asarray(splits["test"].labels)).any()
    wanted_metric = metric or (Metric.SPEARMAN if scored else Metric.COSINE)
    if wanted_metric in _SCORED and not scored:
        must = "cosine where the test split has no scores of pairs (columns text, text_pair and score)"
        raise ParameterError("metric", "load_data", must, wanted_metric.value)
    for name in ("validation", "test"):
        _check_held(splits[name], name)
    paired = [split for split, part in parts.items() if part.rows.pairs is not None]
    notes.append(f"texts: {', '.join(f'pairs in {split}' for split in paired) or 'single ones'}; no labels were learned from")
    return TaskData.of(Task(TaskKind.EMBEDDING, wanted_metric), splits, notes, {"source": source.name})


def _check_held(rows: Rows, name: str) -> None:
    texts = set(rows.texts) | set(rows.pairs or ())
    if len(texts) < LEAST:
        raise DataError(f"The {name} split has {len(texts)} different texts; {LEAST} are needed at least: give more.")
    scores = np.asarray(rows.labels)
    if not np.isnan(scores).any() and np.ptp(scores) == 0:
        raise DataError(f"The scores of {name} are all {scores[0]:g}: nothing can be compared with them.")


def _read_split(data: Dataset, named: Mapping[str, str | None], split: str, notes: list[str], unscored: list[str]) -> GroupedRows:
    """Read the texts of one split, which need not have the columns of another; one whose scores are withheld is added to `unscored`."""
    group = named.get("group")
    if group is not None and group not in data.column_names:
        raise DataError(f"The {split} split has no column {group!r}, which names the groups. It has {listed(data.column_names)}.")
    named = {parameter: name for parameter, name in named.items() if name is not None and name in data.column_names}
    first, second = named.get("text"), named.get("text_pair")
    if not any(named.get(parameter) for parameter in ("text", "text_pair", "label")) and (triple := triple_columns(data)):
        return _read_triples(data, triple, group, split, notes)
    if first is None and second is None:
        first, second = pair_columns(data) or (text_column(data), None)
    first = first or text_column(data)
    label = named.get("label") or next((name for name in data.column_names if second and name.casefold() in LABELS), None)
    columns = [name for name in dict.fromkeys((first, second, label, group)) if name is not None]
    unused = [name for name in data.column_names if name not in columns]
    if unused and split == "train":
        notes.append(f"columns not used: {listed(unused)} (--label names one of scores)")
    values = read_columns(data, columns, split)
    texts = text_values(values[first], first, split)
    pairs = None if second is None else text_values(values[second], second, split)
    scores = np.full(len(texts), np.nan)
    if label is not None:
        if pairs is None:
            raise ParameterError("label", "load_data", "left out without pairs of texts, of which it is the score", label)
        if withheld(values[label]):
            unscored.append(split)
        elif label != named.get("label") and "score" not in label.casefold() and _are_classes(values[label], class_names(data, label)):
            notes.append(f"{split}: the column {label!r} is not used, it holds classes and no scores")
        else:
            scores = np.array(_scores(values[label], label, split))
    rows = Rows(labels=scores, texts=texts, pairs=pairs)
    return GroupedRows(rows, None if group is None else group_names(values[group], group, split))


def _read_triples(data: Dataset, columns: Sequence[str], group: str | None, split: str, notes: list[str]) -> GroupedRows:
    """Read a text, those that are like it and those that are not, as texts one by one; the like ones stay on one side of every cut.

    A number beside them is no score of two of them: it is the margin between two pairs, where there is one.
    """
    values = read_columns(data, [*columns, *([] if group is None else [group])], split)
    for name in columns:
        # A row need not have a text that is unlike its own.
        none = () if name in columns[:2] else (None, "")
        cells = values[name] = [cell if isinstance(cell, list) else [] if cell in none else [cell] for cell in values[name]]
        refuse(cells, name, split, "holds no text", lambda _, cell: not all(text is None or isinstance(text, str) for text in cell))
        refuse(cells, name, split, "is empty", lambda _, cell: any(not text or text.isspace() for text in cell))
        refuse(cells, name, split, f"holds a text of more than {CELL:,} characters", lambda _, cell: any(len(text) > CELL for text in cell))
    cells_of = [(at, name, values[name][at]) for at in range(len(data)) for name in columns]
    texts = tuple(text for _, _, cell in cells_of for text in cell)
    if group is None:
        # What is unlike one text may be like another: by such texts nearly all rows would belong together.
        owners: tuple[Hashable, ...] = tuple((split, at) if name in columns[:2] else None for at, name, cell in cells_of for _ in cell)
    else:
        names = group_names(values[group], group, split)
        owners = tuple(names[at] for at, _, cell in cells_of for _ in cell)
    notes.append(f"{split}: the texts of {listed(columns)} are read one by one")
    return GroupedRows(Rows(labels=np.full(len(texts), np.nan), texts=texts), owners)


def _are_classes(values: Sequence[object], declared: tuple[str, ...] | None) -> bool:
    """Return whether labels of pairs are classes without an order: names, or the ids of more than two declared ones."""
    if declared is not None:
        return len(declared) > 2
    # Without a letter it is a number that is written in another way, such as "4,5", and a mistake.
    words = (isinstance(value, str) and isinstance(as_number(value), str) and any(map(str.isalpha, value)) for value in values)
    return all(words)


def _scores(values: Sequence[object], column: str, split: str) -> list[float]:
    scores = []
    for row, value in enumerate(map(as_number, values)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or abs(value) > VALUE:  # type: ignore[arg-type]  # a number, as tested
            shown = "nothing" if value is None else str(value)[:40]
            must = f"a number between -{VALUE:g} and {VALUE:g}"
            raise DataError(f"The score column {column!r} of {split} must hold {must}. Row {row + 1} holds {shown!r} (the first row is 1).")
        scores.append(float(value))  # type: ignore[arg-type]  # a number, as tested
    return scores
