"""Elastic-net probes: linear classifiers and regressions on standardised neurons, fitted by streaming over the rows.

The objective is mean cross-entropy (or half the mean squared error) + alpha * (l1_ratio * |W|_1 + (1 - l1_ratio) / 2 * |W|^2)
on standardised inputs; the standardisation is folded back, so that coefficients apply to raw neurons. A constant
neuron (see `Moments.non_constant`) has weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import lapack

from prunekit.errors import StatisticsError
from prunekit.probes.objective import Iterate, RowSource, Scaling, evaluate
from prunekit.probes.solver import Preconditioner, Solver, corners_of, elastic_net, lbfgs, minimise, proximal
from prunekit.stats.collected import Labels
from prunekit.stats.moments import Moments

Floats = NDArray[np.float64]
# Sizes of one name are equal in a call: d neurons, k outputs; a point has a row for the intercept.
Square = Float64[Floats, "d d"]
Point = Float64[Floats, "_ k"]

_FACTOR_BYTES = 1 << 30
#: Labels of a multi-label task that are fitted together: the memory of a step grows with their number.
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
        One row for each class (for two classes: two opposite rows), or one row for a regression.
    intercept : (K,) float64
    standard : (K, width) float64
        Weights on standardised neurons, which are comparable between neurons.
    passes : int
        Passes over the rows that the fit took part in; 1 where the moments were enough.
    """

    coef: Float64[Floats, "k d"]
    intercept: Float64[Floats, " k"]
    standard: Float64[Floats, "k d"]
    passes: int = 1


