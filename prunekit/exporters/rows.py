"""Rows of a task for a file: those on which int8 is tried and calibrated, and those on which the files are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prunekit.arch.config import WINDOW
from prunekit.arch.load import class_names
from prunekit.arch.stated import expected_labels
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.data.options import Column
from prunekit.data.order import check_order
from prunekit.data.rows import Rows
from prunekit.errors import ParameterError
from prunekit.exporters.fidelity import Feeds, fidelity, replies
from prunekit.exporters.layout import short_name
from prunekit.exporters.onnx import OnnxFile
from prunekit.exporters.source import Source
from prunekit.label_sets import read_thresholds
from prunekit.runtime.records import Fidelity, Score
from prunekit.runtime.scores import outputs_of_file, score_of
from prunekit.runtime.session import OnnxSession
from prunekit.tasks import Task, TaskKind

#: Rows on which int8 is tried, and on which fixed ranges are calibrated.
SEARCH = 256
CALIBRATION = 64
_ROWS = 16  # in a batch
_TASKS = ("text-classification", "token-classification", "question-answering")


class Samples(NamedTuple):
    """Batches {name: int64 (b, L)}: of validation, to choose what stays float32, and of train, to set fixed ranges."""

    search: tuple[Feeds, ...] = ()
    calibration: tuple[Feeds, ...] = ()


def samples(
    train: Rows,
    validation: Encoded,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    per_token: bool,
    seed: int,
    stride: int | None = None,
) -> Samples:
    """Draw the rows of `prunekit.exporters.precision.lower`.

    Parameters
    ----------
    train : Rows
    validation : Encoded
    tokenizer : PreTrainedTokenizerBase
        For the rows of train that are drawn.
    max_length, per_token, stride
        As in `prunekit.data.batches.encode`.
    seed : int
    """
    chosen = np.random.default_rng(seed).permutation(len(train))[:CALIBRATION]
    drawn = encode(train.take(chosen), tokenizer, max_length=max_length, per_token=per_token, stride=stride)
    if drawn.windows is not None:
        drawn = drawn.sample(CALIBRATION, seed)
    search, calibration = (
        tuple(batch.inputs for batch in found.batches(max_rows=_ROWS)) for found in (validation.sample(SEARCH, seed), drawn)
    )
    return Samples(search, calibration)


@dataclass(frozen=True, eq=False)
class Judge:
    """A task's rows as an exported model reads them.

    Attributes
    ----------
    name : str
        Of the data, without what leads to it.
    task : Task or None
        None where no metric is about the outputs: a bare encoder's.
    samples : Samples
    test : Encoded
    thresholds : float64 ndarray of shape (C,), or 0
        Logits above which a label is there, where a row has any number of them: those of the model's config, or of a half.
    """

    name: str
    task: Task | None
    samples: Samples
    test: Encoded
    seed: int
    thresholds: NDArray[np.float64] | float = 0.0

    def scores(self, files: Mapping[str, OnnxFile]) -> dict[str, Score]:
        """The metric of each file on the test split, and how far it is from the first; empty without a metric."""
        if self.task is None:
            return {}
        read = {name: outputs_of_file(file.path, self.test) for name, file in files.items()}
        if self.task.many:
            read = {name: found - self.thresholds for name, found in read.items()}
        elif self.task.labels:
            starts = self.test.word_starts if self.task.per_token else None
            check_order(next(iter(read.values())), self.test.labels, self.task.labels, starts=starts, seed=self.seed)
        outputs = {name: self.test.every(found) for name, found in read.items()}
        labels, starts = self.test.every_label, self.test.every_start
        reference = next(iter(outputs.values()))
        return {name: score_of(self.task, found, labels, reference, seed=self.seed, starts=starts) for name, found in outputs.items()}

    def fidelity(self, low: OnnxFile, plain: OnnxFile) -> Fidelity:
        """How far a file is from another on the test split."""
        got, want = (replies(OnnxSession(file.path), (batch.inputs for batch in self.test.batches())) for file in (low, plain))
        return fidelity(got, want)


def judge_of(source: Source, data: str | Path, columns: Mapping[Column, str | None], *, seed: int) -> Judge:
    """Read a task's data for a model.

    Parameters
    ----------
    source : Source
    data : path or str
        As `prunekit.data.load.load_data` reads it.
    columns : mapping
        Of `load_data`'s parameters.
    seed : int

    Raises
    ------
    DataError, ParameterError
        Data that cannot be read, or is not for the model's head.
    """
    spans = source.head == "question-answering"
    named = class_names(source.config) if source.head in _TASKS and not spans else None
    labels = expected_labels(named, per_token=source.head == "token-classification", tags=columns.get("tags"))
    given: Any = {**columns}
    many = source.head == "text-classification" and ModelView.of(source.model).many_labels
    if many:
        given["task"] = TaskKind.LABELS
    elif spans:
        given["answers"] = TaskKind.QUESTIONS
    elif source.head == "text-classification" and source.config.num_labels == 1:
        # A column of queries then makes lists of the rows.
        given["answers"] = TaskKind.REGRESSION
    found = load_data(str(data), labels=labels, fine_tuned=source.head in _TASKS, seed=seed, **given)
    if not found.labelled:
        raise ParameterError("data", "export", "given with a column of labels, on which the files are scored", str(data))
    task = found.task
    if source.head in _TASKS:
        # A regression's head is for texts by its name.
        wanted = task.kind.traits.pipeline if task.per_token or task.kind.traits.spans else "text-classification"
        if wanted != source.head or task.many != many or task.outputs != source.config.num_labels:
            must = f"for the model's head, {source.head} with {source.config.num_labels} outputs"
            raise ParameterError("data", "export", must, f"{data}: {task.kind.value} with {task.outputs}")
    longest = min(source.space.max_length, WINDOW) if task.kind.traits.spans else source.space.max_length
    read: dict[str, Any] = {"max_length": longest, "per_token": task.per_token}
    encoded = {name: encode(found.splits[name], source.tokenizer, **read) for name in ("validation", "test")}
    drawn = samples(found.train, encoded["validation"], source.tokenizer, **read, seed=seed)
    cut = read_thresholds(getattr(source.config, "thresholds", None), task.outputs, f"The model {source.name!r}") if many else 0.0
    return Judge(short_name(str(data)), task if source.head in _TASKS else None, drawn, encoded["test"], seed, cut)
