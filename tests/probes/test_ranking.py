from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.errors import ParameterError
from prunekit.probes.rankings import ranking
from prunekit.readout.baselines import magnitude_neurons, random_neurons


def brute_force(weights: list[list[int]], steps: int) -> list[set[int]]:
    """The definition, in exact arithmetic: which neurons are new at each p."""
    seen: set[int] = set()
    found = []
    for step in range(steps + 1):
        union: set[int] = set()
        for row in weights:
            order = sorted(range(len(row)), key=lambda n: (-abs(row[n]), n))
            need = Fraction(step, steps) * sum(abs(w) for w in row)
            held, prefix = 0, []
            for n in order:
                prefix.append(n)
                held += abs(row[n])
                if held >= need:
                    break
            union |= set(prefix)
        found.append(union - seen)
        seen |= union
    return found


# Powers of two as steps keep every share and product exact in floating point, so that only the definition is compared.
matrices = st.integers(1, 8).flatmap(lambda d: st.lists(st.lists(st.integers(-9, 9), min_size=d, max_size=d), min_size=1, max_size=4))


@settings(max_examples=200)
@given(weights=matrices, steps=st.sampled_from([1, 2, 8, 64, 1024]))
def test_ranking_is_its_definition(weights: list[list[int]], steps: int) -> None:
    found = ranking(weights, steps=steps).tolist()
    top = np.abs(np.array(weights)).max(axis=0)
    at = 0
    for new in brute_force(weights, steps):
        part = found[at : at + len(new)]
        assert set(part) == new
        assert part == sorted(part, key=lambda n: (-top[n], n))
        at += len(new)
    assert at == len(found)


def test_a_case_by_hand() -> None:
    # p = 0 takes the best of each class, p = 1/2 what holds half: class 0 needs 0 alone, class 1 needs 2 and 1.
    assert ranking([[10.0, 2.0, 1.0, 0.0], [0.0, 3.0, 4.0, 2.0]], steps=2).tolist() == [0, 2, 1, 3]
    assert ranking([5.0, -6.0, 0.0]).tolist() == [1, 0]


def test_real_weights_with_a_thousand_steps() -> None:
    weights = np.random.default_rng(0).normal(size=(5, 300))
    found = ranking(weights)
    assert sorted(found.tolist()) == list(range(300))
    assert set(np.abs(weights).argmax(axis=1)) <= set(found[:5].tolist())
    order = np.random.default_rng(1).permutation(300)
    assert (order[ranking(weights[:, order])] == found).all()
    with pytest.raises(ParameterError):
        ranking(weights, steps=0)


def by_the_library(weights: np.ndarray, steps: int) -> list[set[int]]:
    """`get_neuron_ordering` of NeuroX, written anew: what is new at each step."""
    seen: set[int] = set()
    found = []
    for step in range(steps + 1):
        union: set[int] = set()
        for row in np.abs(weights):
            order = np.argsort(row)[::-1]
            enough = np.flatnonzero(np.cumsum(row[order]) >= row.sum() * (step / steps))
            union |= set(order[: enough[0] + 1 if len(enough) else len(row)].tolist())
        found.append(union - seen)
        seen |= union
    return found


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("seed", range(2))
def test_float32_weights_are_ordered_as_by_the_library(classes: int, seed: int) -> None:
    weights = np.random.default_rng(seed).laplace(size=(classes, 3000)).astype(np.float32)
    found, at = ranking(weights), 0
    for new in by_the_library(weights, 1000):
        assert set(found[at : at + len(new)].tolist()) == new
        at += len(new)
    # The library drops neurons that rounding leaves over; here they come last.
    assert at >= 2900
    assert sorted(found.tolist()) == list(range(3000))


def test_random_baseline() -> None:
    available = np.array([3, 5, 9, 11, 20])
    found = random_neurons(available, 3, seed=1)
    assert set(found.tolist()) <= set(available.tolist())
    assert len(set(found.tolist())) == 3
    assert (found == random_neurons(available, 3, seed=1)).all()
    assert len({tuple(random_neurons(available, 3, seed=seed)) for seed in range(30)}) > 5
    assert random_neurons(available, 5).tolist() == available.tolist()
    with pytest.raises(ParameterError, match=r"1\.\.5"):
        random_neurons(available, 6)


def test_magnitude_baseline() -> None:
    weights = np.array([[3.0, 0.0, 1.0, 9.0], [4.0, 4.9, 1.0, 9.0]])
    assert magnitude_neurons(weights, [0, 1, 2], 2).tolist() == [0, 1]
    assert magnitude_neurons(weights, [0, 1, 2, 3], 1).tolist() == [3]
    assert magnitude_neurons([1.0, -1.0, 1.0], [0, 1, 2], 2).tolist() == [0, 1]
    with pytest.raises(ParameterError):
        magnitude_neurons(weights, [0], 0)
