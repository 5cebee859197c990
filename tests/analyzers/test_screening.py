from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.analyzers.screening import clusters_of_rows
from prunekit.errors import ParameterError, StatisticsError
from prunekit.probes.objective import ArrayRows
from prunekit.stats.rows import RowStore


def stream(n: int, layers: int, hidden: int, seed: int, keep: float = 0.93) -> np.ndarray:
    """Neurons as a residual stream has them: each layer is the one below, and something new."""
    generator = np.random.default_rng(seed)
    found = [generator.normal(size=(n, hidden))]
    for _ in range(layers - 1):
        found.append(keep * found[-1] + np.sqrt(1 - keep**2) * generator.normal(size=(n, hidden)))
    scale, offset = generator.exponential(size=layers * hidden) + 0.1, 5 * generator.normal(size=layers * hidden)
    return np.hstack(found) * scale + offset


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.7, 0.9]), keep=st.sampled_from([0.5, 0.8, 0.95]))
def test_clusters_need_no_correlation_between_components(seed: int, threshold: float, keep: float) -> None:
    x = stream(60, 4, 7, seed, keep)
    expected = CorrelationClusters(threshold).fit(x).labels_
    assert clusters_of_rows(ArrayRows(x), threshold).tolist() == expected.tolist()


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_a_sample_finds_what_all_rows_find(threshold: float) -> None:
    x = stream(5000, 6, 40, 1, 0.8)
    expected = CorrelationClusters(threshold).fit(x).labels_
    with RowStore.of(x, limit=0) as rows:
        found = clusters_of_rows(rows, threshold, sample=1000)
    assert found.tolist() == expected.tolist()
    assert 40 <= found.max() + 1 <= 240


def test_constant_and_equal_neurons() -> None:
    x = np.random.default_rng(0).normal(size=(50, 5))
    x[:, 1] = 7.0
    x[:, 3] = -2.0 * x[:, 0] + 100.0
    x[:, 4] = 0.0
    assert clusters_of_rows(ArrayRows(x)).tolist() == [0, 1, 2, 0, 3]
    assert clusters_of_rows(ArrayRows(x[:, :1])).tolist() == [0]


def test_what_cannot_be_clustered() -> None:
    x = np.random.default_rng(0).normal(size=(50, 5))
    with pytest.raises(ParameterError):
        clusters_of_rows(ArrayRows(x), 1.0)
    with pytest.raises(ParameterError):
        clusters_of_rows(ArrayRows(x), sample=3)
    with pytest.raises(StatisticsError, match="two rows"):
        clusters_of_rows(ArrayRows(x[:1]))
    x[3, 2] = np.nan
    with pytest.raises(StatisticsError, match="Column 2"):
        clusters_of_rows(ArrayRows(x))
