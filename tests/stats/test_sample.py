from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.errors import ParameterError, StatisticsError
from prunekit.stats.sample import Sample


def drawn(n: int, size: int, seed: int, chunk: int) -> Sample:
    sample = Sample.empty(size, 2, seed=seed)
    for start in range(0, n, chunk):
        ids = np.arange(start, min(start + chunk, n))
        sample = sample.add(ids, np.stack([ids, -ids], axis=1))
    return sample


@settings(max_examples=30)
@given(n=st.integers(1, 200), size=st.integers(1, 50), chunk=st.integers(1, 64), cut=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_sample_depends_on_the_rows_alone(n: int, size: int, chunk: int, cut: float, seed: int) -> None:
    whole = drawn(n, size, seed, n)
    assert len(whole.ids) == min(n, size)
    assert (whole.rows[:, 0] == whole.ids).all()
    assert (np.diff(whole.ids) > 0).all()
    assert (drawn(n, size, seed, chunk).ids == whole.ids).all()
    at = int(cut * n)
    order = np.random.default_rng(seed).permutation(n)
    a, b = (Sample.empty(size, 2, seed=seed).add(part, np.stack([part, -part], axis=1)) for part in (order[:at], order[at:]))
    assert (b.merge(a).ids == whole.ids).all()
    assert (a.merge(b).rows == whole.rows).all()


def test_every_row_is_equally_likely() -> None:
    hits = np.zeros(40)
    for seed in range(1000):
        hits[drawn(40, 10, seed, 40).ids] += 1
    # Binomial(1000, 1/4) has a standard deviation of 13.7.
    assert np.abs(hits - 250).max() < 5 * 13.7
    together = sum(bool({0, 1} <= set(drawn(40, 10, seed, 40).ids.tolist())) for seed in range(1000))
    assert abs(together - 1000 * 10 * 9 / (40 * 39)) < 5 * 7.4


def test_what_cannot_be_merged() -> None:
    with pytest.raises(StatisticsError, match="cannot be merged"):
        Sample.empty(3, 2, seed=0).merge(Sample.empty(3, 2, seed=1))
    with pytest.raises(StatisticsError, match="overlap"):
        drawn(5, 9, 0, 5).merge(drawn(5, 9, 0, 5))
    with pytest.raises(StatisticsError, match="2 columns"):
        Sample.empty(3, 2).add([1], np.ones((1, 3)))
    with pytest.raises(ParameterError):
        Sample.empty(0, 2)
