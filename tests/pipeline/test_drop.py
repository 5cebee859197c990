from __future__ import annotations

import numpy as np
import pytest

from prunekit.metrics import Metric
from prunekit.pipeline.drop import relative_drop
from prunekit.tasks import Task, TaskKind

TASK = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("a", "b"))


def outputs(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits that are right where asked."""
    return np.eye(2)[np.where(right, labels, 1 - labels)]


def test_the_margin_is_one_standard_error_of_the_paired_difference() -> None:
    generator = np.random.default_rng(0)
    n = 2000
    labels = generator.integers(2, size=n)
    dense = generator.random(n) < 0.9
    slim = np.where(generator.random(n) < 0.05, ~dense, dense)
    found = relative_drop(TASK, outputs(dense, labels), outputs(slim, labels), labels)
    difference = dense.astype(float) - slim.astype(float)
    assert found.value == pytest.approx(difference.mean() / dense.mean())
    error = difference.std() / np.sqrt(n) / dense.mean()
    assert found.upper - found.value == pytest.approx(error, rel=0.2)


def test_the_same_answers_lose_nothing() -> None:
    labels = np.array([0, 1, 0, 1, 1])
    right = np.array([True, True, False, True, True])
    found = relative_drop(TASK, outputs(right, labels), outputs(right, labels), labels)
    assert found.value == found.upper == 0.0
