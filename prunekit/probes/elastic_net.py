"""Elastic-net probes: linear classifiers and regressions on standardised neurons, fitted by streaming over the rows.

The objective is mean cross-entropy (or half the mean squared error) + alpha * (l1_ratio * |W|_1 + (1 - l1_ratio) / 2 * |W|^2)
on standardised inputs; the standardisation is folded back, so that `coef_` and `intercept_` read raw neurons. A neuron that is
dead (`Moments.alive`) has weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from prunekit.errors import ParameterError, StatisticsError
from prunekit.probes.objective import ArrayRows, Point, RowSource, Scaling, decision, evaluate
from prunekit.probes.solver import Metric, Solver, corners_of, elastic_net, lbfgs, minimise, proximal
from prunekit.stats.moments import Moments, MomentsAccumulator, one_hot

Floats = NDArray[np.float64]

_FACTOR_BYTES = 1 << 30
#: Labels of a row that has any number of them that are fitted side by side: what a step remembers is as wide.
_LABELS = 64


@dataclass(frozen=True)
class Problem:
    """One probe to fit: it reads the first `width` columns.

    Attributes
    ----------
    width : int
    alpha : float
        Strength of the penalty, against the mean loss.
    l1_ratio : float
        0 is ridge, 1 is lasso.
    """

    width: int
    alpha: float
    l1_ratio: float = 0.0


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted probe in raw coordinates.

    Attributes
    ----------
    coef : (K, width) float64
        One row a class (for two classes: two rows, opposite), or one row for a regression.
    intercept : (K,) float64
    standard : (K, width) float64
        The weights on standardised neurons: comparable between neurons.
    passes : int
        Passes over the rows that the fit took part in; 1 where the moments were enough.
    """

    coef: Floats
    intercept: Floats
    standard: Floats
    passes: int = 1


def fit_probes(
    rows: RowSource,
    labels: NDArray[Any],
    moments: Moments,
    problems: Sequence[Problem],
    outputs: int,
    *,
    starts: Sequence[Fit] | None = None,
    tol: float = 1e-5,
    passes: int = 200,
) -> list[Fit]:
    """Fit several probes, each on a prefix of the columns, in shared passes over the rows.

    Parameters
    ----------
    rows : RowSource
        (n, D) neurons. Not read at all for a regression, whose moments say everything.
    labels : (n,) int64 class ids, or float64 targets; or (n, outputs) bool
        Label sets are fitted one against the rest: a logistic regression for each label, `_LABELS` of them at a time.
    moments : Moments
        Over [the D neurons | the `outputs` label columns] of the same rows. A classifier takes no more from them than the
        standardisation and the metric of its steps, so that they may be those of a larger sample of the same data.
    problems : sequence of Problem
    outputs : int
        Number of classes, or 1 for a regression.
    starts : sequence of Fit, optional
        Where to start from, one for each problem; else from zero.
    tol : float
        Bound on what another step would gain, in units of the loss.
    passes : int
        Most passes over the rows.

    Returns
    -------
    list of Fit

    Raises
    ------
    StatisticsError
        Fewer than two classes in the labels, or targets without variance.
    """
    width = moments.width - outputs
    assert rows.shape[1] == width
    varies = moments.varies
    if not varies[width:].any():
        raise StatisticsError("All labels are equal: a probe needs at least two classes, or targets that differ.")
    scaling = _scaling(moments, width)
    gram = _gram(moments, scaling, width)
    if outputs == 1:
        return [_least_squares(moments, scaling, gram, problem) for problem in problems]
    sets = labels.ndim == 2
    columns = 1 if outputs == 2 and not sets else outputs
    prior = (_log_odds if sets else _prior)(moments.mean[width:])
    # Losses of single labels add up, so that they are minimised apart; classes are not.
    parts = [slice(at, at + _LABELS) for at in range(0, columns, _LABELS)] if sets else [slice(None)]
    fits: dict[int, Fit] = {}
    for group in _groups(problems, width):
        known: Factors = {}
        taken = dict.fromkeys(group, 0)
        solutions: dict[int, list[Floats]] = {i: [] for i in group}
        for part in parts:
            if starts is None:
                first = np.atleast_2d(prior[:, part])
                points = [np.vstack([np.zeros((problems[i].width, first.shape[1])), first]) for i in group]
            else:
                points = [_solution(starts[i], scaling, columns)[:, part] for i in group]
            targets = labels[:, part] if sets else labels
            solvers = _solvers([problems[i] for i in group], gram, points, tol, passes, known, bound=0.25 if sets or columns == 1 else 0.5)

            def told(
                asked: dict[int, Floats], group: list[int] = group, taken: dict[int, int] = taken, targets: NDArray[Any] = targets
            ) -> dict[int, tuple[float, Floats]]:
                for i in asked:
                    taken[group[i]] += 1
                found = evaluate(rows, targets, scaling, [Point(problems[group[i]].width, x) for i, x in asked.items()])
                return dict(zip(asked, found, strict=True))

            for i, solution in zip(group, minimise(solvers, told), strict=True):
                solutions[i].append(solution)
        for i in group:
            solution = np.hstack(solutions.pop(i))
            both = solution if columns > 1 else np.hstack([-0.5 * solution, 0.5 * solution])
            coef, intercept = scaling.take(slice(0, problems[i].width)).raw(both)
            fits[i] = Fit(coef, intercept, np.ascontiguousarray(both[:-1].T), taken[i])
    return [fits[i] for i in range(len(problems))]


