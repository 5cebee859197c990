"""Outputs and scores of the deployed file on a split: the file itself is scored, not the model that it was exported from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.parallel import spread
from prunekit.errors import StatisticsError
from prunekit.runtime.records import Score
from prunekit.runtime.session import OnnxSession
from prunekit.tasks import Task

if TYPE_CHECKING:
    from prunekit.data.batches import Batch, Encoded


def outputs_of_file(path: str | Path | OnnxSession, encoded: Encoded, *, threads: int = 1) -> NDArray[Any]:
    """Run an ONNX file over a split with onnxruntime alone: its logits, those of start and end, or the vectors of an embedder.

    Parameters
    ----------
    path : path or OnnxSession
    encoded : Encoded
        n rows; of a token task, n words over all rows; of questions, n places.
    threads : int
        As in `OnnxSession`.

    Returns
    -------
    ndarray of shape (n, C), float32
        In the order of `encoded.labels`.

    Raises
    ------
    StatisticsError
        If an output is not finite.
    ModelError, DependencyError
        As in `OnnxSession`.
    """
    given = path if isinstance(path, OnnxSession) else None
    work = _AnsweringFile(path.path if isinstance(path, OnnxSession) else path, threads, given)
    outputs: NDArray[Any] | None = None
    # A session that is given may be of other options than a path and threads.
    for targets, values in spread(work, encoded.batches(), beside=True) if given is None else map(work, encoded.batches()):
        if not np.isfinite(values).all():
            row = int(targets[np.flatnonzero(~np.isfinite(values).all(axis=-1))[0]])
            raise StatisticsError(f"The ONNX file {str(work.path)!r} gives NaN or infinity for row {row + 1} (the first row is 1).")
        if outputs is None:
            outputs = np.empty((len(encoded.labels), values.shape[-1]), dtype=values.dtype)
        outputs[targets] = values
    assert outputs is not None
    return outputs


@dataclass
class _AnsweringFile:
    """The work on one batch; each process loads the file once."""

    path: str | Path
    threads: int
    session: OnnxSession | None = None

    def __call__(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[Any]]:
        self.session = self.session or OnnxSession(self.path, threads=self.threads)
        values = self.session.answers(batch.inputs)
        return batch.targets, values if batch.first is None else values[batch.first[:, 0], batch.first[:, 1]]


def judged(task: Task, encoded: Encoded, outputs: NDArray[Any]) -> float:
    """Return the metric of outputs (n, C) in the order of `encoded.labels`, on every word of the split, with a token of its own or not."""
    return task.score(encoded.every(outputs), encoded.every_label, encoded.every_start)


def divergence(task: Task, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the mean Kullback-Leibler divergence of outputs from a reference, in nats, over the rows that both answer.

    For classes that of the softmax; for any number of labels the sum over the labels, each of them binary; for values the mean squared
    difference as a share of the reference's variance.

    Parameters
    ----------
    task : Task
    outputs, reference : ndarray of shape (n, C), float
        Logits, or values; a row of minus infinity is no answer.
    """
    from scipy.special import log_softmax

    finite = np.isfinite(outputs).all(axis=1) & np.isfinite(reference).all(axis=1)
    ours, theirs = (np.asarray(logits[finite], dtype=np.float64) for logits in (outputs, reference))
    if task.kind.traits.values:
        spread = float(theirs.var())
        return float(((ours - theirs) ** 2).mean()) / spread if spread else 0.0
    if task.many:
        ours, theirs = (np.stack([logits, np.zeros_like(logits)], axis=-1) for logits in (ours, theirs))
    log_ours, log_theirs = log_softmax(ours, axis=-1), log_softmax(theirs, axis=-1)
    return max(0.0, float((np.exp(log_theirs) * (log_theirs - log_ours)).sum() / max(len(ours), 1)))


def score_of(
    task: Task,
    outputs: NDArray[Any],
    labels: NDArray[Any],
    reference: NDArray[Any],
    *,
    starts: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Score:
    """Score the answers of a file, and compare them with those of another.

    Parameters
    ----------
    task : Task
    outputs, reference : ndarray of shape (n, C), float
        Of the file, and of the file in float32. A row of minus infinity is no answer.
    labels : ndarray of shape (n,)
    starts : ndarray of int64, optional
        Where the labels of each row begin, as in `Task.judged`.
    seed : int
        Of the interval.
    """
    return Score(*task.interval(outputs, labels, starts, seed=seed), *apart(task, outputs, reference))


def apart(task: Task, outputs: NDArray[Any], reference: NDArray[Any]) -> tuple[float | None, float | None]:
    """Compare outputs with a reference: the share of equal predictions, and the mean squared error as a share of the variance.

    Over the rows that both answer; None where no class is predicted, or the reference is constant.
    """
    answered = ~np.isneginf(outputs).all(axis=1) & ~np.isneginf(reference).all(axis=1)
    outputs, reference = outputs[answered], reference[answered]
    if task.kind.traits.spans:
        return float((outputs == reference).all(axis=1).mean()), None
    same: float | None = None
    if task.labels:
        same = float((task.answers(outputs) == task.answers(reference)).reshape(len(outputs), -1).all(axis=1).mean())
    spread = float(reference.var())
    return same, float(((outputs - reference) ** 2).mean()) / spread if spread else None
