from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from prunekit.errors import StatisticsError
from prunekit.pruning.allocation import Candidates, Curve, allocate, allocate_evenly, at_random, by_magnitude, elimination, hull


def problem(units: int, width: int = 1, seed: int = 0, o: int = 4, rank: int = 4) -> Candidates:
    rng = np.random.default_rng(seed)
    k = units * width
    x = rng.normal(size=(200, k)) @ rng.normal(size=(k, k))
    half = rng.normal(size=(rank, o))
    return Candidates(np.cov(x.T, ddof=0), rng.normal(size=(o, k)), half.T @ half, units, 1.0)


def exact_cost(site: Candidates, gone: tuple[int, ...]) -> float:
    """Least squares of what the whole projection gives, in the metric, on the inputs that stay: by normal equations."""
    width = len(site.covariance) // site.units
    stay = [unit * width + entry for unit in range(site.units) if unit not in gone for entry in range(width)]
    target = site.projection @ site.covariance @ site.projection.T
    if not stay:
        return float(np.trace(site.metric @ target))
    cross = site.projection @ site.covariance[:, stay]
    solved = np.linalg.solve(site.covariance[np.ix_(stay, stay)], cross.T).T
    return float(np.trace(site.metric @ (target - solved @ cross.T)))


@pytest.mark.parametrize(("units", "width"), [(7, 1), (5, 3)])
@pytest.mark.parametrize("rank", [4, 1])
def test_elimination_starts_with_the_cheapest_and_costs_what_least_squares_pays(units: int, width: int, rank: int) -> None:
    site = problem(units, width, rank=rank)
    path = elimination(site, damping=0.0)
    assert sorted(path.order) == list(range(units))
    assert path.order[0] == min(range(units), key=lambda unit: exact_cost(site, (unit,)))
    for gone in range(1, units + 1):
        prefix = path.order[:gone]
        assert path.cost[gone - 1] == pytest.approx(exact_cost(site, prefix), rel=1e-5, abs=1e-8)
        # Greedy: the last one to go is the cheapest on top of those before.
        others = [exact_cost(site, (*prefix[:-1], unit)) for unit in range(units) if unit not in prefix[:-1]]
        assert path.cost[gone - 1] == pytest.approx(min(others), rel=1e-5, abs=1e-8)


def test_runs_of_single_inputs_cost_what_they_cost_together() -> None:
    site = problem(40)
    path = elimination(site, damping=0.0, share=8)
    # 40 // 8 = 5 at first.
    assert path.cost[4] == pytest.approx(exact_cost(site, path.order[:5]), rel=1e-6)
    assert path.cost[-1] == pytest.approx(exact_cost(site, tuple(range(40))), rel=1e-6)
    singles = elimination(site, damping=0.0, share=1000)
    for gone in (3, 17, 39):
        assert singles.cost[gone - 1] == pytest.approx(exact_cost(site, singles.order[:gone]), rel=1e-5)


def test_greedy_is_close_to_the_best_set() -> None:
    site = problem(8, seed=3)
    path = elimination(site, damping=0.0)
    for gone in range(1, 8):
        best = min(exact_cost(site, chosen) for chosen in combinations(range(8), gone))
        assert best <= path.cost[gone - 1] * (1 + 1e-6)
        assert path.cost[gone - 1] <= 2 * best + 1e-9


def test_a_copy_of_another_input_goes_for_nothing() -> None:
    site = problem(6)
    mix = np.eye(6)
    mix[5] = mix[2]
    copied = Candidates(mix @ site.covariance @ mix.T, site.projection, site.metric, 6, 1.0)
    path = elimination(copied, damping=1e-9)
    assert path.order[0] in (2, 5)
    assert path.cost[0] < 1e-5 * path.cost[-1]


def test_costs_do_not_depend_on_the_order_of_the_units() -> None:
    site, order = problem(6, 2), np.array([3, 1, 5, 0, 4, 2])
    columns = (order[:, None] * 2 + np.arange(2)).ravel()
    moved = Candidates(site.covariance[np.ix_(columns, columns)], site.projection[:, columns], site.metric, 6, 1.0)
    one, two = elimination(site), elimination(moved)
    assert one.order == tuple(int(order[unit]) for unit in two.order)
    np.testing.assert_allclose(one.cost, two.cost)


def test_values_that_are_not_finite_are_refused() -> None:
    site = problem(4)
    site.metric[0, 0] = np.nan
    with pytest.raises(StatisticsError, match="not finite"):
        elimination(site)


def test_baselines() -> None:
    site = problem(5, 2)
    norms = np.square(site.projection).sum(0).reshape(5, 2).sum(1)
    path = by_magnitude(site)
    assert list(path.order) == list(np.argsort(norms))
    np.testing.assert_allclose(path.cost, np.cumsum(np.sort(norms)))
    orders = {at_random(site, np.random.default_rng(seed)).order for seed in range(20)}
    assert len(orders) > 10
    assert all(sorted(order) == list(range(5)) for order in orders)