#: {ridge: a Cholesky factor, and the inverses of its corners}.
Factors = dict[float, tuple[Floats, list[Floats]]]


def _solvers(
    problems: Sequence[Problem],
    gram: Floats,
    starts: Sequence[Floats],
    tol: float,
    passes: int,
    factors: Factors,
    *,
    bound: float,
) -> list[Solver]:
    """A solver for each problem; `factors` are those that are known, and those that are made are added; `bound` is on the curvature."""
    # Where probes are good the loss is flatter than its bound; half of it makes the better metric.
    typical = 0.5 * bound
    solvers: list[Solver] = []
    for problem, x in zip(problems, starts, strict=True):
        ridge = problem.alpha * (1.0 - problem.l1_ratio)
        if problem.l1_ratio > 0:
            solvers.append(proximal(x, gram, problem.alpha * problem.l1_ratio, ridge, bound, tol=tol, passes=passes))
            continue
        if ridge not in factors:
            widest = max(other.width for other in problems)
            factor = _factor(gram[:widest, :widest], typical, ridge)
            factors[ridge] = factor, corners_of(factor)
        factor, corners = factors[ridge]
        solvers.append(lbfgs(x, ridge, Metric(factor, problem.width, typical, corners), tol=tol, passes=passes))
    return solvers


def _solution(fit: Fit, scaling: Scaling, columns: int) -> Floats:
    """The inverse of folding: a fit in standard coordinates, (width + 1, columns)."""
    width = fit.coef.shape[1]
    both = np.vstack([fit.standard.T, fit.intercept + fit.coef @ scaling.mean[:width]])
    return both if columns > 1 else both[:, 1:] - both[:, :1]


