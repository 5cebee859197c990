"""Probes for rows with any number of labels: a logistic regression for each label, in blocks of labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from prunekit.probes import elastic_net
from prunekit.probes.elastic_net import Fit, Problem, fit_probes
from tests.probes.estimators import ArrayRows, joint_moments


def data(labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6)) * np.array([1, 2, 0.5, 1, 3, 1])
    sets = x @ generator.normal(size=(6, labels)) + generator.normal(size=(300, labels)) > np.linspace(-1, 3, labels)
    return x, sets


@pytest.mark.parametrize("side_by_side", [2, 64])
def test_each_label_has_scikit_learns_logistic_regression(side_by_side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic_net, "_LABELS", side_by_side)
    x, sets = data()
    rows, alpha = ArrayRows(x), 0.02
    moments = joint_moments(rows, sets, sets.shape[1])
    (found,) = fit_probes(rows, sets, moments, [Problem(6, alpha)], sets.shape[1], tol=1e-12, passes=500)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    for at in range(sets.shape[1]):
        reference = LogisticRegression(C=1 / (alpha * len(x)), tol=1e-10, max_iter=1000).fit(standard, sets[:, at])
        np.testing.assert_allclose(found.standard[at], reference.coef_[0], atol=1e-4)
        scores = x @ found.coef[at] + found.intercept[at]
        np.testing.assert_allclose(scores, reference.decision_function(standard), atol=1e-3)


def test_two_labels_are_not_two_classes() -> None:
    x, sets = data(2)
    rows = ArrayRows(x)
    (found,) = fit_probes(rows, sets, joint_moments(rows, sets, 2), [Problem(6, 0.01)], 2)
    assert not np.allclose(found.coef[0], -found.coef[1], atol=0.05)


def test_a_start_is_gone_on_from() -> None:
    x, sets = data()
    rows = ArrayRows(x)
    moments = joint_moments(rows, sets, 5)
    (first,) = fit_probes(rows, sets, moments, [Problem(6, 0.01)], 5, tol=1e-10)
    (again,) = fit_probes(rows, sets, moments, [Problem(6, 0.01)], 5, tol=1e-8, starts=[first])
    assert isinstance(again, Fit)
    assert again.passes <= 2
    np.testing.assert_allclose(again.coef, first.coef, atol=1e-3)
