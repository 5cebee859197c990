"""Collected values of made-up models, for analyzers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.analyzers.base import Observations, Subject
from prunekit.metrics import Metric
from prunekit.plan import Source
from prunekit.stats.collected import Collected
from prunekit.stats.rows import RowStore
from prunekit.stats.sample import Sample
from prunekit.tasks import Task, TaskKind

TASK = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("no", "yes"))


def rows_of(n: int, *, layers: int, hidden: int, seed: int = 0) -> NDArray[np.float32]:
    """Correlated neurons, (n, layers * hidden) float32."""
    generator = np.random.default_rng(seed)
    width = layers * hidden
    mixed = generator.standard_normal((n, width)) @ generator.standard_normal((width, width))
    return np.asarray(mixed + generator.standard_normal(width), dtype=np.float32)


def store(rows: NDArray[np.float32]) -> RowStore:
    """The rows as a store."""
    found = RowStore(*rows.shape)
    found.put(np.arange(len(rows)), rows)
    return found


def subject_of(rows: NDArray[np.float32], *, hidden: int, labels: NDArray[Any] | None = None, tokens: bool = False) -> Subject:
    """One model whose pooled rows (and, if asked for, whose tokens) are these."""
    layers = rows.shape[1] // hidden - 1
    given = np.arange(len(rows)) % 2 if labels is None else labels
    source = Source(model_type="bert", layers=layers, hidden=hidden, heads=1, ffn=4, vocabulary=10)
    sample = Sample(len(rows), 0, np.arange(len(rows)), rows) if tokens else None
    return Subject("made up", source, Collected.of(store(rows), given, 2, tokens=sample, moments=False))


def inputs_of(
    rows: NDArray[np.float32], *, hidden: int, base: NDArray[np.float32] | None = None, tokens: bool = False, seed: int = 0
) -> Observations:
    """What an analyzer of such models reads."""
    other = None if base is None else subject_of(base, hidden=hidden, tokens=tokens)
    return Observations(TASK, subject_of(rows, hidden=hidden, tokens=tokens), other, seed=seed)
