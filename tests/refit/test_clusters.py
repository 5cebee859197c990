"""Members of a cluster expressed by its representative."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.errors import StatisticsError
from prunekit.refit.clusters import express_members, fold_members
from prunekit.stats.moments import Moments


def drawn(noise: float, seed: int = 0) -> np.ndarray:
    """Twelve neurons in four groups, some of them turned round, and one that never varies."""
    generator = np.random.default_rng(seed)
    causes = generator.normal(size=(400, 4))
    rows = np.repeat(causes, 3, axis=1) * generator.uniform(0.5, 3, 12) * generator.choice([-1, 1], 12) + generator.normal(size=12)
    return np.column_stack([rows + noise * generator.normal(size=rows.shape), np.full(400, 2.5)])


def test_each_member_is_its_regression_on_the_representative() -> None:
    rows = drawn(0.3)
    found = CorrelationClusters(0.3).fit(rows)
    slope, intercept = express_members(Moments.of(rows), found.labels_, found.representatives_)
    leader = {int(found.labels_[at]): int(at) for at in found.representatives_}
    for neuron in range(rows.shape[1] - 1):
        chosen = leader[int(found.labels_[neuron])]
        fit = LinearRegression().fit(rows[:, [chosen]], rows[:, neuron])
        np.testing.assert_allclose((slope[neuron], intercept[neuron]), (fit.coef_[0], fit.intercept_), atol=1e-10)
    assert len(leader) == 5


def test_folding_is_exact_and_duplicates_cost_nothing() -> None:
    rows, generator = drawn(0.0), np.random.default_rng(1)
    weight, bias = generator.normal(size=(3, 13)), generator.normal(size=3)
    found, moments = CorrelationClusters(0.1).fit(rows), Moments.of(rows)
    kept = found.representatives_
    assert len(kept) == 5
    small, shift = fold_members(weight, bias, moments, found.labels_, kept)
    np.testing.assert_allclose(rows[:, kept] @ small.T + shift, rows @ weight.T + bias, atol=1e-10)
    # Thrown away, they would be missed.
    assert np.abs(rows[:, kept] @ weight[:, kept].T + bias - rows @ weight.T - bias).max() > 1


def test_folding_is_reading_the_members_as_they_are_expressed() -> None:
    rows, generator = drawn(0.5), np.random.default_rng(2)
    weight, bias = generator.normal(size=(2, 13)), generator.normal(size=2)
    found, moments = CorrelationClusters(0.4).fit(rows), Moments.of(rows)
    kept = found.representatives_
    slope, intercept = express_members(moments, found.labels_, kept)
    leader = kept[np.argsort(found.labels_[kept])][found.labels_]
    small, shift = fold_members(weight, bias, moments, found.labels_, kept)
    np.testing.assert_allclose(rows[:, kept] @ small.T + shift, (rows[:, leader] * slope + intercept) @ weight.T + bias, atol=1e-10)
    truth = rows @ weight.T + bias
    dropped = rows[:, kept] @ weight[:, kept].T + truth.mean(0) - (rows[:, kept] @ weight[:, kept].T).mean(0)
    assert np.square(rows[:, kept] @ small.T + shift - truth).sum() < 0.5 * np.square(dropped - truth).sum()


@pytest.mark.parametrize("representatives", [[0], [0, 1], [0, 2, 3]])
def test_one_representative_a_cluster(representatives: list[int]) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(StatisticsError, match="one representative of each cluster"):
        express_members(Moments.of(rows), [0, 0, 1, 1], representatives)
