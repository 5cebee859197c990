from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from prunekit.errors import StatisticsError
from prunekit.probes.elastic_net import Problem, fit_probes
from prunekit.probes.objective import Iterate, Scaling, evaluate
from prunekit.stats.rows import RowStore
from tests.probes.estimators import ArrayRows, Classifier, Regressor, joint_moments


def data(classes: int, n: int = 300, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated neurons with very different means and scales, and labels that overlap."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, width)) @ (np.eye(width) + 0.5 * generator.normal(size=(width, width)))
    y = (2.0 * x[:, :classes] + 3.0 * generator.normal(size=(n, classes))).argmax(axis=1)
    return x * generator.exponential(size=width) * 3.0 + 5.0 * generator.normal(size=width), y


def kkt(x: np.ndarray, y: np.ndarray, probe: Classifier, penalise_both: bool) -> float:
    """Largest violation of the optimality conditions in standard coordinates, computed from scratch."""
    z = StandardScaler().fit_transform(x)
    w = probe.coef_ * x.std(axis=0)
    scores = probe.decision_function(x)
    if scores.ndim == 1:
        residual = (1.0 / (1.0 + np.exp(-scores)) - (y == 1))[:, None]
    else:
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        residual = p / p.sum(axis=1, keepdims=True) - np.eye(scores.shape[1])[y]
    gradient = residual.T @ z / len(z) + probe.alpha * (1 - probe.l1_ratio) * w
    lasso = probe.alpha * probe.l1_ratio
    active = np.abs(w) > 1e-12
    violation = np.where(active, np.abs(gradient + lasso * np.sign(w)), np.maximum(np.abs(gradient) - lasso, 0.0))
    return float(max(violation.max(), np.abs(residual.mean(axis=0)).max()))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("alpha", "l1_ratio"), [(1e-3, 0.0), (0.1, 0.0), (0.05, 0.5), (0.02, 1.0)])
def test_the_solution_is_optimal(classes: int, alpha: float, l1_ratio: float) -> None:
    x, y = data(classes)
    probe = Classifier(alpha, l1_ratio, tol=1e-14, max_iter=5000).fit(x, y)
    assert kkt(x, y, probe, classes > 2) < 1e-5
    if l1_ratio:
        assert 0 < (probe.coef_ == 0).sum() < probe.coef_.size
    assert kkt(x, y, Classifier(alpha, l1_ratio, max_iter=2).fit(x, y), classes > 2) > 1e-3


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("alpha", "l1_ratio"), [(1e-2, 0.0), (0.05, 0.5), (0.02, 1.0)])
def test_the_solution_is_that_of_scikit_learn(classes: int, alpha: float, l1_ratio: float) -> None:
    x, y = data(classes)
    z = StandardScaler().fit(x)
    solver = "saga" if l1_ratio else "lbfgs"
    other = LogisticRegression(C=1 / (alpha * len(x)), l1_ratio=l1_ratio, solver=solver, tol=1e-10, max_iter=20000)
    other.fit(z.transform(x), y)
    probe = Classifier(alpha, l1_ratio, tol=1e-14, max_iter=5000).fit(x, y)
    np.testing.assert_allclose(probe.standard_coef_, other.coef_, atol=2e-4)
    np.testing.assert_allclose(probe.predict_proba(x), other.predict_proba(z.transform(x)), atol=1e-4)
    assert (probe.predict(x) == other.predict(z.transform(x))).mean() > 0.99


@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.1, 0.0), (0.1, 0.5), (0.05, 1.0)])
def test_the_regression_is_that_of_scikit_learn(alpha: float, l1_ratio: float) -> None:
    x, _ = data(2)
    y = x @ np.arange(12.0) + np.random.default_rng(1).normal(size=len(x)) + 4.0
    z = StandardScaler().fit(x)
    other = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=1e-12, max_iter=100000) if l1_ratio else Ridge(alpha=alpha * len(x))
    other.fit(z.transform(x), y)
    probe = Regressor(alpha, l1_ratio).fit(x, y)
    np.testing.assert_allclose(probe.predict(x), other.predict(z.transform(x)), atol=2e-3 * y.std())
    np.testing.assert_allclose(probe.standard_coef_, other.coef_, rtol=1e-3, atol=2e-3 * y.std())