def convex(rng: np.random.Generator, units: int, price: float, stops: tuple[int, ...] | None = None) -> Curve:
    return Curve(tuple(np.cumsum(np.sort(rng.random(units))) * price), price, stops or tuple(range(units + 1)))


def brute_force(curves: dict[str, Curve], excess: float) -> float:
    splits = product(*(curve.stops for curve in curves.values()))
    return min(
        sum(curve.at(gone) for curve, gone in zip(curves.values(), split, strict=True))
        for split in splits
        if sum(curve.price * gone for curve, gone in zip(curves.values(), split, strict=True)) >= excess - 1e-9
    )


def paid(curves: dict[str, Curve], gone: dict[str, int]) -> float:
    return sum(curve.at(gone[name]) for name, curve in curves.items())


@pytest.mark.parametrize("seed", range(6))
def test_allocation_is_optimal_on_convex_curves_of_one_price(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = {name: convex(rng, 6, 2.0) for name in "abc"}
    for excess in (0.0, 1.0, 7.5, 20.0, 36.0):
        gone = allocate(curves, excess)
        assert 2.0 * sum(gone.values()) >= excess
        assert paid(curves, gone) == pytest.approx(brute_force(curves, excess))


@pytest.mark.parametrize("seed", range(6))
def test_allocation_with_unequal_prices_misses_the_best_by_at_most_one_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = {"heads": convex(rng, 4, 7.0), "more heads": convex(rng, 4, 7.0), "ffn": convex(rng, 12, 1.0)}
    for excess in (3.0, 11.0, 30.0, 60.0):
        gone = allocate(curves, excess)
        assert sum(curve.price * gone[name] for name, curve in curves.items()) >= excess - 1e-9
        step = max(b - a for curve in curves.values() for a, b in zip((0.0, *curve.cost), curve.cost, strict=False))
        assert brute_force(curves, excess) <= paid(curves, gone) + 1e-9 <= brute_force(curves, excess) + step + 2e-9


def test_allocation_keeps_to_the_stops_and_gives_back_what_is_too_much() -> None:
    rng = np.random.default_rng(0)
    curves = {"a": convex(rng, 9, 1.0, (1, 5, 9)), "b": convex(rng, 4, 1.0)}
    assert allocate(curves, 0.0) == {"a": 1, "b": 0}
    for excess in range(14):
        gone = allocate(curves, excess)
        assert gone["a"] in (1, 5, 9)
        assert sum(gone.values()) >= excess
        # Nothing that went could stay.
        spare = sum(gone.values()) - excess
        assert not any(stop < gone[name] and gone[name] - stop <= spare for name, curve in curves.items() for stop in curve.stops)
    assert allocate(curves, 99.0) == {"a": 9, "b": 4}


@pytest.mark.parametrize("seed", range(4))
def test_even_allocation_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [
        {name: Curve(tuple(np.cumsum(rng.random(4))), 5.0, tuple(range(5))) for name in "ab"},
        {name: Curve(tuple(np.cumsum(rng.random(9))), 1.0, (0, 3, 6, 9)) for name in "cd"},
    ]
    for excess in (0.0, 4.0, 17.0, 42.0):
        gone = allocate_evenly(groups, excess)
        assert gone is not None
        assert gone["a"] == gone["b"]
        assert gone["c"] == gone["d"]
        options = [
            (sum(c.at(h) for c in groups[0].values()) + sum(c.at(f) for c in groups[1].values()), h, f)
            for h in range(4)
            for f in (0, 3, 6)
            if 10 * h + 2 * f >= excess
        ]
        assert min(options)[1:] == (gone["a"], gone["c"])
    # Three heads of four and six neurons of nine are all that may go.
    assert allocate_evenly(groups, 42.1) is None


def test_hull() -> None:
    assert hull([0, 1, 2, 3, 4], [0, 3, 4, 4.5, 9]) == [0, 3, 4]
    assert hull([0, 4, 5], [0, 1, 5]) == [0, 1, 2]
    assert hull([2], [1]) == [0]


@pytest.mark.parametrize("seed", range(10))
def test_what_the_last_unit_frees_is_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = {
        site: Curve(tuple(np.cumsum(np.sort(rng.random(4)))), float(rng.uniform(0.5, 2)), tuple(range(5)), float(rng.uniform(0, 6)))
        for site in range(3)
    }
    most = sum(curve.freed(4) for curve in curves.values())
    assert most == pytest.approx(sum(4 * curve.price + curve.last for curve in curves.values()))
    for share in (0.2, 0.5, 0.9):
        gone = allocate(curves, share * most)
        assert sum(curves[site].freed(units) for site, units in gone.items()) >= share * most * (1 - 1e-9)
        paid = sum(curves[site].at(units) for site, units in gone.items())
        best = min(
            sum(curves[site].at(units) for site, units in enumerate(choice))
            for choice in product(range(5), repeat=3)
            if sum(curves[site].freed(units) for site, units in enumerate(choice)) >= share * most * (1 - 1e-9)
        )
        # Optimal but for the last step.
        assert paid <= best + max(curve.cost[-1] for curve in curves.values())
