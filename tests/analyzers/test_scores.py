from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from prunekit.analyzers.scores import score
from prunekit.errors import StatisticsError
from prunekit.tasks import Metric


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_scores_are_those_of_scikit_learn(classes: int) -> None:
    generator = np.random.default_rng(classes)
    labels = generator.integers(0, classes, 80)
    decisions = generator.normal(size=(80, classes)) + np.eye(classes)[labels]
    predicted = decisions.argmax(axis=1)
    assert score(Metric.ACCURACY, labels, decisions) == pytest.approx(accuracy_score(labels, predicted))
    assert score(Metric.F1, labels, decisions) == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert score(Metric.MATTHEWS, labels, decisions) == pytest.approx(matthews_corrcoef(labels, predicted))


def test_f1_ignores_classes_that_do_not_occur() -> None:
    labels = np.array([0, 0, 1, 1])
    decisions = np.eye(4)[[0, 0, 1, 0]]
    assert score(Metric.F1, labels, decisions) == pytest.approx(f1_score(labels, [0, 0, 1, 0], average="macro"))


def test_correlations_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    labels = generator.normal(size=50).round(1)
    predictions = (labels + generator.normal(size=50)).round(1)
    assert score(Metric.PEARSON, labels, predictions[:, None]) == pytest.approx(pearsonr(labels, predictions).statistic)
    assert score(Metric.SPEARMAN, labels, predictions[:, None]) == pytest.approx(spearmanr(labels, predictions).statistic)


def test_a_constant_prediction_scores_zero() -> None:
    labels = np.array([0, 1, 1, 0])
    assert score(Metric.MATTHEWS, labels, np.tile([0.0, 1.0], (4, 1))) == 0.0
    assert score(Metric.PEARSON, labels, np.full((4, 1), 0.1)) == 0.0
    assert score(Metric.SPEARMAN, labels, np.full((4, 1), 0.1)) == 0.0


def test_what_cannot_be_scored() -> None:
    with pytest.raises(StatisticsError, match="NaN"):
        score(Metric.ACCURACY, np.array([0]), np.array([[np.nan, 1.0]]))
    with pytest.raises(StatisticsError, match="no rows"):
        score(Metric.ACCURACY, np.array([], dtype=int), np.empty((0, 2)))
