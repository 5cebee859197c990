from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from prunekit.errors import ParameterError, StatisticsError
from prunekit.metrics import Metric
from prunekit.tasks import Task, TaskKind

CLASSES = ("a", "b", "c", "d")


def classifier(metric: Metric, labels: tuple[str, ...] = CLASSES) -> Task:
    return Task(TaskKind.CLASSIFICATION, metric, labels)


def regression(metric: Metric) -> Task:
    return Task(TaskKind.REGRESSION, metric)


def one_hot(predicted: np.ndarray, width: int = 4) -> np.ndarray:
    return np.eye(width, dtype=np.float32)[predicted]


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=80)
@given(ROWS)
def test_class_metrics_are_scikit_learns(rows: list[tuple[int, int]]) -> None:
    predicted, actual = np.array(rows).T
    outputs = one_hot(predicted)
    assert classifier(Metric.ACCURACY).score(outputs, actual) == pytest.approx(metrics.accuracy_score(actual, predicted))
    expected = metrics.f1_score(actual, predicted, average="macro", zero_division=0)
    assert classifier(Metric.F1).score(outputs, actual) == pytest.approx(expected)
    found = classifier(Metric.MATTHEWS).score(outputs, actual)
    if len(set(predicted)) > 1 and len(set(actual)) > 1:
        assert found == pytest.approx(metrics.matthews_corrcoef(actual, predicted), abs=1e-12)
    else:
        assert found == 0.0


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40))
def test_value_metrics_are_scipys(rows: list[tuple[int, int]]) -> None:
    predicted, actual = np.array(rows, dtype=np.float64).T / 7
    for metric, reference in ((Metric.PEARSON, stats.pearsonr), (Metric.SPEARMAN, stats.spearmanr)):
        found = regression(metric).score(predicted[:, None], actual)
        if np.ptp(predicted) > 0 and np.ptp(actual) > 0:
            assert found == pytest.approx(reference(predicted, actual).statistic, abs=1e-10)
        else:
            assert found == 0.0


@pytest.mark.parametrize("metric", [Metric.PEARSON, Metric.SPEARMAN])
def test_a_constant_prediction_scores_zero_even_if_its_mean_is_rounded(metric: Metric) -> None:
    constant = np.full((7, 1), 0.1)
    assert constant.std() > 0
    assert regression(metric).score(constant, np.arange(7.0)) == 0.0
    assert regression(metric).interval(constant, np.arange(7.0)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("right", "n", "level"), [(0, 10, 0.95), (10, 10, 0.95), (37, 50, 0.9), (1, 3, 0.99)])
def test_accuracy_has_wilsons_interval(right: int, n: int, level: float) -> None:
    predicted = np.array([0] * right + [1] * (n - right))
    _, low, high = classifier(Metric.ACCURACY).interval(one_hot(predicted), np.zeros(n, dtype=np.int64), level=level)
    z, p = stats.norm.ppf((1 + level) / 2), right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert low == pytest.approx(max(0.0, (middle - half) / (1 + z * z / n)), abs=1e-12)
    assert high == pytest.approx(min(1.0, (middle + half) / (1 + z * z / n)), abs=1e-12)


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    actual = generator.integers(0, 4, n)
    return one_hot(np.where(generator.random(n) < 0.6, actual, generator.integers(0, 4, n))), actual


@pytest.mark.parametrize("metric", [Metric.F1, Metric.MATTHEWS])
def test_resampled_confusions_are_resampled_rows(metric: Metric) -> None:
    outputs, actual = noisy(150)
    task = classifier(metric)
    generator = np.random.default_rng(5)
    draws = [task.score(outputs[rows], actual[rows]) for rows in generator.integers(0, 150, size=(1500, 150))]
    assert task.interval(outputs, actual)[1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)


@pytest.mark.parametrize("metric", [Metric.PEARSON, Metric.SPEARMAN])
def test_correlations_are_resampled_by_row(metric: Metric) -> None:
    generator = np.random.default_rng(1)
    actual = generator.normal(size=120)
    outputs = (actual + generator.normal(size=120))[:, None]
    task = regression(metric)
    draws = [task.score(outputs[rows], actual[rows]) for rows in generator.integers(0, 120, size=(1500, 120))]
    assert task.interval(outputs, actual)[1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.04)


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.F1, Metric.MATTHEWS])
def test_intervals_hold_the_score_grow_with_the_level_and_are_seeded(metric: Metric) -> None:
    outputs, actual = noisy(200)
    task = classifier(metric)
    _, low, high = task.interval(outputs, actual, level=0.8)
    _, wide_low, wide_high = task.interval(outputs, actual, level=0.99)
    assert wide_low < low < task.score(outputs, actual) < high < wide_high
    assert task.interval(outputs, actual, seed=3) == task.interval(outputs, actual, seed=3)


def test_more_rows_of_the_same_make_a_narrower_interval() -> None:
    outputs, actual = noisy(60)
    _, low, high = classifier(Metric.F1).interval(outputs, actual)
    _, more_low, more_high = classifier(Metric.F1).interval(np.tile(outputs, (16, 1)), np.tile(actual, 16))
    assert (more_high - more_low) < 0.5 * (high - low)


def test_outputs_and_levels() -> None:
    tokens = Task(TaskKind.TOKENS, Metric.ACCURACY, CLASSES)
    assert (tokens.outputs, tokens.per_token) == (4, True)
    assert (regression(Metric.PEARSON).outputs, regression(Metric.PEARSON).per_token) == (1, False)
    with pytest.raises(ParameterError, match=r"'level' .* in \(0, 1\)"):
        tokens.interval(*noisy(5), level=1.0)


@pytest.mark.parametrize(("kind", "metric"), [(TaskKind.REGRESSION, Metric.F1), (TaskKind.CLASSIFICATION, Metric.PEARSON)])
def test_a_metric_must_fit_the_kind(kind: TaskKind, metric: Metric) -> None:
    with pytest.raises(ParameterError, match=r"'metric' parameter of a .* task must be one of"):
        Task(kind, metric, CLASSES)


def test_what_cannot_be_scored_is_refused() -> None:
    task = classifier(Metric.ACCURACY)
    outputs, actual = noisy(6)
    outputs[2, 1] = np.nan
    with pytest.raises(StatisticsError, match="1 of 6 rows"):
        task.score(outputs, actual)
    outputs[2, 1] = np.inf
    with pytest.raises(StatisticsError, match="1 of 6 rows"):
        task.score(outputs, actual)
    with pytest.raises(StatisticsError, match="at least one row"):
        task.score(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    with pytest.raises(StatisticsError, match=r"shape \(n, 4\)"):
        task.score(np.zeros((3, 2)), np.zeros(3, dtype=np.int64))
    with pytest.raises(StatisticsError, match=r"class ids in 0\.\.3"):
        task.score(np.zeros((3, 4)), np.array([0, 1, 4]))
