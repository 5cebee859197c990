from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import MultiTaskLasso, lars_path

from prunekit.errors import ParameterError, StatisticsError
from prunekit.probes.lasso import lasso_path
from prunekit.probes.rankings import (
    compare_rankings,
    descending,
    mutual_information,
    probe_gradient_activation,
    probeless,
)
from prunekit.stats.moments import Moments
from tests.probes.estimators import ArrayRows, joint_moments


def data(classes: int = 4, n: int = 500, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Neurons that say less and less, with means and scales of their own."""
    generator = np.random.default_rng(seed)
    y = generator.integers(classes, size=n)
    centres = generator.normal(size=(classes, width)) * np.linspace(2, 0, width)
    return centres[y] + generator.normal(size=(n, width)) + 10 * generator.normal(size=width), y


def moments(x: np.ndarray, y: np.ndarray, outputs: int) -> Moments:
    return joint_moments(ArrayRows(x), y, outputs)


def test_probeless_is_its_definition() -> None:
    x, y = data()
    means = [x[y == c].mean(axis=0) for c in range(4)]
    expected = sum(np.abs(a - b) for a, b in combinations(means, 2))
    np.testing.assert_allclose(probeless(moments(x, y, 4), 4), expected, rtol=1e-9)
    # A class that never occurs has no mean, and changes nothing.
    np.testing.assert_allclose(probeless(moments(x, y, 6), 6), expected, rtol=1e-9)


def test_mutual_information_against_its_definition() -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(3, size=3000)
    x = np.stack([y, -2.0 * y, generator.normal(size=3000), np.full(3000, 7.0), (y == 1) * 1.0], axis=1)
    found = mutual_information(x, y)
    assert found[0] == pytest.approx(np.log(3), abs=0.01)
    assert found[1] == pytest.approx(found[0])
    assert found[2] < 0.02
    assert found[3] == 0
    share = (y == 1).mean()
    assert found[4] == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share), abs=1e-9)
    expected = mutual_info_classif(x[:, [0, 4]], y, discrete_features=True)
    np.testing.assert_allclose(found[[0, 4]], expected, atol=1e-9)


def test_mutual_information_does_not_depend_on_scale_and_takes_values() -> None:
    x, y = data(n=400)
    np.testing.assert_allclose(mutual_information(x, y), mutual_information(np.exp(0.1 * x) * 3, y))
    target = x[:, 0] ** 3
    found = mutual_information(x, target)
    assert found.argmax() == 0
    assert found[0] > 1.5


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_gradient_times_activation_is_that_of_autograd(outputs: int) -> None:
    x, y = data(max(outputs, 2))
    generator = np.random.default_rng(1)
    coef, intercept = generator.normal(size=(outputs, 12)) * 0.1, generator.normal(size=outputs)
    target = y.astype(float) if outputs == 1 else y
    inputs = torch.tensor(x, requires_grad=True)
    scores = inputs @ torch.tensor(coef).T + torch.tensor(intercept)
    if outputs == 1:
        loss = 0.5 * (scores[:, 0] - torch.tensor(target)).square().sum()
    else:
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(y), reduction="sum")
    loss.backward()
    assert inputs.grad is not None
    gradient = inputs.grad.numpy()
    found = probe_gradient_activation(ArrayRows(x), target, coef, intercept)
    np.testing.assert_allclose(found, np.abs(gradient * x).mean(axis=0), rtol=1e-6)


def test_the_lasso_path_is_that_of_least_angle_regression() -> None:
    x, _ = data(width=15, n=200)
    generator = np.random.default_rng(3)
    y = x @ np.linspace(3, 0.1, 15) + 5 * generator.normal(size=200)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    alphas, _, path = lars_path(z, y - y.mean(), method="lasso")
    entered = [int(np.flatnonzero(row)[0]) if row.any() else len(alphas) for row in path]
    expected = np.argsort(entered, kind="stable")
    found = lasso_path(moments(x, y, 1), 1, points=400, smallest=1e-3)
    assert found[:8].tolist() == expected[:8].tolist()
    assert sorted(found.tolist()) == list(range(15))


def test_the_group_path_holds_what_multi_task_lasso_selects() -> None:
    x, y = data(width=20, n=300)
    z, targets = (x - x.mean(axis=0)) / x.std(axis=0), np.eye(4)[y] - np.eye(4)[y].mean(axis=0)
    found = lasso_path(moments(x, y, 4), 4, points=200)
    first = np.linalg.norm(z.T @ targets, axis=1).max() / len(z)
    for share in (0.5, 0.2, 0.05):
        other = MultiTaskLasso(alpha=share * first, fit_intercept=False, tol=1e-10, max_iter=20000).fit(z, targets)
        selected = np.flatnonzero(np.abs(other.coef_).sum(axis=0) > 1e-10)
        ahead = set(found[: len(selected) + 1].tolist())
        assert len(set(selected.tolist()) - ahead) <= 1


def test_neurons_that_are_constant_or_equal_on_the_path() -> None:
    x, y = data(width=6)
    x[:, 2] = 4.0
    x[:, 5] = x[:, 0]
    found = lasso_path(moments(x, y, 4), 4).tolist()
    assert sorted(found) == [0, 1, 3, 4, 5]
    with pytest.raises(StatisticsError, match="nothing to rank"):
        lasso_path(moments(x, np.zeros(len(x), dtype=int), 4), 4)
    with pytest.raises(StatisticsError, match="nothing to rank"):
        lasso_path(moments(np.ones((5, 3)), np.arange(5) % 2, 2), 2)
    with pytest.raises(ParameterError):
        lasso_path(moments(x, y, 4), 4, points=1)


def test_descending_leaves_out_the_dead() -> None:
    alive = np.array([True, False, True, True])
    assert descending(np.array([1.0, 9.0, 1.0, 2.0]), alive).tolist() == [3, 0, 2]
    with pytest.raises(StatisticsError, match="NaN"):
        descending(np.array([1.0, 0.0, np.nan, 0.0]), alive)


def test_rankings_of_one_class_or_of_values_are_errors() -> None:
    x, y = data()
    with pytest.raises(StatisticsError, match="two classes"):
        probeless(moments(x, np.zeros_like(y), 4), 4)
    with pytest.raises(StatisticsError, match="regression"):
        probeless(moments(x, y.astype(float), 1), 1)
    with pytest.raises(StatisticsError, match="no rows"):
        mutual_information(x[:0], y[:0])
    with pytest.raises(ParameterError):
        mutual_information(x, y, bins=1)


def test_rankings_compared() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.permutation(50), generator.permutation(50)
    found = compare_rankings({"a": a, "b": b, "back": a[::-1]}, [1, 10, 50])
    assert found.tau[0, 2] == pytest.approx(-1)
    assert found.tau[0, 0] == 1
    assert found.tau[0, 1] == found.tau[1, 0] == pytest.approx(kendalltau(np.argsort(a), np.argsort(b)).statistic)
    assert found.overlap[1, 0, 1] == len(set(a[:10].tolist()) & set(b[:10].tolist())) / 10
    assert (found.overlap[2] == 1).all()
    assert found.overlap[0, 0, 2] == 0
    with pytest.raises(StatisticsError, match="different neurons"):
        compare_rankings({"a": a, "b": b[:40]}, [1])
    with pytest.raises(ParameterError):
        compare_rankings({"a": a}, [51])
