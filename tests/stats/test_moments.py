from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.errors import StatisticsError
from prunekit.stats.moments import Moments, MomentsAccumulator, one_hot


def close(a: Moments, b: Moments, tolerance: float = 1e-10) -> None:
    """Means relative to their own size, co-moments relative to the standard deviations of their two columns."""
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=tolerance, atol=tolerance * np.sqrt(b.variance).max())
    scale = np.sqrt(b.comoment.diagonal())
    assert (np.abs(a.comoment - b.comoment) <= tolerance * np.outer(scale, scale)).all()


def rows(n: int, width: int, *, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(n, width)) @ generator.normal(size=(width, width)) + offset).astype(np.float32)


def accumulated(matrix: np.ndarray, size: int) -> Moments:
    accumulator = MomentsAccumulator(matrix.shape[1])
    for start in range(0, len(matrix), size):
        accumulator.update(matrix[start : start + size])
    return accumulator.finish()


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_are_those_of_numpy(offset: float) -> None:
    x = rows(700, 13, offset=offset)
    found = Moments.of(x)
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(axis=0), rtol=1e-13)
    expected = np.cov(x.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-10, atol=1e-11 * expected.max())
    assert (found.comoment == found.comoment.T).all()


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("size", [1, 7, 64, 5000])
def test_chunking_does_not_matter(size: int, offset: float) -> None:
    x = rows(5000, 9, offset=offset)
    close(accumulated(x, size), Moments.of(x))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_merging_parts_gives_the_whole(size: int) -> None:
    x = rows(500, 9, offset=50.0)
    parts = [Moments.of(x[start : start + size]) for start in range(0, len(x), size)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    close(merged, Moments.of(x))


@settings(max_examples=25)
@given(cuts=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 1000))
def test_merge_is_associative_and_commutative(cuts: tuple[int, int, int], seed: int) -> None:
    a, b, c = (Moments.of(rows(n, 4, offset=float(i), seed=seed + i)) for i, n in enumerate(cuts))
    close(a.merge(b).merge(c), a.merge(b.merge(c)), 1e-9)
    close(a.merge(b), b.merge(a), 1e-9)


def test_blocks_that_are_mirrored_in_several_pieces() -> None:
    x = rows(20, 1100)
    found = Moments.of(x)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found.comoment, centred.T @ centred, rtol=1e-8, atol=1e-8)


def test_correlation_is_that_of_numpy_but_defined_for_constants() -> None:
    x = rows(300, 6, offset=5.0)
    x[:, 2] = 0.1
    found = Moments.of(x).correlation()
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(found[np.ix_(others, others)], np.corrcoef(x[:, others].T.astype(np.float64)), atol=1e-12)
    assert found[2, 2] == 1.0
    assert (found[2, others] == 0.0).all()
    assert Moments.of(x).varies.tolist() == [True, True, False, True, True, True]


def test_a_constant_stays_constant_when_parts_are_merged() -> None:
    x = rows(100, 3)
    x[:, 1] = 0.1
    merged = Moments.of(x[:33]).merge(Moments.of(x[33:]))
    assert not merged.varies[1]
    assert (merged.correlation()[1] == [0.0, 1.0, 0.0]).all()


def test_take_and_block() -> None:
    x = rows(50, 8)
    whole = Moments.of(x)
    close(whole.take([5, 1, 2]), Moments.of(x[:, [5, 1, 2]]))
    np.testing.assert_allclose(whole.block([5, 1], slice(2, 4)), whole.comoment[[5, 1]][:, [2, 3]])
    np.testing.assert_allclose(whole.block(slice(0, 2), slice(2, 4)), whole.comoment[:2, 2:4])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 99])
def test_broken_activations_stop(bad: float, row: int) -> None:
    x = rows(100, 3)
    x[row, 1] = bad
    with pytest.raises(StatisticsError, match="Column 1 holds NaN or infinity"):
        Moments.of(x)


def test_what_is_no_matrix_of_rows() -> None:
    with pytest.raises(StatisticsError, match="at least one row"):
        Moments.of(np.empty((0, 3)))
    with pytest.raises(StatisticsError, match="no rows"):
        MomentsAccumulator(3).finish()
    with pytest.raises(StatisticsError, match="3 columns"):
        MomentsAccumulator(3).update(np.ones((2, 4)))
    with pytest.raises(StatisticsError, match="different sources"):
        Moments.of(rows(5, 3)).merge(Moments.of(rows(5, 4)))


def test_targets() -> None:
    assert one_hot(np.array([1, 0, 2]), 3).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert one_hot(np.array([0.5, 2.0]), 1).tolist() == [[0.5], [2.0]]


def test_neurons_too_small_to_read_are_dead() -> None:
    x = rows(200, 8).astype(np.float64)
    x[:, 2] *= 1e-32
    x[:, 3] = 4.0
    x[:, 5] *= 1e-4
    labels = np.full((200, 1), 1e6)
    assert Moments.of(np.hstack([x, labels])).non_constant(8).tolist() == [True, True, False, False, True, True, True, True]
    assert not Moments.of(np.ones((5, 3))).non_constant(3).any()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_neurons_that_hardly_move_about_their_mean_are_dead_on_either_side_of_zero(sign: float) -> None:
    x = np.random.default_rng(0).normal(size=(200, 4)) + sign * np.array([0.0, 500.0, 2000.0, 1e6])
    assert Moments.of(x).non_constant(4).tolist() == [True, True, False, False]


def test_most_neurons_may_be_dead_without_reviving_one_that_hardly_moves() -> None:
    """The deviation that is usual is that of the columns that vary."""
    x = np.zeros((200, 5))
    x[:, :2] = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 1e-9]
    assert Moments.of(x).non_constant(5).tolist() == [True, False, False, False, False]
