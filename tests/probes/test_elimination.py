from __future__ import annotations

import numpy as np
import pytest

from prunekit.errors import StatisticsError
from prunekit.probes.elimination import eliminate


def quadratic(width: int, outputs: int, seed: int = 0, shared: bool = True) -> tuple[list[np.ndarray], np.ndarray]:
    generator = np.random.default_rng(seed)
    hessians = []
    for _ in range(1 if shared else outputs):
        x = generator.normal(size=(4 * width, width)) @ (np.eye(width) + 0.4 * generator.normal(size=(width, width)))
        hessians.append(x.T @ x / len(x) + 0.05 * np.eye(width))
    weights = generator.normal(size=(width, outputs)) * generator.exponential(size=(width, 1))
    return hessians, weights


def loss(hessians: list[np.ndarray], weights: np.ndarray, kept: list[int]) -> float:
    """The least that the quadratic can be with the other features at zero, by solving anew."""
    total = 0.0
    for k in range(weights.shape[1]):
        hessian = hessians[0] if len(hessians) == 1 else hessians[k]
        linear = hessian @ weights[:, k]
        solved = np.linalg.solve(hessian[np.ix_(kept, kept)], linear[kept])
        total += 0.5 * weights[:, k] @ linear - 0.5 * linear[kept] @ solved
    return total


def naive(hessians: list[np.ndarray], weights: np.ndarray) -> list[int]:
    """Backward elimination that solves every sub-problem anew."""
    kept = list(range(len(weights)))
    removed = []
    while len(kept) > 1:
        worst = min(kept, key=lambda j: loss(hessians, weights, [i for i in kept if i != j]))
        kept.remove(worst)
        removed.append(worst)
    return kept + removed[::-1]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_small_problems_are_greedy_elimination(seed: int, shared: bool) -> None:
    # Up to 16 features at most one candidate leaves at a time, so that the blocks cannot differ from the definition.
    hessians, weights = quadratic(12, 3, seed, shared)
    assert eliminate(hessians, weights).tolist() == naive(hessians, weights)


@pytest.mark.parametrize("shared", [True, False])
def test_blocks_lose_hardly_more_than_one_at_a_time(shared: bool) -> None:
    hessians, weights = quadratic(80, 2, 5, shared)
    blocks, exact = eliminate(hessians, weights).tolist(), naive(hessians, weights)
    assert sorted(blocks) == list(range(80))
    generator = np.random.default_rng(0)
    for size in (5, 20, 40, 60):
        found, best = (loss(hessians, weights, order[:size]) for order in (blocks, exact))
        assert found <= 1.05 * best
        by_weight = np.argsort(-np.square(weights).sum(axis=1))[:size].tolist()
        assert found < loss(hessians, weights, by_weight)
        assert found < loss(hessians, weights, generator.permutation(80)[:size].tolist())


def test_of_two_copies_one_stays() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 10))
    x = np.hstack([x, x + 1e-3 * generator.normal(size=x.shape)])
    target = x[:, :10] @ np.arange(1.0, 11.0)[:, None]
    hessian = x.T @ x / 400 + 1e-3 * np.eye(20)
    order = eliminate([hessian], np.linalg.solve(hessian, x.T @ target / 400))
    assert sorted(i % 10 for i in order[:10]) == list(range(10))


def test_keep_stops_early_with_the_same_set() -> None:
    hessians, weights = quadratic(40, 2)
    assert set(eliminate(hessians, weights, keep=15)[:15].tolist()) == set(eliminate(hessians, weights)[:15].tolist())


def test_order_of_the_features_does_not_matter() -> None:
    hessians, weights = quadratic(50, 2)
    order = np.random.default_rng(3).permutation(50)
    permuted = eliminate([hessians[0][np.ix_(order, order)]], weights[order])
    assert (order[permuted] == eliminate(hessians, weights)).all()


def test_a_singular_hessian() -> None:
    with pytest.raises(StatisticsError, match="positive definite"):
        eliminate([np.diag([1.0, 0.0])], np.ones((2, 1)))