def _groups(problems: Sequence[Problem], width: int) -> list[list[int]]:
    """Problems that run together: their factors, one for each alpha, fit in memory."""
    alphas = sorted({problem.alpha for problem in problems})
    size = max(1, _FACTOR_BYTES // (8 * width * width))
    parts = [set(alphas[i : i + size]) for i in range(0, len(alphas), size)]
    return [[i for i, problem in enumerate(problems) if problem.alpha in part] for part in parts]


def _factor(gram: Floats, curvature: float, ridge: float) -> Floats:
    hessian = curvature * gram
    # Without a ridge the Gram matrix may be singular; the metric steers the steps, not the solution.
    hessian[np.diag_indices_from(hessian)] += max(ridge, 1e-8)
    return np.asarray(np.linalg.cholesky(hessian), dtype=np.float64)


def _least_squares(moments: Moments, scaling: Scaling, gram: Floats, problem: Problem) -> Fit:
    d = problem.width
    target = moments.width - 1
    linear = moments.comoment[:d, target:] / moments.count * scaling.inverse[:d, None]
    part = gram[:d, :d]
    lasso, ridge = problem.alpha * problem.l1_ratio, problem.alpha * (1.0 - problem.l1_ratio)
    if lasso > 0:
        bound = float(np.linalg.norm(part, 2))
        scale = float(moments.variance[target])
        weights = elastic_net(part, linear, lasso, ridge, np.zeros_like(linear), bound=bound, tol=1e-14 * scale, steps=20000)
    elif ridge > 0:
        weights = np.asarray(np.linalg.solve(part + ridge * np.eye(d), linear), dtype=np.float64)
    else:
        weights = np.asarray(np.linalg.lstsq(part, linear, rcond=None)[0], dtype=np.float64)
    coef, intercept = scaling.take(slice(0, d)).raw(np.vstack([weights, moments.mean[target:]]))
    return Fit(coef, intercept, weights.T.copy())


def _scaling(moments: Moments, width: int) -> Scaling:
    alive = moments.alive(width)
    deviation = np.sqrt(np.where(alive, moments.variance[:width], 1.0))
    return Scaling(moments.mean[:width], np.where(alive, 1.0 / deviation, 0.0))


def _gram(moments: Moments, scaling: Scaling, width: int) -> Floats:
    gram = moments.comoment[:width, :width] * (scaling.inverse[:, None] / moments.count)
    gram *= scaling.inverse
    return np.asarray(gram)


def _prior(shares: Floats) -> Floats:
    """Intercept of a probe without weights, (1, K); a class that never occurs starts (and stays) far below the others."""
    safe = np.maximum(shares, 1e-6)
    return np.array([[np.log(safe[1] / safe[0])]]) if len(shares) == 2 else np.log(safe)[None, :]


def _log_odds(shares: Floats) -> Floats:
    """The same where labels do not exclude each other."""
    safe = np.clip(shares, 1e-6, 1 - 1e-6)
    return np.log(safe / (1 - safe))[None, :]


class _Probe(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Parameters and fitting shared by the classifier and the regression."""

    def __init__(self, alpha: float = 1e-2, l1_ratio: float = 0.0, tol: float = 1e-6, max_iter: int = 500) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.tol = tol
        self.max_iter = max_iter

    def _fit(self, rows: RowSource, labels: NDArray[Any], outputs: int, moments: Moments | None) -> Fit:
        if not self.alpha >= 0:
            raise ParameterError("alpha", type(self).__name__, "at least 0", self.alpha)
        if not 0 <= self.l1_ratio <= 1:
            raise ParameterError("l1_ratio", type(self).__name__, "in [0, 1]", self.l1_ratio)
        known = joint_moments(rows, labels, outputs) if moments is None else moments
        problem = Problem(rows.shape[1], self.alpha, self.l1_ratio)
        return fit_probes(rows, labels, known, [problem], outputs, tol=self.tol, passes=self.max_iter)[0]


class ElasticNetProbe(ClassifierMixin, _Probe):  # type: ignore[misc]  # scikit-learn has no types
    """Logistic (two classes) or multinomial logistic regression with an elastic-net penalty on standardised neurons.

    Parameters
    ----------
    alpha : float
        Strength of the penalty, against the mean loss; scikit-learn's C is 1 / (alpha * n).
    l1_ratio : float
        0 is ridge, 1 is lasso.
    tol : float
        Bound on what another step would gain, in units of the loss.
    max_iter : int
        Most passes over the rows.

    Attributes
    ----------
    classes_ : (K,)
    coef_ : (K, D) float64, or (1, D) for two classes
        Weights on raw neurons. Two classes share one penalty on their difference, as in scikit-learn.
    intercept_ : (K,) or (1,) float64
    standard_coef_ : like coef_
        Weights on standardised neurons.
    n_iter_ : int
        Passes over the rows.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> ElasticNetProbe:
        """Fit to X, (n, D), and class labels y, (n,)."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        return self.fit_rows(ArrayRows(np.asarray(X)), y)

    def fit_rows(self, rows: RowSource, y: ArrayLike, moments: Moments | None = None) -> ElasticNetProbe:
        """Fit to rows that are streamed; `moments` over [neurons | one-hot labels] saves a pass over them."""
        self.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
        self.n_features_in_ = rows.shape[1]
        if len(self.classes_) < 2:
            raise StatisticsError(f"All labels are {self.classes_[0]!r}: the classifier needs at least 2 classes; got 1 class.")
        fit = self._fit(rows, labels, len(self.classes_), moments)
        self.n_iter_ = fit.passes
        binary = len(self.classes_) == 2
        self.coef_ = 2.0 * fit.coef[1:] if binary else fit.coef
        self.intercept_ = 2.0 * fit.intercept[1:] if binary else fit.intercept
        self.standard_coef_ = 2.0 * fit.standard[1:] if binary else fit.standard
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """Scores, (n, K), or (n,) for two classes."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores = decision(ArrayRows(np.asarray(X)), self.coef_, self.intercept_)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Class of each row, (n,)."""
        scores = self.decision_function(X)
        index = (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self.classes_[index])

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Probabilities, (n, K)."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            positive = 0.5 * (1.0 + np.tanh(0.5 * scores))
            return np.stack([1.0 - positive, positive], axis=1)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class ElasticNetProbeRegressor(RegressorMixin, _Probe):  # type: ignore[misc]  # scikit-learn has no types
    """Least squares with an elastic-net penalty on standardised neurons, solved from the moments.

    Parameters and attributes are those of `ElasticNetProbe`; `coef_` is (D,) and `intercept_` a number.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> ElasticNetProbeRegressor:
        """Fit to X, (n, D), and targets y, (n,)."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], y_numeric=True, ensure_min_samples=2)
        return self.fit_rows(ArrayRows(np.asarray(X)), y)

    def fit_rows(self, rows: RowSource, y: ArrayLike, moments: Moments | None = None) -> ElasticNetProbeRegressor:
        """Fit to rows that are streamed; with `moments` over [neurons | target] they are not read at all."""
        self.n_features_in_ = rows.shape[1]
        fit = self._fit(rows, np.asarray(y, dtype=np.float64), 1, moments)
        self.n_iter_ = fit.passes
        self.coef_, self.intercept_, self.standard_coef_ = fit.coef[0], float(fit.intercept[0]), fit.standard[0]
        return self

    def predict(self, X: ArrayLike) -> Floats:
        """Predictions, (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return decision(ArrayRows(np.asarray(X)), self.coef_[None, :], np.array([self.intercept_]))[:, 0]


def joint_moments(rows: RowSource, labels: NDArray[Any], outputs: int) -> Moments:
    """Moments over [neurons | one-hot labels or target], in one pass."""
    accumulator = MomentsAccumulator(rows.shape[1] + outputs)
    for start, chunk in rows.chunks():
        accumulator.update(np.hstack([chunk, one_hot(labels[start : start + len(chunk)], outputs)]))
    return accumulator.finish()
