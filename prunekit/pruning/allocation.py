"""Selection of the heads and FFN neurons that a budget keeps: least-squares removal cost, weighted by sensitivity.

For a site with input covariance C, projection W and output metric M, removing a set S of inputs and refitting W on
those that stay costs ``tr(W_S^T M W_S [(C^-1)_SS]^-1)`` (the optimal-brain-surgeon formula for a group, exact for a
quadratic). Greedy elimination gives each site a curve of cost against units removed; one price for all sites, along the
lower convex hulls of their curves, determines how many units each gives up.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from prunekit.errors import StatisticsError

Matrix = NDArray[np.float64]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The units of one site, and the statistics that determine the cost of their removal.

    Attributes
    ----------
    covariance : ndarray of shape (k, k)
        Covariance of the projection's inputs.
    projection : ndarray of shape (o, k)
        The projection's weight.
    metric : ndarray of shape (o, o)
        Cost of errors of its output.
    units : int
        Number of units, each k / units consecutive inputs.
    price : float
        Part of the budget that one unit takes (parameters, or multiply-accumulates).
    """

    covariance: Matrix
    projection: Matrix
    metric: Matrix
    units: int
    price: float


@dataclass(frozen=True)
class Path:
    """An elimination path: units in the order of their removal, and the cumulative cost after each."""

    order: tuple[int, ...]
    cost: tuple[float, ...]


def elimination(site: Candidates, *, damping: float = 1e-2, share: int = 32) -> Path:
    """Eliminate all units of a site one after the other, cheapest first, with the rest refitted after each.

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
        If the covariance, the projection or the metric is not finite.
    """
    for statistic in (site.covariance, site.projection, site.metric):
        if not np.isfinite(statistic).all():
            raise StatisticsError("The statistics of a site hold values that are not finite; the model or the calibration rows are broken.")
    width = len(site.covariance) // site.units
    strength = damping * float(np.trace(site.covariance)) / len(site.covariance)
    inverse = _inverse(site.covariance + max(strength, 1e-12) * np.eye(len(site.covariance)))
    # M = R^T R by its eigenvectors, since it may be singular; the cost is that of R W.
    values, vectors = np.linalg.eigh(site.metric)
    weight: Matrix = (np.sqrt(np.maximum(values, 0))[:, None] * vectors.T @ site.projection).astype(np.float64)
    order: list[int] = []
    cost: list[float] = []
    remaining, total = np.arange(site.units), 0.0
    while len(remaining):
        chosen = _cheapest(inverse, weight, len(remaining), width, share)
        columns = (chosen[:, None] * width + np.arange(width)).ravel()
        crossing = inverse[columns]
        block = np.linalg.inv(crossing[:, columns])
        removed = weight[:, columns]
        step = removed @ block
        paid = float((step * removed).sum())
        order.extend(int(unit) for unit in remaining[chosen])
        # Units that go together share the cost evenly; each is as cheap as the next.
        cost.extend(total + paid * (place + 1) / len(chosen) for place in range(len(chosen)))
        total += paid
        # The last units take the places of those that go, so that what is left need not be copied.
        left = len(remaining) - len(chosen)
        holes, last = chosen[chosen < left], np.delete(np.arange(left, len(remaining)), chosen[chosen >= left] - left)
        remaining[holes] = remaining[last]
        remaining = remaining[:left]
        hole_columns, last_columns = ((places[:, None] * width + np.arange(width)).ravel() for places in (holes, last))
        inverse[hole_columns] = inverse[last_columns]
        for matrix in (inverse, weight, crossing):
            matrix[:, hole_columns] = matrix[:, last_columns]
        inverse, weight, crossing = inverse[: left * width, : left * width], weight[:, : left * width], crossing[:, : left * width]
        weight -= step @ crossing
        inverse -= crossing.T @ (block @ crossing)
    return Path(tuple(order), tuple(cost))


def _inverse(matrix: Matrix) -> Matrix:
    """Invert a symmetric matrix, by its Cholesky factor where it has one."""
    factor, failed = lapack.dpotrf(matrix, lower=True)
    if failed:
        return np.linalg.inv(matrix).astype(np.float64)
    lower: Matrix = np.tril(lapack.dpotri(factor, lower=True)[0])
    return lower + np.tril(lower, -1).T


