from __future__ import annotations

import numpy as np
import pytest

from prunekit.errors import ParameterError, StatisticsError
from prunekit.metrics import Metric
from prunekit.probes.control import control_labels
from prunekit.probes.layerwise import LayerScores, layer_scores
from prunekit.probes.selection import Split
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task, TaskKind

TASK = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("a", "b", "c"))


def split(n: int, seed: int, words: int = 40) -> tuple[Split, np.ndarray, np.ndarray]:
    """Layer 0 constant, layer 1 the word alone (one-hot), layer 2 the label in one neuron, layer 3 noise; 40 neurons each."""
    generator = np.random.default_rng(seed)
    types = generator.integers(words, size=n)
    labels = generator.integers(3, size=n)
    x = np.zeros((n, 4, words), dtype=np.float32)
    x[:, 0] = 3.0
    x[np.arange(n), 1, types] = 1.0
    x[:, 2:] = generator.normal(size=(n, 2, words))
    x[:, 2, 0] = 4.0 * labels
    return Split.of(RowStore.of(x.reshape(n, -1)), labels, 3), labels, types


def test_each_layer_says_what_was_put_into_it() -> None:
    train, labels, types = split(1500, 0)
    validation, held, held_types = split(500, 1)
    control = control_labels(labels, types, held_types, seed=2)
    found = layer_scores(train, validation, TASK, 40, control=control)
    chance = (held == np.bincount(labels).argmax()).mean()
    assert found.chance == chance
    assert found.alone[0] == found.upto[0] == chance
    assert found.alone[2] > 0.97 < found.upto[2]
    assert found.alone[1] < 0.45
    assert found.alone[3] < 0.45
    assert found.oracle == found.upto[3] > 0.97
    assert found.minimal(0.02) == 2
    # Words decide the control task, so that the layer of the words solves it, and the layer of the labels does not.
    assert found.control is not None
    assert found.selectivity is not None
    assert found.control[1] > 0.97
    assert found.selectivity[1] < -0.4
    assert found.selectivity[2] > 0.4


def test_control_labels_belong_to_types() -> None:
    train, other = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]), np.array([1, 2, 3])
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    found, held = control_labels(labels, train, other, seed=1)
    assert [len(set(found[train == kind].tolist())) for kind in range(3)] == [1, 1, 1]
    assert held[0] == found[1]
    assert held[1] == found[2]
    many = control_labels(labels, np.arange(10), np.arange(20000), seed=0)[1]
    assert many.mean() == pytest.approx(0.3, abs=0.02)
    values = control_labels(np.array([0.5, 2.5]), np.array([0, 1]))[0]
    assert set(values.tolist()) <= {0.5, 2.5}
    with pytest.raises(StatisticsError):
        control_labels(labels, train[:3])
    with pytest.raises(StatisticsError):
        control_labels(labels[:0], train[:0])


def test_the_minimal_layer_is_relative_and_strict() -> None:
    found = LayerScores((0.0,) * 4, (0.5, 0.97, 0.98, 1.0), 0.3)
    assert found.minimal(0.03) == 2
    assert found.minimal(0.031) == 1
    assert found.minimal(0.0) == 3
    assert LayerScores((0.0,) * 2, (-0.5, -0.4), 0.0).minimal(0.1) == 1
    with pytest.raises(ParameterError):
        found.minimal(1.0)


def test_a_regression_and_rows_that_cannot_be_probed() -> None:
    train, _, _ = split(200, 0)
    validation, _, _ = split(100, 1)
    values = Task(TaskKind.REGRESSION, Metric.PEARSON)
    both = [Split.of(each.rows, each.labels.astype(float), 1) for each in (train, validation)]
    found = layer_scores(both[0], both[1], values, 40)
    assert found.alone[0] == found.chance == 0
    assert found.alone[2] > 0.9
    with pytest.raises(StatisticsError, match="whole number"):
        layer_scores(train, validation, TASK, 33)
    one = Split.of(train.rows, np.zeros(200, dtype=int), 3)
    with pytest.raises(StatisticsError, match="equal"):
        layer_scores(one, validation, TASK, 40)


def test_fewer_classes_in_train_than_in_the_task() -> None:
    train, labels, _ = split(600, 0)
    two = labels < 2
    fewer = Split.of(train.rows.take(np.flatnonzero(two)), labels[two], 3)
    validation, held, _ = split(300, 1)
    found = layer_scores(fewer, validation, TASK, 40)
    assert (held < 2).mean() - 0.05 < found.oracle <= (held < 2).mean()


def test_one_row_or_nan() -> None:
    with pytest.raises(StatisticsError, match="equal"):
        layer_scores(
            Split.of(RowStore.of(np.ones((1, 4))), np.array([0]), 2), Split.of(RowStore.of(np.ones((1, 4))), np.array([1]), 2), TASK, 2
        )
    with pytest.raises(StatisticsError, match="NaN"):
        Split.of(RowStore.of([[1.0, np.nan]]), np.array([0]), 2)
