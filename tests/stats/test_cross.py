from __future__ import annotations

import numpy as np

from prunekit.stats.cross import column_mean, comoment_parts
from prunekit.stats.moments import Moments
from prunekit.stats.rows import RowStore


def test_parts_are_those_of_the_moments_however_far_the_mean_is_from_zero() -> None:
    """Of 50,000 numbers about 1,000 a sum in single precision is off by a hundredth of their deviation."""
    rows = (np.random.default_rng(0).normal(size=(50_000, 3)) + 1000.0).astype(np.float32)
    store, whole = RowStore.of(rows), Moments.of(rows)
    np.testing.assert_allclose(column_mean(store), whole.mean, rtol=1e-12)
    parts = list(comoment_parts(store, store, limit=2 * 3 * 8))
    assert [first for first, _ in parts] == [0, 2]
    np.testing.assert_allclose(np.concatenate([part for _, part in parts]), whole.comoment, rtol=1e-9, atol=1e-6)