def _cheapest(inverse: Matrix, weight: Matrix, units: int, width: int, share: int) -> NDArray[np.int64]:
    """Return the positions of the cheapest units among those left."""
    if width == 1:
        costs = np.square(weight).sum(0) / np.diag(inverse)
        count = max(1, units // share)
        return np.argpartition(costs, count - 1)[:count] if count < units else np.arange(units)
    groups = inverse.reshape(units, width, units, width)[np.arange(units), :, np.arange(units), :]
    parts = weight.reshape(len(weight), units, width).transpose(1, 0, 2)
    costs = np.einsum("uow,uwv,uov->u", parts, np.linalg.inv(groups), parts, optimize=True)
    return np.array([int(np.argmin(costs))])


def by_magnitude(site: Candidates) -> Path:
    """Order units by the squared norm of their projection weights, which also serves as their cost; a baseline."""
    return _sorted(np.square(site.projection).sum(0).reshape(site.units, -1).sum(1))


def at_random(site: Candidates, generator: np.random.Generator) -> Path:
    """Order units at random, with random costs in proportion to their price; a baseline."""
    return _sorted(generator.random(site.units) * site.price)


def _sorted(scores: Matrix) -> Path:
    order = np.argsort(scores, kind="stable")
    return Path(tuple(int(unit) for unit in order), tuple(float(cost) for cost in np.cumsum(scores[order])))


@dataclass(frozen=True)
class Curve:
    """Cost of giving up units of a site, and the budget that this frees.

    Attributes
    ----------
    cost : tuple of float
        Cumulative cost after 1, 2, ... units.
    price : float
        Budget that one unit frees.
    stops : tuple of int
        Numbers of units that may be given up, ascending; the first is given up at least.
    last : float
        Budget that giving up all of them frees on top.
    """

    cost: tuple[float, ...]
    price: float
    stops: tuple[int, ...]
    last: float = 0.0

    def at(self, gone: int) -> float:
        """Return the cost of giving up this many units."""
        return self.cost[gone - 1] if gone else 0.0

    def freed(self, gone: int) -> float:
        """Return the budget that giving up this many units frees."""
        return gone * self.price + (self.last if gone and gone == len(self.cost) else 0.0)


def allocate(curves: Mapping[K, Curve], excess: float) -> dict[K, int]:
    """Return how many units each site gives up so that together they free at least `excess` of the budget.

    The lower convex hulls of the cost curves are followed at one rising price for all sites (the Lagrangian of the
    knapsack), which is optimal but for the last step; its surplus is then given back where it is worth most. If all
    units together do not suffice, all are given up.
    """
    steps: list[tuple[float, K, int, int]] = []
    gone: dict[K, int] = {}
    for site, curve in curves.items():
        gone[site] = curve.stops[0]
        excess -= curve.freed(curve.stops[0])
        if curve.freed(curve.stops[-1]) <= curve.freed(curve.stops[0]):
            continue
        frees = [curve.freed(stop) for stop in curve.stops]
        corners = [curve.stops[place] for place in hull(frees, [curve.at(stop) for stop in curve.stops])]
        for first, last in pairwise(corners):
            steps.append(((curve.at(last) - curve.at(first)) / (curve.freed(last) - curve.freed(first)), site, first, last))
    for _, site, first, last in sorted(steps, key=lambda step: (step[0], str(step[1]), step[2])):
        if excess <= 0:
            break
        assert gone[site] == first
        curve = curves[site]
        base, tiny = curve.freed(first), 1e-9 * curve.price
        stop = next((stop for stop in curve.stops if first < stop <= last and curve.freed(stop) - base >= excess - tiny), last)
        gone[site] = stop
        excess -= curve.freed(stop) - base
    return _give_back(curves, gone, -excess)


def _give_back(curves: Mapping[K, Curve], gone: dict[K, int], surplus: float) -> dict[K, int]:
    """Let sites keep units as long as the surplus allows it, the most valuable first."""
    while True:
        best: tuple[float, K, int] | None = None
        for site, curve in curves.items():
            freed = curve.freed(gone[site])
            spare = [stop for stop in curve.stops if stop < gone[site] and freed - curve.freed(stop) <= surplus]
            if spare and (best is None or curve.at(gone[site]) - curve.at(spare[0]) > best[0]):
                best = curve.at(gone[site]) - curve.at(spare[0]), site, spare[0]
        if best is None:
            return gone
        _, site, stop = best
        surplus -= curves[site].freed(gone[site]) - curves[site].freed(stop)
        gone[site] = stop


def hull(places: Sequence[float], heights: Sequence[float]) -> list[int]:
    """Return the indices of the points (place, height), ordered from left to right, that are corners of their lower convex hull."""
    corners = [0]
    for point in range(1, len(places)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (heights[b] - heights[a]) * (places[point] - places[b]) < (heights[point] - heights[b]) * (places[b] - places[a]):
                break
            corners.pop()
        corners.append(point)
    return corners


def allocate_evenly(groups: Sequence[Mapping[K, Curve]], excess: float) -> dict[K, int] | None:
    """Return how many units each site gives up if all sites of a group give up equally many, and none gives up all.

    The exact optimum, by trying every number for each group but the last, whose smallest sufficient number is the best.
    Return None if no numbers suffice.

    Parameters
    ----------
    groups : sequence of mapping
        Curves by site, of equal length and with equal stops inside a group.
    excess : float
        Budget that has to be freed.
    """
    options = [_even(list(group.values())) for group in groups if group]
    best: tuple[float, tuple[int, ...]] | None = None

    def search(place: int, left: float, paid: float, chosen: tuple[int, ...]) -> None:
        nonlocal best
        if place == len(options):
            if left <= 1e-9 * max(1.0, abs(excess)) and (best is None or paid < best[0]):
                best = paid, chosen
            return
        for stop, cost, freed in options[place]:
            search(place + 1, left - freed, paid + cost, (*chosen, stop))
            if place == len(options) - 1 and left - freed <= 0:
                break

    search(0, excess, 0.0, ())
    if best is None:
        return None
    filled = [group for group in groups if group]
    return {site: stop for group, stop in zip(filled, best[1], strict=True) for site in group}


def _even(curves: Sequence[Curve]) -> list[tuple[int, float, float]]:
    """Return (units given up by each, cost, budget freed) of all sites of a group together."""
    most = min(len(curve.cost) for curve in curves)
    return [
        (stop, sum(curve.at(stop) for curve in curves), sum(curve.price for curve in curves) * stop)
        for stop in curves[0].stops
        if stop < most
    ]
