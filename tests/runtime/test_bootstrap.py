from __future__ import annotations

import numpy as np
import pytest

from prunekit.errors import StatisticsError
from prunekit.runtime.bootstrap import block_length, bootstrap_invocations, resampled_medians


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def test_independent_rounds_give_the_interval_of_scipy(rng: np.random.Generator) -> None:
    from scipy.stats import bootstrap

    values = rng.lognormal(size=200)
    ours = np.quantile(resampled_medians(values, np.random.default_rng(1), resamples=4000), [0.025, 0.975])
    theirs = bootstrap((values,), np.median, method="percentile", n_resamples=4000, rng=2).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_it_does_not_depend_on_how_much_it_holds_at_once(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    values = rng.normal(size=50)
    before = bootstrap_invocations([values], seed=3)
    monkeypatch.setattr("prunekit.runtime.bootstrap._CELLS", 1000)
    assert bootstrap_invocations([values], seed=3) == before


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_values_must_be_finite(values: list[float]) -> None:
    with pytest.raises(StatisticsError, match="finite"):
        bootstrap_invocations([np.array(values)], seed=0)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (8, 2), (9, 3), (27, 3), (1000, 10), (1001, 11)])
def test_blocks_grow_with_the_cube_root(count: int, length: int) -> None:
    assert block_length(count) == length


def covered(draw: object, invocations: int, rounds: int, seed: int) -> float:
    """How often, of 200 benchmarks of a true value 0, the interval holds it."""
    generator = np.random.default_rng(seed)
    inside = 0
    for each in range(200):
        _, low, high = bootstrap_invocations([draw(generator, rounds) for _ in range(invocations)], seed=each, resamples=400)  # type: ignore[operator]
        inside += low <= 0 <= high
    return inside / 200


def independent(generator: np.random.Generator, rounds: int) -> np.ndarray:
    return generator.normal(0, 0.15, size=rounds)


def bursts(generator: np.random.Generator, rounds: int) -> np.ndarray:
    """Each disturbance lasts for some rounds: first-order autoregression of 0.6."""
    noise = generator.normal(0, 0.15, size=rounds + 50)
    for at in range(1, len(noise)):
        noise[at] += 0.6 * noise[at - 1]
    return noise[50:]


def lucky(generator: np.random.Generator, rounds: int) -> np.ndarray:
    """Each invocation is a little faster or slower as a whole."""
    return generator.normal(0, 0.05) + generator.normal(0, 0.15, size=rounds)


def test_the_interval_covers_the_truth() -> None:
    # 95% is asked; a share of 200 is off by 3 points where nothing is wrong.
    assert 0.89 <= covered(independent, invocations=1, rounds=60, seed=1) < 1


def test_rounds_that_disturb_one_another_do_not_make_it_too_sure() -> None:
    def shuffled(generator: np.random.Generator, rounds: int) -> np.ndarray:
        return generator.permutation(bursts(generator, rounds))

    in_order = covered(bursts, invocations=1, rounds=200, seed=2)
    assert in_order >= 0.85
    assert in_order > covered(shuffled, invocations=1, rounds=200, seed=2) + 0.05


def test_the_luck_of_an_invocation_does_not_make_it_too_sure() -> None:
    def at_once(generator: np.random.Generator, rounds: int) -> np.ndarray:
        return np.concatenate([lucky(generator, rounds) for _ in range(8)])

    assert covered(lucky, invocations=8, rounds=60, seed=3) >= 0.87
    assert covered(at_once, invocations=1, rounds=60, seed=3) < 0.85


def test_the_value_is_the_median_of_the_invocations_medians_and_lies_within(rng: np.random.Generator) -> None:
    invocations = [rng.normal(at, 0.1, size=size) for at, size in enumerate((5, 40, 12))]
    value, low, high = bootstrap_invocations(invocations, seed=1)
    assert value == np.median([np.median(each) for each in invocations])
    assert low <= value <= high
    assert bootstrap_invocations(invocations, seed=1) == (value, low, high)
    assert bootstrap_invocations([np.array([1.0])], seed=0) == (1.0, 1.0, 1.0)


def test_one_invocation_that_was_disturbed_moves_the_value_little(rng: np.random.Generator) -> None:
    calm = [rng.normal(0, 0.02, size=40) for _ in range(5)]
    before, _, _ = bootstrap_invocations(calm, seed=1)
    after, low, _ = bootstrap_invocations([*calm[:4], calm[4] + 0.6], seed=1)
    assert abs(after - before) < 0.02
    assert low < 0.02