def fit_probes(
    rows: RowSource,
    labels: Labels,
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
        (n, D) neurons. Not read for a regression, for which the moments suffice.
    labels : (n,) int64 class ids, or float64 targets; or (n, outputs) bool
        Label sets are fitted one against the rest: a logistic regression for each label, `_LABELS` of them at a time.
    moments : Moments
        Over [the D neurons | the `outputs` label columns] of the same rows. A classifier takes no more from them than the
        standardisation and the metric of its steps, so that they may be those of a larger sample of the same data.
    problems : sequence of Problem
    outputs : int
        Number of classes, or 1 for a regression.
    starts : sequence of Fit, optional
        Starting point of each problem; by default zero.
    tol : float
        Bound on the gain of another step, in units of the loss.
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
    # Losses of single labels add up, so that they are minimised separately; classes are not.
    parts = [slice(at, at + _LABELS) for at in range(0, columns, _LABELS)] if sets else [slice(None)]
    fits: dict[int, Fit] = {}
    for group in _groups(problems, width):
        factors: Factors = {}
        pass_counts = dict.fromkeys(group, 0)
        solutions: dict[int, list[Point]] = {i: [] for i in group}
        for part in parts:
            if starts is None:
                intercepts = np.atleast_2d(prior[:, part])
                points = [np.vstack([np.zeros((problems[i].width, intercepts.shape[1])), intercepts]) for i in group]
            else:
                points = [_solution(starts[i], scaling, columns)[:, part] for i in group]
            targets = labels[:, part] if sets else labels
            solvers = _solvers(
                [problems[i] for i in group], gram, points, tol, passes, factors, bound=0.25 if sets or columns == 1 else 0.5
            )

            def evaluate_all(
                requests: dict[int, Point],
                group: list[int] = group,
                pass_counts: dict[int, int] = pass_counts,
                targets: Labels = targets,
            ) -> dict[int, tuple[float, Point]]:
                for i in requests:
                    pass_counts[group[i]] += 1
                answers = evaluate(rows, targets, scaling, [Iterate(problems[group[i]].width, x) for i, x in requests.items()])
                return dict(zip(requests, answers, strict=True))

            for i, solution in zip(group, minimise(solvers, evaluate_all), strict=True):
                solutions[i].append(solution)
        for i in group:
            solution = np.hstack(solutions.pop(i))
            both = solution if columns > 1 else np.hstack([-0.5 * solution, 0.5 * solution])
            coef, intercept = scaling.take(slice(0, problems[i].width)).raw(both)
            fits[i] = Fit(coef, intercept, np.ascontiguousarray(both[:-1].T), pass_counts[i])
    return [fits[i] for i in range(len(problems))]


#: {ridge: a Cholesky factor, and the inverses of its diagonal blocks}.
Factors = dict[float, tuple[Float64[Floats, "_ _"], list[Float64[Floats, "_ _"]]]]


def _solvers(
    problems: Sequence[Problem],
    gram: Square,
    starts: Sequence[Point],
    tol: float,
    passes: int,
    factors: Factors,
    *,
    bound: float,
) -> list[Solver]:
    """Return a solver for each problem; missing factors are added to `factors`; `bound` is an upper bound of the curvature."""
    # Near a good probe the curvature is below its bound; half of the bound makes a better metric.
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
        solvers.append(lbfgs(x, ridge, Preconditioner(factor, problem.width, typical, corners), tol=tol, passes=passes))
    return solvers


def _solution(fit: Fit, scaling: Scaling, columns: int) -> Point:
    """Return a fit in standard coordinates, (width + 1, columns); the inverse of `Scaling.raw`."""
    width = fit.coef.shape[1]
    both = np.vstack([fit.standard.T, fit.intercept + fit.coef @ scaling.mean[:width]])
    return both if columns > 1 else both[:, 1:] - both[:, :1]


def _groups(problems: Sequence[Problem], width: int) -> list[list[int]]:
    """Group problems that run together: their factors, one for each alpha, fit in memory."""
    alphas = sorted({problem.alpha for problem in problems})
    size = max(1, _FACTOR_BYTES // (8 * width * width))
    parts = [set(alphas[i : i + size]) for i in range(0, len(alphas), size)]
    return [[i for i, problem in enumerate(problems) if problem.alpha in part] for part in parts]


def _factor(gram: Square, curvature: float, ridge: float) -> Square:
    hessian = curvature * gram
    # Without a ridge the Gram matrix may be singular; the metric affects the steps, not the solution.
    hessian[np.diag_indices_from(hessian)] += max(ridge, 1e-8)
    # In place: the lower part in C order is the upper one in Fortran order. numpy copies twice and takes twice as long.
    factor, info = lapack.dpotrf(hessian.T, lower=0, clean=1, overwrite_a=1)
    if info != 0:
        raise StatisticsError("The second moments of the neurons are not positive definite: a larger alpha is needed.")
    return np.asarray(factor.T, dtype=np.float64)


def _least_squares(moments: Moments, scaling: Scaling, gram: Square, problem: Problem) -> Fit:
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
    non_constant = moments.non_constant(width)
    deviation = np.sqrt(np.where(non_constant, moments.variance[:width], 1.0))
    return Scaling(moments.mean[:width], np.where(non_constant, 1.0 / deviation, 0.0))


def _gram(moments: Moments, scaling: Scaling, width: int) -> Square:
    gram = moments.comoment[:width, :width] * (scaling.inverse[:, None] / moments.count)
    gram *= scaling.inverse
    return np.asarray(gram)


def _prior(shares: Float64[Floats, " c"]) -> Float64[Floats, "1 k"]:
    """Return the intercept of a probe without weights, (1, K); a class that never occurs starts (and stays) far below the others."""
    safe = np.maximum(shares, 1e-6)
    return np.array([[np.log(safe[1] / safe[0])]]) if len(shares) == 2 else np.log(safe)[None, :]


def _log_odds(shares: Float64[Floats, " k"]) -> Float64[Floats, "1 k"]:
    """Return the same for non-exclusive labels."""
    safe = np.clip(shares, 1e-6, 1 - 1e-6)
    return np.log(safe / (1 - safe))[None, :]
