from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from prunekit.errors import StatisticsError
from prunekit.metrics import Metric, of_counts
from prunekit.probes.selection import Split
from prunekit.probes.subsets import default_sizes, pca_curve, single_dimensions, subset_curve
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task, TaskKind

WIDTH = 16


def task(classes: int, metric: Metric = Metric.ACCURACY) -> Task:
    return Task(TaskKind.CLASSIFICATION, metric, tuple("abcdef"[:classes])) if classes > 1 else Task(TaskKind.REGRESSION, metric)


def split(classes: int, n: int, seed: int) -> Split:
    """Neurons whose first few tell the classes apart, mixed, far from zero."""
    generator = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    y = generator.integers(max(classes, 2), size=n)
    centres = 2.0 * fixed.normal(size=(max(classes, 2), WIDTH)) * (np.arange(WIDTH) < 5)
    x = centres[y] + generator.normal(size=(n, WIDTH)) * np.linspace(1, 0.3, WIDTH) + 20.0
    if classes == 1:
        return Split.of(RowStore.of(x), x[:, 0] - x[:, 1] + generator.normal(size=n), 1)
    return Split.of(RowStore.of(x), y, classes)


def matrix(of: Split) -> np.ndarray:
    return np.concatenate([chunk.astype(np.float64) for _, chunk in of.rows.chunks()])


@pytest.mark.parametrize("classes", [2, 4])
def test_single_dimensions_are_discriminant_analyses(classes: int) -> None:
    train, held = split(classes, 600, 0), split(classes, 300, 1)
    found = single_dimensions(train.moments, held.rows, held.labels, task(classes))
    x, z = matrix(train), matrix(held)
    expected = [LinearDiscriminantAnalysis(solver="lsqr").fit(x[:, [j]], train.labels).score(z[:, [j]], held.labels) for j in range(WIDTH)]
    np.testing.assert_allclose(found, expected, atol=1.5 / 300)
    assert found[:5].max() > found[5:].max() + 0.1


def test_single_dimensions_of_a_regression() -> None:
    train, held = split(1, 500, 0), split(1, 300, 1)
    x, z = matrix(train), matrix(held)
    found = single_dimensions(train.moments, held.rows, held.labels, task(1, Metric.PEARSON))
    sign = [np.sign(np.corrcoef(x[:, j], train.labels)[0, 1]) for j in range(WIDTH)]
    expected = [sign[j] * np.corrcoef(z[:, j], held.labels)[0, 1] for j in range(WIDTH)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    ranks = single_dimensions(train.moments, held.rows, held.labels, task(1, Metric.SPEARMAN))
    assert np.abs(ranks - found).max() < 0.1
    assert not np.array_equal(ranks, found)


def test_a_dead_dimension_scores_the_shares_of_the_classes() -> None:
    generator = np.random.default_rng(0)
    y = (np.arange(200) % 4 == 0).astype(int)
    x = np.stack([np.full(200, 5.0), y + 0.01 * generator.normal(size=200)], axis=1)
    both = Split.of(RowStore.of(x), y, 2)
    found = single_dimensions(both.moments, both.rows, y, task(2))
    assert found.tolist() == [0.75, 1.0]
    missing = Split.of(RowStore.of(x), y, 3)
    assert single_dimensions(missing.moments, missing.rows, y, task(3)).tolist() == [0.75, 1.0]


def test_single_dimensions_of_nothing() -> None:
    both = split(2, 50, 0)
    one = Split.of(both.rows, np.zeros(50, dtype=int), 2)
    with pytest.raises(StatisticsError, match="equal"):
        single_dimensions(one.moments, both.rows, both.labels, task(2))
    with pytest.raises(StatisticsError, match="no rows"):
        single_dimensions(both.moments, both.rows, both.labels[:0], task(2))
    with pytest.raises(StatisticsError, match="do not fit"):
        single_dimensions(both.moments, both.rows, both.labels, task(3))


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.AGREEMENT, Metric.F1, Metric.MATTHEWS])
def test_scores_of_confusion_matrices(metric: Metric) -> None:
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(3, size=80), generator.integers(2, size=(80, 5))
    predicted[:, 4] = 1
    tables = np.zeros((5, 3, 3))
    for j in range(5):
        np.add.at(tables[j], (true, predicted[:, j]), 1)
    oracle = {
        Metric.ACCURACY: accuracy_score,
        Metric.AGREEMENT: accuracy_score,
        Metric.F1: lambda a, b: f1_score(a, b, average="macro", zero_division=0.0),
        Metric.MATTHEWS: matthews_corrcoef,
    }[metric]
    found = of_counts(metric, np.einsum("dcc->dc", tables), tables.sum(axis=2), tables.sum(axis=1))
    np.testing.assert_allclose(found, [oracle(true, predicted[:, j]) for j in range(5)], atol=1e-12)


def test_the_curve_over_principal_components() -> None:
    train, held = split(3, 600, 0), split(3, 300, 1)
    curve, explained = pca_curve(train, held, task(3))
    assert [size for size, _ in curve] == default_sizes(WIDTH)
    other = PCA().fit(matrix(train))
    np.testing.assert_allclose(explained, np.cumsum(other.explained_variance_ratio_), atol=1e-6)
    assert curve[-1][1] > 0.95 > curve[0][1]
    # A rotation of the neurons changes no principal component.
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
    rotated = [Split.of(RowStore.of(matrix(each) @ turned), each.labels, 3) for each in (train, held)]
    again, _ = pca_curve(rotated[0], rotated[1], task(3))
    np.testing.assert_allclose([value for _, value in again], [value for _, value in curve], atol=0.02)
    flat = Split.of(RowStore.of(np.ones((20, 4))), np.arange(20) % 3, 3)
    with pytest.raises(StatisticsError, match="No neuron varies"):
        pca_curve(flat, flat, task(3))


def test_the_curve_over_a_ranking() -> None:
    train, held = split(3, 600, 0), split(3, 300, 1)
    best = np.argsort(-single_dimensions(train.moments, held.rows, held.labels, task(3)))
    good, bad = (dict(subset_curve(train, held, task(3), order)) for order in (best, best[::-1]))
    assert good[1] > bad[1] + 0.2
    assert good[3] > bad[3] + 0.2
    assert good[WIDTH] == pytest.approx(bad[WIDTH], abs=0.02)


def test_default_sizes() -> None:
    assert default_sizes(1) == [1]
    assert default_sizes(16) == [1, 2, 3, 4, 6, 9, 13, 16]
