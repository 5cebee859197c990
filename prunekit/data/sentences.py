"""Texts for an embedder: single ones or pairs, with or without similarity scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from prunekit.data.columns import LABELS, absent, group_names, pair_columns, read_columns, text_column, text_values
from prunekit.data.complete import Grouped, complete
from prunekit.data.files import Source
from prunekit.data.labels import VALUE, as_number, listed
from prunekit.data.rows import Rows, TaskData
from prunekit.errors import DataError, ParameterError
from prunekit.metrics import Metric
from prunekit.tasks import Task, TaskKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datasets import Dataset

#: Least number of texts of a split that is evaluated: fewer have no meaningful neighbours.
LEAST = 3
_SCORED = (Metric.SPEARMAN, Metric.PEARSON)


def load_sentences(source: Source, named: Mapping[str, str | None], *, metric: Metric | None, seed: int) -> TaskData:
    """Read texts; scores, where a split has some, are for evaluation and never learned.

    Parameters
    ----------
    source : Source
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
    parts = {split: _read_split(data, named, split) for split, data in source.splits.items()}
    notes: list[str] = []
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


def _read_split(data: Dataset, named: Mapping[str, str | None], split: str) -> Grouped:
    """Read the texts of one split, which need not have the columns of another."""
    group = named.get("group")
    if group is not None and group not in data.column_names:
        raise DataError(f"The {split} split has no column {group!r}, which names the groups. It has {listed(data.column_names)}.")
    named = {parameter: name for parameter, name in named.items() if name is not None and name in data.column_names}
    first, second = named.get("text"), named.get("text_pair")
    if first is None and second is None:
        first, second = pair_columns(data) or (text_column(data), None)
    first = first or text_column(data)
    label = named.get("label") or next((name for name in data.column_names if second and name.casefold() in LABELS), None)
    columns = [name for name in dict.fromkeys((first, second, label, group)) if name is not None]
    values = read_columns(data, columns, split)
    texts = text_values(values[first], first, split)
    pairs = None if second is None else text_values(values[second], second, split)
    scores = np.full(len(texts), np.nan)
    if label is not None:
        if pairs is None:
            raise ParameterError("label", "load_data", "left out without pairs of texts, of which it is the score", label)
        scores = np.array(_scores(values[label], label, split))
    rows = Rows(labels=scores, texts=texts, pairs=pairs)
    return Grouped(rows, None if group is None else group_names(values[group], group, split))


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
