from __future__ import annotations

import numpy as np
import pytest

from prunekit.errors import StatisticsError
from prunekit.probes.elimination import RIDGE, eliminate, elimination_order
from prunekit.stats.moments import Moments


def quadratic(width: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A Hessian and the minimiser for each output."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(4 * width, width)) @ (np.eye(width) + 0.4 * generator.normal(size=(width, width)))
    weights = generator.normal(size=(width, outputs)) * generator.exponential(size=(width, 1))
    return x.T @ x / len(x) + 0.05 * np.eye(width), weights


def order_of(hessian: np.ndarray, weights: np.ndarray) -> list[int]:
    return eliminate(hessian, hessian @ weights).tolist()


def loss(hessian: np.ndarray, weights: np.ndarray, kept: list[int]) -> float:
    """The least that the quadratic can be with the other features at zero, by solving anew."""
    linear = hessian @ weights
    solved = np.linalg.solve(hessian[np.ix_(kept, kept)], linear[kept])
    return float(0.5 * (weights * linear).sum() - 0.5 * (linear[kept] * solved).sum())


def naive(hessian: np.ndarray, weights: np.ndarray) -> list[int]:
    """Backward elimination that solves every sub-problem anew."""
    kept = list(range(len(weights)))
    removed = []
    while len(kept) > 1:
        worst = min(kept, key=lambda j: loss(hessian, weights, [i for i in kept if i != j]))
        kept.remove(worst)
        removed.append(worst)
    return kept + removed[::-1]


def one_by_one(hessian: np.ndarray, weights: np.ndarray) -> list[int]:
    """Backward elimination, one feature at a time, by the formulas of Hassibi and Stork on the whole inverse."""
    inverse, solution = np.linalg.inv(hessian), weights.copy()
    kept, removed = np.ones(len(weights), dtype=bool), []
    for _ in range(len(weights) - 1):
        cost = np.where(kept, np.square(solution).sum(axis=1) / inverse.diagonal(), np.inf)
        j = int(cost.argmin())
        factor = inverse[:, j] / inverse[j, j]
        solution -= np.outer(factor, solution[j])
        inverse -= np.outer(factor, inverse[j])
        inverse[j, j] = 1.0
        kept[j] = False
        removed.append(j)
    return [*np.flatnonzero(kept).tolist(), *removed[::-1]]


@pytest.mark.parametrize("seed", range(6))
def test_small_problems_are_greedy_elimination(seed: int) -> None:
    # Up to 16 features at most one candidate leaves at a time, so that the blocks cannot differ from the definition.
    hessian, weights = quadratic(12, 3, seed)
    assert order_of(hessian, weights) == naive(hessian, weights) == one_by_one(hessian, weights)


def test_blocks_lose_hardly_more_than_one_at_a_time() -> None:
    hessian, weights = quadratic(80, 2, 5)
    blocks, exact = order_of(hessian, weights), naive(hessian, weights)
    assert sorted(blocks) == list(range(80))
    generator = np.random.default_rng(0)
    for size in (5, 20, 40, 60):
        found, best = (loss(hessian, weights, order[:size]) for order in (blocks, exact))
        assert found <= 1.05 * best
        by_weight = np.argsort(-np.square(weights).sum(axis=1))[:size].tolist()
        assert found < loss(hessian, weights, by_weight)
        assert found < loss(hessian, weights, generator.permutation(80)[:size].tolist())


def test_many_redundant_features_lose_hardly_more_either() -> None:
    """More features than are removed before the inverse is brought up to date, several times over; most say what others say."""
    generator = np.random.default_rng(1)
    factors = generator.normal(size=(1500, 60))
    x = factors @ generator.normal(size=(60, 900)) + 0.5 * generator.normal(size=(1500, 900))
    hessian = np.corrcoef(x.T) + 0.1 * np.eye(900)
    weights = np.linalg.solve(hessian, x.T @ (factors[:, :5] + generator.normal(size=(1500, 5))) / 1500)
    blocks, exact = order_of(hessian, weights), one_by_one(hessian, weights)
    assert sorted(blocks) == list(range(900))
    for size in (1, 5, 20, 60, 150, 400, 800):
        assert loss(hessian, weights, blocks[:size]) <= 1.05 * loss(hessian, weights, exact[:size])


def test_features_that_do_not_meet_leave_by_their_own_cost() -> None:
    """For a diagonal Hessian the cost of a feature is w^2 h / 2 whatever else has gone."""
    generator = np.random.default_rng(2)
    diagonal, weights = generator.exponential(size=1000) + 0.1, generator.normal(size=(1000, 2))
    expected = np.argsort(-np.square(weights).sum(axis=1) * diagonal)
    assert order_of(np.diag(diagonal), weights) == expected.tolist()


def test_of_two_copies_one_stays() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 10))
    x = np.hstack([x, x + 1e-3 * generator.normal(size=x.shape)])
    target = x[:, :10] @ np.arange(1.0, 11.0)[:, None]
    order = eliminate(x.T @ x / 400 + 1e-3 * np.eye(20), x.T @ target / 400)
    assert sorted(i % 10 for i in order[:10]) == list(range(10))


def test_order_of_the_features_does_not_matter() -> None:
    hessian, weights = quadratic(50, 2)
    order = np.random.default_rng(3).permutation(50)
    permuted = order_of(hessian[np.ix_(order, order)], weights[order])
    assert order[permuted].tolist() == order_of(hessian, weights)


def test_the_hessian_is_left_alone_unless_it_may_be_lost() -> None:
    hessian, weights = quadratic(30, 2)
    before, linear = hessian.copy(), hessian @ weights
    order = eliminate(hessian, linear)
    assert (hessian == before).all()
    assert (eliminate(hessian, linear, overwrite=True) == order).all()


def test_neurons_are_standardised() -> None:
    """Scales and shifts of the neurons change nothing; the order is that of ridge on correlations."""
    generator = np.random.default_rng(4)
    x, noise = generator.normal(size=(300, 12)) @ generator.normal(size=(12, 12)), generator.normal(size=(300, 2))
    y = x[:, :4] @ generator.normal(size=(4, 2)) + noise
    order = elimination_order(Moments.of(np.hstack([x, y])), 12).tolist()
    z = (x - x.mean(0)) / x.std(0)
    hessian = z.T @ z / 300 + RIDGE * np.eye(12)
    assert order == naive(hessian, np.linalg.solve(hessian, z.T @ (y - y.mean(0)) / 300))
    moved = np.hstack([x * np.geomspace(1e-3, 1e3, 12) + 5, y])
    assert elimination_order(Moments.of(moved), 12).tolist() == order


def test_a_singular_hessian() -> None:
    with pytest.raises(StatisticsError, match="positive definite"):
        eliminate(np.diag([1.0, 0.0]), np.ones((2, 1)))
