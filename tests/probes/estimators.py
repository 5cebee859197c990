"""`fit_probes` in the form of estimators, so that other estimators can be held beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.probes.elastic_net import Fit, Problem, fit_probes
from prunekit.probes.objective import RowSource, decision
from prunekit.stats.moments import Moments, MomentsAccumulator, one_hot

Floats = NDArray[np.float64]


class ArrayRows:
    """An in-memory matrix as a RowSource; float64 stays float64."""

    def __init__(self, matrix: NDArray[Any]) -> None:
        self.matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield chunks of rows; views of the matrix."""
        step = size or max(1, 2**25 // max(1, self.matrix.itemsize * self.shape[1]))
        for start in range(0, len(self.matrix), step):
            yield start, self.matrix[start : start + step]


def joint_moments(rows: RowSource, labels: NDArray[Any], outputs: int) -> Moments:
    """Moments over [neurons | one-hot labels or target], in one pass."""
    accumulator = MomentsAccumulator(rows.shape[1] + outputs)
    for start, chunk in rows.chunks():
        accumulator.update(np.hstack([chunk, one_hot(labels[start : start + len(chunk)], outputs)]))
    return accumulator.finish()


class _Probe:
    def __init__(self, alpha: float = 1e-2, l1_ratio: float = 0.0, tol: float = 1e-6, max_iter: int = 500) -> None:
        self.alpha, self.l1_ratio, self.tol, self.max_iter = alpha, l1_ratio, tol, max_iter

    def _fit(self, rows: RowSource, labels: NDArray[Any], outputs: int) -> Fit:
        problem = Problem(rows.shape[1], self.alpha, self.l1_ratio)
        moments = joint_moments(rows, labels, outputs)
        return fit_probes(rows, labels, moments, [problem], outputs, tol=self.tol, passes=self.max_iter)[0]


class Classifier(_Probe):
    """Logistic regression; with two classes, as scikit-learn has it, one row of weights, which is their difference."""

    def fit(self, x: ArrayLike, y: NDArray[Any]) -> Classifier:
        """Fit to rows in memory, (n, D), with class ids, (n,)."""
        return self.fit_rows(ArrayRows(np.asarray(x)), y)

    def fit_rows(self, rows: RowSource, y: NDArray[Any]) -> Classifier:
        """Fit to rows that are streamed."""
        fit = self._fit(rows, y, int(y.max()) + 1)
        binary = len(fit.coef) == 2
        self.coef_ = 2.0 * fit.coef[1:] if binary else fit.coef
        self.intercept_ = 2.0 * fit.intercept[1:] if binary else fit.intercept
        self.standard_coef_ = 2.0 * fit.standard[1:] if binary else fit.standard
        return self

    def decision_function(self, x: ArrayLike) -> Floats:
        """Scores, (n, K), or (n,) for two classes."""
        scores = decision(ArrayRows(np.asarray(x)), self.coef_, self.intercept_)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, x: ArrayLike) -> NDArray[Any]:
        """Class of each row, (n,)."""
        return self.predict_proba(x).argmax(axis=1)

    def predict_proba(self, x: ArrayLike) -> Floats:
        """Probabilities, (n, K)."""
        scores = self.decision_function(x)
        both = np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores
        powers = np.exp(both - both.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class Regressor(_Probe):
    """Least squares."""

    def fit(self, x: ArrayLike, y: ArrayLike) -> Regressor:
        """Fit to rows in memory, (n, D), with targets, (n,)."""
        fit = self._fit(ArrayRows(np.asarray(x)), np.asarray(y, dtype=np.float64), 1)
        self.coef_, self.intercept_, self.standard_coef_ = fit.coef[0], float(fit.intercept[0]), fit.standard[0]
        return self

    def predict(self, x: ArrayLike) -> Floats:
        """Predictions, (n,)."""
        return decision(ArrayRows(np.asarray(x)), self.coef_[None, :], np.array([self.intercept_]))[:, 0]
