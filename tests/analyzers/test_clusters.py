from __future__ import annotations

import numpy as np
import pytest

from prunekit.analyzers.base import Observations, Subject
from prunekit.analyzers.clusters import THRESHOLDS, run
from prunekit.analyzers.correlation import CorrelationClusters, distances, distances_of_rows
from prunekit.errors import StatisticsError
from prunekit.stats.moments import Moments
from tests.analyzers.subjects import inputs_of, rows_of, store


def test_counts_are_those_of_the_estimator_at_each_threshold() -> None:
    rows = rows_of(200, layers=3, hidden=8)
    found = run(inputs_of(rows, hidden=8))
    for at, threshold in enumerate(THRESHOLDS):
        alone = CorrelationClusters(threshold).fit(rows)
        assert found.counts[at] == len(alone.representatives_)
        assert found.redundant[at] == pytest.approx(1 - found.counts[at] / 24)


def test_the_blocked_path_gives_the_distances_of_the_moments() -> None:
    rows = rows_of(300, layers=2, hidden=7)
    whole = distances(Moments.of(rows))
    parts = distances_of_rows(store(rows), np.arange(14), limit=8 * 14 * 3)
    np.testing.assert_allclose(parts, whole, atol=1e-12)


def test_a_constant_neuron_is_counted_apart_and_two_equal_ones_are_a_cluster() -> None:
    rows = rows_of(100, layers=2, hidden=5)
    rows[:, 3] = 2.0
    rows[:, 9] = rows[:, 5]
    found = run(inputs_of(rows, hidden=5))
    assert found.constant == (1, 0)
    assert found.neurons == 9
    assert found.counts[0] == 8
    assert found.one_layer[0] == 1.0
    assert found.within[0, 1] == pytest.approx(1 / 5)


def test_a_copied_layer_is_said_below_already() -> None:
    rows = rows_of(400, layers=1, hidden=6)
    found = run(inputs_of(np.hstack([rows, -rows]), hidden=6))
    np.testing.assert_allclose(found.from_below[0], [0.0, 1.0])
    assert found.adjacent[0] == 1.0
    assert found.redundant[0] == pytest.approx(0.5)


def test_the_order_of_neurons_in_a_layer_does_not_matter() -> None:
    rows = rows_of(150, layers=2, hidden=10)
    order = np.concatenate([np.random.default_rng(1).permutation(10), 10 + np.random.default_rng(2).permutation(10)])
    one, other = run(inputs_of(rows, hidden=10)), run(inputs_of(rows[:, order], hidden=10))
    assert one.counts == other.counts
    np.testing.assert_allclose(one.within, other.within)


def test_one_row_is_an_error_of_one_line() -> None:
    with pytest.raises(StatisticsError, match="No neuron varies"):
        run(inputs_of(rows_of(1, layers=2, hidden=4), hidden=4))


def test_figures_and_json_of_a_single_neuron() -> None:
    found = run(inputs_of(rows_of(50, layers=1, hidden=1), hidden=1))
    assert found.top is None
    assert found.to_json()["counts"] == [1] * 9
    assert found.summary()


def test_a_model_over_the_limit_is_clustered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(100, layers=2, hidden=6)
    whole = run(inputs_of(rows, hidden=6))
    monkeypatch.setattr("prunekit.analyzers.base.LARGEST_COMOMENT", 10)
    inputs = inputs_of(rows, hidden=6)
    assert isinstance(inputs, Observations)
    assert isinstance(inputs.model, Subject)
    parts = run(inputs)
    assert "moments" not in vars(inputs.model.train)
    assert parts.counts == whole.counts