def test_least_squares_without_a_penalty() -> None:
    x, _ = data(2)
    y = x @ np.arange(12.0) + 4.0
    probe = Regressor(alpha=0.0).fit(x, y)
    np.testing.assert_allclose(probe.coef_, np.arange(12.0), atol=1e-8)
    assert probe.intercept_ == pytest.approx(4.0, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("limit", [0, 2**28])
def test_streaming_is_fitting_in_memory(classes: int, limit: int, tmp_path: Path) -> None:
    x, y = data(classes, n=3000)
    x = x.astype(np.float32)
    with RowStore.of(x, directory=tmp_path, limit=limit) as rows:
        streamed = Classifier(1e-2, tol=1e-10).fit_rows(rows, y)
    other = Classifier(1e-2, tol=1e-10).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(streamed.standard_coef_, other.standard_coef_, atol=1e-3)
    np.testing.assert_allclose(streamed.decision_function(x), other.decision_function(x.astype(np.float64)), atol=1e-2)


@pytest.mark.parametrize("classes", [2, 3])
def test_probes_on_prefixes_are_the_probes_one_by_one(classes: int) -> None:
    x, y = data(classes, width=300, n=500)
    problems = [Problem(width, alpha) for width in (1, 10, 256, 300) for alpha in (1e-1, 1e-2)]
    rows = ArrayRows(x)
    moments = joint_moments(rows, y, classes)
    together = fit_probes(rows, y, moments, problems, classes, tol=1e-12)
    for problem, fit in zip(problems, together, strict=True):
        part = ArrayRows(np.ascontiguousarray(x[:, : problem.width]))
        [alone] = fit_probes(part, y, joint_moments(part, y, classes), [problem], classes, tol=1e-12)
        assert fit.coef.shape == (classes, problem.width)
        np.testing.assert_allclose(fit.standard, alone.standard, atol=1e-4)
        np.testing.assert_allclose(fit.intercept, alone.intercept, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_start_changes_the_way_and_not_the_end(classes: int) -> None:
    x, y = data(classes)
    rows = ArrayRows(x)
    moments = joint_moments(rows, y, classes)
    problem = Problem(12, 1e-2)
    [fit] = fit_probes(rows, y, moments, [problem], classes, tol=1e-13)
    [again] = fit_probes(rows, y, moments, [problem], classes, starts=[fit], tol=1e-13, passes=1)
    np.testing.assert_allclose(again.coef, fit.coef, atol=1e-10)
    np.testing.assert_allclose(again.intercept, fit.intercept, atol=1e-9)
    [other] = fit_probes(rows, y, moments, [Problem(12, 1.0)], classes, starts=[fit], tol=1e-13)
    [fresh] = fit_probes(rows, y, moments, [Problem(12, 1.0)], classes, tol=1e-13)
    np.testing.assert_allclose(other.standard, fresh.standard, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 3])
def test_the_gradient_is_that_of_finite_differences(columns: int) -> None:
    x, y = data(max(2, columns))
    scaling = Scaling(x.mean(axis=0), 1 / x.std(axis=0))
    generator = np.random.default_rng(0)
    at = generator.normal(size=(9, columns))
    [(_, gradient)] = evaluate(ArrayRows(x), y, scaling, [Iterate(8, at)])
    for i in range(9):
        step = np.zeros_like(at)
        step[i, -1] = 1e-5
        (above, _), (below, _) = evaluate(ArrayRows(x), y, scaling, [Iterate(8, at + step), Iterate(8, at - step)])
        assert gradient[i, -1] == pytest.approx((above - below) / 2e-5, abs=1e-6)


def test_a_constant_neuron_has_no_weight() -> None:
    x, y = data(3)
    x[:, 4] = 0.1
    probe = Classifier().fit(x, y)
    assert (probe.coef_[:, 4] == 0).all()
    assert (np.delete(probe.coef_, 4, axis=1) != 0).all()


def test_a_class_that_is_declared_but_never_seen() -> None:
    x, y = data(3)
    rows = ArrayRows(x)
    [fit] = fit_probes(rows, y, joint_moments(rows, y, 4), [Problem(12, 1e-2)], 4)
    assert np.isfinite(fit.coef).all()
    assert ((x @ fit.coef.T + fit.intercept).argmax(axis=1) < 3).all()


def test_labels_without_a_choice() -> None:
    x, y = data(2)
    with pytest.raises(StatisticsError, match="All labels are equal"):
        fit_probes(
            ArrayRows(x), np.zeros(len(x), dtype=int), joint_moments(ArrayRows(x), np.zeros(len(x), dtype=int), 2), [Problem(12, 1e-2)], 2
        )
    with pytest.raises(StatisticsError, match="All labels are equal"):
        Regressor().fit(x, np.ones(len(x)))
    x32 = x.astype(np.float32)
    x32[17, 3] = np.nan
    with pytest.raises(StatisticsError, match="Column 3 holds NaN"):
        Classifier().fit_rows(RowStore.of(x32), y)
