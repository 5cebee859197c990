"""Chooses which heads and FFN neurons a budget keeps: least-squares removal cost, weighted by what the task feels.

For a site with input covariance C, projection W and output metric M, removing a set S of inputs and re-solving W for
those that stay costs ``tr(W_S^T M W_S [(C^-1)_SS]^-1)`` (the optimal-brain-surgeon formula for a group, exact for a
quadratic). Greedy elimination gives each site a curve of cost against units removed; one price for all sites, the
lower convex hulls of their curves, says how many units each gives up.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError

Matrix = NDArray[np.float64]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Candidates:
    """The units of one site, and what removing them would cost.

    Attributes
    ----------
    covariance : ndarray of shape (k, k)
        Of the projection's inputs.
    projection : ndarray of shape (o, k)
        The projection's weight.
    metric : ndarray of shape (o, o)
        What errors of its output cost.
    units : int
        Units, each k / units consecutive inputs.
    price : float
        What one unit takes of the budget (parameters, or multiply-accumulates).
    """

    covariance: Matrix
    projection: Matrix
    metric: Matrix
    units: int
    price: float


@dataclass(frozen=True)
class Path:
    """A greedy elimination: units in the order in which they go, and the cumulative cost after each."""

    order: tuple[int, ...]
    cost: tuple[float, ...]
    price: float


def elimination(site: Candidates, *, damping: float = 1e-2, share: int = 32) -> Path:
    """Eliminate all units of a site one after the other, cheapest first, with the rest re-solved after each.

    Parameters
    ----------
    site : Candidates
    damping : float
        Added to the covariance, in units of its mean diagonal.
    share : int
        Single inputs are eliminated in runs of at most 1/share of those left, so that the updates are matrix products.

    Raises
    ------
    StatisticsError
        If the covariance or the metric is not finite.
    """
    for what in (site.covariance, site.projection, site.metric):
        if not np.isfinite(what).all():
            raise StatisticsError("The statistics of a site hold values that are not finite; the model or the calibration rows are broken.")
    width = len(site.covariance) // site.units
    strength = damping * float(np.trace(site.covariance)) / len(site.covariance)
    inverse: Matrix = np.linalg.inv(site.covariance + max(strength, 1e-12) * np.eye(len(site.covariance)))
    # M = R^T R by its eigenvectors, since it may be singular; the cost is that of R W.
    values, vectors = np.linalg.eigh(site.metric)
    weight: Matrix = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T @ site.projection
    order: list[int] = []
    cost: list[float] = []
    alive, total = np.arange(site.units), 0.0
    while len(alive):
        chosen = _cheapest(inverse, weight, len(alive), width, share)
        columns = (chosen[:, None] * width + np.arange(width)).ravel()
        block = np.linalg.inv(inverse[np.ix_(columns, columns)])
        removed = weight[:, columns]
        step = removed @ block
        paid = float((step * removed).sum())
        order.extend(int(unit) for unit in alive[chosen])
        # Units that go together share the cost evenly; each is as cheap as the next.
        cost.extend(total + paid * (place + 1) / len(chosen) for place in range(len(chosen)))
        total += paid
        stay = np.setdiff1d(np.arange(len(inverse)), columns)
        weight = weight[:, stay] - step @ inverse[np.ix_(columns, stay)]
        inverse = inverse[np.ix_(stay, stay)] - inverse[np.ix_(stay, columns)] @ block @ inverse[np.ix_(columns, stay)]
        alive = np.delete(alive, chosen)
    return Path(tuple(order), tuple(cost), site.price)


def _cheapest(inverse: Matrix, weight: Matrix, units: int, width: int, share: int) -> NDArray[np.int64]:
    """Places of the cheapest units among those left."""
    if width == 1:
        costs = np.square(weight).sum(0) / np.diag(inverse)
        count = max(1, units // share)
        return np.argpartition(costs, count - 1)[:count] if count < units else np.arange(units)
    groups = inverse.reshape(units, width, units, width)[np.arange(units), :, np.arange(units), :]
    parts = weight.reshape(len(weight), units, width).transpose(1, 0, 2)
    costs = np.einsum("uow,uwv,uov->u", parts, np.linalg.inv(groups), parts, optimize=True)
    return np.array([int(np.argmin(costs))])


def by_magnitude(site: Candidates) -> Path:
    """Baseline: units in the order of their projection weights' squared norm, which is also what they are said to cost."""
    scores = np.square(site.projection).sum(0).reshape(site.units, -1).sum(1)
    return _sorted(scores, site.price)


def at_random(site: Candidates, generator: np.random.Generator) -> Path:
    """Baseline: units in random order, at random costs in proportion to their price."""
    return _sorted(generator.random(site.units) * site.price, site.price)


def _sorted(scores: Matrix, price: float) -> Path:
    order = np.argsort(scores, kind="stable")
    return Path(tuple(int(unit) for unit in order), tuple(float(cost) for cost in np.cumsum(scores[order])), price)


def allocate(paths: Mapping[K, Path], excess: float) -> dict[K, int]:
    """How many units each site gives up so that together they free at least `excess` of the budget.

    The lower convex hulls of the cost curves are followed at one rising price for all sites (the Lagrangian of the
    knapsack), which is optimal but for the last step. If all units together do not suffice, all go.
    """
    steps: list[tuple[float, K, int, int, float]] = []
    for site, path in paths.items():
        corners = hull(path.cost)
        for first, last in zip(corners, corners[1:], strict=False):
            paid = (path.cost[last - 1] - (path.cost[first - 1] if first else 0.0)) / ((last - first) * path.price)
            steps.append((paid, site, first, last, path.price))
    gone = dict.fromkeys(paths, 0)
    for _, site, first, last, price in sorted(steps, key=lambda step: (step[0], str(step[1]), step[2])):
        if excess <= 0:
            break
        assert gone[site] == first
        count = min(last - first, int(np.ceil(excess / price - 1e-9)))
        gone[site] += count
        excess -= count * price
    return gone


def hull(cost: Sequence[float]) -> list[int]:
    """Corners of the lower convex hull of (units removed, cost), starting at (0, 0)."""
    corners, height = [0], [0.0, *cost]
    for point in range(1, len(height)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (height[b] - height[a]) * (point - b) < (height[point] - height[b]) * (b - a):
                break
            corners.pop()
        corners.append(point)
    return corners
