"""Solvers that request each loss and gradient, so that many problems share one pass over the data.

A solver is a generator: it yields the point where it wants the data term evaluated, is sent (mean loss, gradient), and
returns its solution. `minimise` runs any number of them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Floats = NDArray[np.float64]
# Sizes of one name are equal in a call: k outputs; a point is weights and, below them, intercepts, w = width + 1 rows.
Point = Float64[Floats, "w k"]
Square = Float64[Floats, "d d"]
Columns = Float64[Floats, "d k"]
Pairs = list[tuple[Point, Point, float]]
# The points of several solvers are of different sizes.
Sized = Float64[Floats, "_ _"]
Solver = Generator[Sized, tuple[float, Sized], Sized]

_MEMORY = 12
_ARMIJO = 1e-4
_ROUNDING = 1e-7  # relative accuracy of losses of float32 rows
_BLOCK = 256


def minimise(solvers: Sequence[Solver], evaluate: Callable[[dict[int, Sized]], dict[int, tuple[float, Sized]]]) -> list[Sized]:
    """Run solvers together; `evaluate` maps {solver: point} to {solver: (loss, gradient)} in one pass."""
    points = {i: next(solver) for i, solver in enumerate(solvers)}
    done: dict[int, Sized] = {}
    while points:
        answers = evaluate(points)
        next_points: dict[int, Sized] = {}
        for i, answer in answers.items():
            try:
                next_points[i] = solvers[i].send(answer)
            except StopIteration as stop:
                done[i] = stop.value
        points = next_points
    return [done[i] for i in range(len(solvers))]


def lbfgs(start: Point, ridge: float, preconditioner: Preconditioner, *, tol: float, passes: int) -> Solver:
    """Minimise data term + ridge/2 * |weights|^2 (the last row, the intercept, is free) by L-BFGS in the coordinates of a metric.

    In those coordinates the objective is well conditioned, so that few steps are needed however correlated the neurons are.
    The stopping rule is scale-invariant: half the squared gradient there is the gain of another Newton step in that metric,
    in units of the loss.
    """
    v = preconditioner.enter(start)
    value, slope = _pull(preconditioner, start, ridge, (yield start))
    pairs: Pairs = []
    x, used = start, 1
    while used < passes:
        direction = -_two_loop(slope, pairs)
        descent = float(np.vdot(direction, slope))
        if 0.5 * float(np.vdot(slope, slope)) <= tol:
            break
        length = 1.0
        while True:
            trial = v + length * direction
            point = preconditioner.leave(trial)
            new_value, new_slope = _pull(preconditioner, point, ridge, (yield point))
            used += 1
            if new_value <= value + _ARMIJO * length * descent + _ROUNDING * abs(value) or used >= passes:
                break
            length *= 0.5
        if new_value > value + _ROUNDING * abs(value):
            break
        step, change = trial - v, new_slope - slope
        curvature = float(np.vdot(step, change))
        if curvature > 1e-12 * float(np.vdot(change, change)):
            pairs.append((step, change, curvature))
            del pairs[:-_MEMORY]
        v, x, value, slope = trial, point, new_value, new_slope
    return x


class Preconditioner:
    """Coordinates in which curvature * Gram + ridge * I, a model of the Hessian, is the identity.

    One Cholesky factor serves the probes on all prefixes of the columns: a leading block of the factor is the factor of the
    leading block. The triangular systems are solved in blocks on views of it, which LAPACK's wrappers would copy.

    Parameters
    ----------
    factor : (D, D) float64
        Lower Cholesky factor.
    width : int
        Columns that the probe reads.
    curvature : float
        Curvature of the loss in the intercept.
    corners : list of (b, b) float64
        Inverses of the diagonal blocks of the factor, of `corners_of`.
    """

    def __init__(self, factor: Square, width: int, curvature: float, corners: Sequence[Sized]) -> None:
        self._factor, self._width, self._scale, self._corners = factor, width, float(np.sqrt(curvature)), corners

    def enter(self, x: Point) -> Point:
        """Return the coordinates of a solution, (width + 1, K)."""
        lower = np.tril(self._factor[: self._width, : self._width]) if np.any(x[:-1]) else None
        weights = np.zeros_like(x[:-1]) if lower is None else lower.T @ x[:-1]
        return np.vstack([weights, x[-1:] * self._scale])

    def leave(self, v: Point) -> Point:
        """Return the solution at coordinates, (width + 1, K)."""
        x = np.empty_like(v)
        x[-1] = v[-1] / self._scale
        for i in reversed(range(0, self._width, _BLOCK)):
            stop = min(i + _BLOCK, self._width)
            part = v[i:stop] - self._factor[stop : self._width, i:stop].T @ x[stop : self._width]
            x[i:stop] = self._corners[i // _BLOCK][: stop - i, : stop - i].T @ part
        return x

    def pull(self, gradient: Point) -> Point:
        """Return the gradient with respect to the coordinates, (width + 1, K)."""
        g = np.empty_like(gradient)
        g[-1] = gradient[-1] / self._scale
        for i in range(0, self._width, _BLOCK):
            stop = min(i + _BLOCK, self._width)
            part = gradient[i:stop] - self._factor[i:stop, :i] @ g[:i]
            g[i:stop] = self._corners[i // _BLOCK][: stop - i, : stop - i] @ part
        return g


def corners_of(factor: Square) -> list[Sized]:
    """Return the inverses of the diagonal blocks of a lower triangular factor, for `Preconditioner`."""
    blocks = [factor[i : i + _BLOCK, i : i + _BLOCK] for i in range(0, len(factor), _BLOCK)]
    return [np.asarray(solve_triangular(block, np.eye(len(block)), lower=True, check_finite=False)) for block in blocks]


def _pull(preconditioner: Preconditioner, x: Point, ridge: float, answer: tuple[float, Point]) -> tuple[float, Point]:
    value, gradient = answer
    weights = x[:-1]
    total = gradient.copy()
    total[:-1] += ridge * weights
    return value + 0.5 * ridge * float(np.vdot(weights, weights)), preconditioner.pull(total)


def _two_loop(slope: Point, pairs: Pairs) -> Point:
    q = slope.copy()
    factors: list[float] = []
    for step, change, curvature in reversed(pairs):
        factor = float(np.vdot(step, q)) / curvature
        factors.append(factor)
        q -= factor * change
    if pairs:
        _, change, curvature = pairs[-1]
        q *= curvature / float(np.vdot(change, change))
    for (step, change, curvature), factor in zip(pairs, reversed(factors), strict=True):
        q += (factor - float(np.vdot(change, q)) / curvature) * step
    return q


def proximal(start: Point, gram: Square, lasso: float, ridge: float, curvature: float, *, tol: float, passes: int) -> Solver:
    """Minimise data term + lasso * |weights|_1 + ridge/2 * |weights|^2 by accelerated proximal gradient in a fixed metric.

    `curvature * gram` bounds the Hessian of the data term (Boehning 1992), so each step minimises an upper bound of the
    objective: an elastic net on the Gram matrix, solved without the data. Steps are extrapolated (Beck and
    Teboulle 2009) and restarted when they turn back (O'Donoghue and Candes 2015).
    """
    width = len(start) - 1
    hessian = curvature * gram[:width, :width]
    bound = float(np.linalg.norm(hessian, 2)) if width else 0.0
    x, ahead, momentum = start, start, 1.0
    for _ in range(passes):
        _, gradient = yield ahead
        new = np.empty_like(x)
        linear = hessian @ ahead[:-1] - gradient[:-1]
        new[:-1] = elastic_net(hessian, linear, lasso, ridge, x[:-1], bound=bound, tol=0.01 * tol)
        new[-1] = ahead[-1] - gradient[-1] / curvature
        move = new - ahead
        decrement = float(np.vdot(move[:-1], hessian @ move[:-1])) + curvature * float(np.vdot(move[-1], move[-1]))
        if 0.5 * decrement <= tol:
            return new
        ahead, momentum = accelerated(x, ahead, new, momentum)
        x = new
    return x


def accelerated(x: Point, ahead: Point, new: Point, momentum: float) -> tuple[Point, float]:
    """Return the point from which a proximal gradient method goes on after a step from `ahead` to `new`, and its momentum.

    It is extrapolated from the last point `x` (Beck and Teboulle 2009), or restarted where the step turned back (O'Donoghue and Candes
    2015).
    """
    if float(np.vdot(new - ahead, new - x)) < 0:
        return new, 1.0
    following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
    return new + (momentum - 1.0) / following * (new - x), float(following)


def elastic_net(
    hessian: Square, linear: Columns, lasso: float, ridge: float, start: Columns, *, bound: float, tol: float, steps: int = 5000
) -> Columns:
    """Minimise tr(W' H W) / 2 - <linear, W> + lasso * |W|_1 + ridge/2 * |W|^2 over W, (d, K).

    `bound` is at least the largest eigenvalue of H. Stops when the step could gain less than `tol`.
    """
    step = 1.0 / (bound + ridge + np.finfo(float).tiny)
    x, ahead, momentum = start, start, 1.0
    for _ in range(steps):
        moved = ahead - step * (hessian @ ahead - linear + ridge * ahead)
        new = np.sign(moved) * np.maximum(np.abs(moved) - lasso * step, 0.0)
        move = new - ahead
        if 0.5 * float(np.vdot(move, move)) <= tol * step:
            return new
        ahead, momentum = accelerated(x, ahead, new, momentum)
        x = new
    return x
