"""Rows of a task for exported files: those on which int8 is searched and calibrated, and those on which the files are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prunekit.arch.config import WINDOW
from prunekit.arch.head import expected_labels, read_thresholds
from prunekit.arch.load import class_names
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.data.options import Column
from prunekit.data.order import check_order
from prunekit.data.rows import Rows
from prunekit.errors import ParameterError
from prunekit.exporters.fidelity import Feeds, fidelity_of
from prunekit.exporters.layout import short_name
from prunekit.exporters.onnx import OnnxFile
from prunekit.exporters.source import Exportable
from prunekit.runtime.records import Fidelity, Score
from prunekit.runtime.scores import outputs_of_file, score_of
from prunekit.runtime.session import OnnxSession
from prunekit.tasks import Task, TaskKind

#: Rows on which int8 is tried, and on which fixed ranges are calibrated.
SEARCH = 256
CALIBRATION = 64
_ROWS = 16  # in a batch
_TOKENS = 32_768
_TASKS = ("text-classification", "token-classification", "question-answering")


class Samples(NamedTuple):
    """Batches {name: int64 (b, L)}: of validation, to choose the weights that stay float32, and of train, to set fixed ranges."""

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
    """Draw the rows for `prunekit.exporters.precision.lower`.

    Parameters
    ----------
    train : Rows
    validation : Encoded
    tokenizer : PreTrainedTokenizerBase
        Encodes the rows of train that are drawn.
    max_length, per_token, stride
        As in `prunekit.data.batches.encode`.
    seed : int
    """
    chosen = np.random.default_rng(seed).permutation(len(train))[:CALIBRATION]
    drawn = encode(train.take(chosen), tokenizer, max_length=max_length, per_token=per_token, stride=stride)
    if drawn.windows is not None:
        drawn = drawn.sample(CALIBRATION, seed)
    # The answers to these rows are held while layers are tried: long rows are fewer.
    rows = min(SEARCH, max(_ROWS, _TOKENS // max(1, int(validation.lengths.mean()))))
    search, calibration = (
        tuple(batch.inputs for batch in encoded.batches(max_rows=_ROWS)) for encoded in (validation.sample(rows, seed), drawn)
    )
    return Samples(search, calibration)


@dataclass(frozen=True, eq=False)
class Judge:
    """Rows of a task, encoded for an exported model, with which its files are scored.

    Attributes
    ----------
    name : str
        Name of the data, without its parent directories.
    task : Task or None
        None where no metric applies to the outputs, as of an encoder without a head.
    samples : Samples
    test : Encoded
    thresholds : float64 ndarray of shape (C,), or 0
        Logits above which a label is assigned, for multi-label tasks: those of the model's config, or of the probability 0.5.
    """

    name: str
    task: Task | None
    samples: Samples
    test: Encoded
    seed: int
    thresholds: NDArray[np.float64] | float = 0.0

    def scores(self, files: Mapping[str, OnnxFile]) -> dict[str, Score]:
        """Return the metric of each file on the test split, and its difference from the first; empty without a metric."""
        if self.task is None:
            return {}
        logits = {name: outputs_of_file(file.path, self.test) for name, file in files.items()}
        if self.task.many:
            logits = {name: values - self.thresholds for name, values in logits.items()}
        elif self.task.labels:
            starts = self.test.word_starts if self.task.per_token else None
            check_order(next(iter(logits.values())), self.test.labels, self.task.labels, starts=starts, seed=self.seed)
        outputs = {name: self.test.every(values) for name, values in logits.items()}
        labels, starts = self.test.every_label, self.test.every_start
        reference = next(iter(outputs.values()))
        return {name: score_of(self.task, values, labels, reference, seed=self.seed, starts=starts) for name, values in outputs.items()}

    def fidelity(self, low: OnnxFile, plain: OnnxFile) -> Fidelity:
        """Return the fidelity of a file to another on the test split."""
        return fidelity_of(OnnxSession(low.path), OnnxSession(plain.path), (batch.inputs for batch in self.test.batches()))


def judge_of(source: Exportable, data: str | Path, columns: Mapping[Column, str | None], *, seed: int) -> Judge:
    """Read a task's data for a model.

    Parameters
    ----------
    source : Exportable
    data : path or str
        As `prunekit.data.load.load_data` reads it.
    columns : mapping
        Parameters of `load_data`.
    seed : int

    Raises
    ------
    DataError, ParameterError
        Data that cannot be read, or does not fit the model's head.
    """
    spans = source.head == "question-answering"
    names = class_names(source.config) if source.head in _TASKS and not spans else None
    labels = expected_labels(names, per_token=source.head == "token-classification", tags=columns.get("tags"))
    options: Any = {**columns}
    many = source.head == "text-classification" and ModelView.of(source.model).many_labels
    if many:
        options["task"] = TaskKind.LABELS
    elif spans:
        options["answers"] = TaskKind.QUESTIONS
    elif source.head == "feature-extraction":
        options["answers"] = TaskKind.EMBEDDING
    elif source.head == "text-classification" and source.config.num_labels == 1:
        # A column of queries then groups the rows into lists.
        options["answers"] = TaskKind.REGRESSION
    loaded = load_data(str(data), labels=labels, fine_tuned=source.head in _TASKS, seed=seed, **options)
    if not loaded.labelled:
        raise ParameterError("data", "export", "given with a column of labels, on which the files are scored", str(data))
    task = loaded.task
    if source.head in _TASKS:
        # The head of a regression is named text-classification.
        pipeline = task.kind.traits.pipeline if task.per_token or task.kind.traits.spans else "text-classification"
        if pipeline != source.head or task.many != many or task.outputs != source.config.num_labels:
            must = f"for the model's head, {source.head} with {source.config.num_labels} outputs"
            raise ParameterError("data", "export", must, f"{data}: {task.kind.value} with {task.outputs}")
    longest = min(source.space.max_length, WINDOW) if task.kind.traits.spans else source.space.max_length
    encoding: dict[str, Any] = {"max_length": longest, "per_token": task.per_token}
    # An embedder reads the texts of a pair one by one.
    rows = {name: split.singles if task.kind.traits.vectors else split for name, split in loaded.splits.items()}
    encoded = {name: encode(rows[name], source.tokenizer, **encoding) for name in ("validation", "test")}
    drawn = samples(rows["train"], encoded["validation"], source.tokenizer, **encoding, seed=seed)
    thresholds = read_thresholds(getattr(source.config, "thresholds", None), task.outputs, f"The model {source.name!r}") if many else 0.0
    return Judge(short_name(str(data)), task if source.head in _TASKS else None, drawn, encoded["test"], seed, thresholds)
