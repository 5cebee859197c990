"""What the deployed file answers on a split: the file that ships is judged, not the model it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.runtime.records import Score
from prunekit.runtime.session import OnnxSession
from prunekit.tasks import Task

if TYPE_CHECKING:
    from prunekit.data.batches import Encoded


def outputs_of_file(
    path: str | Path | OnnxSession, encoded: Encoded, *, output: str | None = None, threads: int = 1, device: str = "cpu"
) -> NDArray[Any]:
    """Run an ONNX file over a split with onnxruntime alone.

    Parameters
    ----------
    path : path or OnnxSession
    encoded : Encoded
        n rows; of a token task, n words over all rows; of questions, n places.
    output : str
        Which output; default: the logits, those of start and end where answers are spans, or the vector of an embedder.
    threads, device
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
    session = path if isinstance(path, OnnxSession) else OnnxSession(path, threads=threads, device=device)
    found: NDArray[Any] | None = None
    for batch in encoded.batches():
        values = session.answers(batch.inputs, output)
        if batch.first is not None:
            values = values[batch.first[:, 0], batch.first[:, 1]]
        if not np.isfinite(values).all():
            row = int(batch.targets[np.flatnonzero(~np.isfinite(values).all(axis=-1))[0]])
            raise StatisticsError(f"The ONNX file {str(session.path)!r} gives NaN or infinity for row {row + 1} (the first row is 1).")
        if found is None:
            found = np.empty((len(encoded.labels), values.shape[-1]), dtype=values.dtype)
        found[batch.targets] = values
    assert found is not None
    return found


def judged(task: Task, encoded: Encoded, outputs: NDArray[Any]) -> float:
    """The metric of outputs (n, C) in the order of `encoded.labels`, on every word of the split, with a token of its own or not."""
    return task.score(encoded.every(outputs), encoded.every_label, encoded.every_start)


def divergence(task: Task, outputs: NDArray[Any], reference: NDArray[Any]) -> float:
    """Mean Kullback-Leibler divergence in nats of what one model answers from what another does, over the rows that both answer.

    Of classes that of the softmax; of any number of labels the sum of those of each label's yes or no; of values the mean squared
    difference as a share of the reference's variance.

    Parameters
    ----------
    task : Task
    outputs, reference : ndarray of shape (n, C), float
        Logits, or values; a row of minus infinity is no answer.
    """
    from scipy.special import log_softmax

    there = np.isfinite(outputs).all(axis=1) & np.isfinite(reference).all(axis=1)
    ours, theirs = (np.asarray(each[there], dtype=np.float64) for each in (outputs, reference))
    if task.kind.traits.values:
        spread = float(theirs.var())
        return float(((ours - theirs) ** 2).mean()) / spread if spread else 0.0
    if task.many:
        ours, theirs = (np.stack([each, np.zeros_like(each)], axis=-1) for each in (ours, theirs))
    told, meant = log_softmax(ours, axis=-1), log_softmax(theirs, axis=-1)
    return max(0.0, float((np.exp(meant) * (meant - told)).sum() / max(len(ours), 1)))


def score_of(
    task: Task,
    outputs: NDArray[Any],
    labels: NDArray[Any],
    reference: NDArray[Any],
    *,
    starts: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Score:
    """What a file's answers are worth, and how far they are from those of another.

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
    """How far outputs are from others: the share of predictions that are the same, and the mean squared error as a share of the variance.

    Over the rows that both answer; None where nothing is predicted, or nothing varies.
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
