from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.utils.estimator_checks import check_estimator

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.errors import ParameterError
from prunekit.stats.moments import Moments


def groups(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


def correlated(n: int = 200, width: int = 40, seed: int = 0) -> np.ndarray:
    """Columns that follow a few hidden factors with either sign."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(8, width)) * (generator.uniform(size=(8, width)) < 0.25)
    return generator.normal(size=(n, 8)) @ mixing + 0.3 * generator.normal(size=(n, width)) + 10.0


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_clusters_are_those_of_scipy(threshold: float) -> None:
    x = correlated()
    distance = 1.0 - np.abs(np.corrcoef(x.T))
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average")
    expected = groups(fcluster(tree, t=threshold, criterion="distance"))
    found = CorrelationClusters(threshold).fit(x)
    assert groups(found.labels_) == expected
    assert 1 < len(expected) < 40
    assert len(found.representatives_) == len(expected) == found.get_support().sum()


def test_order_of_the_neurons_does_not_matter() -> None:
    x = correlated()
    order = np.random.default_rng(1).permutation(x.shape[1])
    a, b = CorrelationClusters(0.3).fit(x), CorrelationClusters(0.3).fit(x[:, order])
    assert {frozenset(order[list(group)].tolist()) for group in groups(b.labels_)} == groups(a.labels_)
    big = {frozenset(group) for group in groups(a.labels_) if len(group) > 2}  # two members are equally central
    central = [{i for i in a.representatives_ if i in group} for group in big]
    assert central
    assert central == [{int(order[i]) for i in b.representatives_ if order[i] in group} for group in big]


def test_the_medoid_is_the_most_correlated_member() -> None:
    x = correlated()
    found = CorrelationClusters(0.5).fit(x)
    similarity = np.abs(np.corrcoef(x.T))
    for group in groups(found.labels_):
        members = sorted(group)
        mean = similarity[np.ix_(members, members)].mean(axis=0)
        chosen = [i for i in found.representatives_ if i in group]
        assert len(chosen) == 1
        assert mean[members.index(chosen[0])] == pytest.approx(mean.max(), abs=1e-9)


def test_random_representatives_are_seeded_members() -> None:
    x = correlated()
    draws = [CorrelationClusters(0.5, "random", seed).fit(x) for seed in (1, 1, 2)]
    assert (draws[0].representatives_ == draws[1].representatives_).all()
    assert (draws[0].representatives_ != draws[2].representatives_).any()
    assert sorted(draws[0].labels_[draws[0].representatives_]) == list(range(draws[0].labels_.max() + 1))


def test_signs_and_scales_do_not_matter_and_copies_join() -> None:
    x = correlated(width=6, seed=3)
    doubled = np.hstack([x, -3.0 * x + 5.0])
    found = CorrelationClusters(1e-6).fit(doubled)
    assert groups(found.labels_) == {frozenset({i, i + 6}) for i in range(6)}


def test_constants_stand_alone() -> None:
    x = correlated(width=5, seed=4)
    x[:, [1, 3]] = 7.0
    found = CorrelationClusters(0.9).fit(x)
    assert frozenset({1}) in groups(found.labels_)
    assert frozenset({3}) in groups(found.labels_)


def test_from_moments_is_fit() -> None:
    x = correlated()
    a, b = CorrelationClusters(0.3).fit(x), CorrelationClusters.from_moments(Moments.of(x), 0.3)
    assert (a.labels_ == b.labels_).all()
    assert (a.representatives_ == b.representatives_).all()
    assert (b.transform(x) == x[:, b.representatives_]).all()


def test_one_neuron() -> None:
    assert CorrelationClusters().fit(np.arange(5.0)[:, None]).representatives_.tolist() == [0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "value"), [("threshold", 1.5), ("threshold", -0.1), ("representative", "best")])
def test_parameters(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=name):
        CorrelationClusters(**{name: value}).fit(correlated())


@pytest.mark.usefixtures("unchecked")
def test_it_is_a_scikit_learn_estimator() -> None:
    check_estimator(CorrelationClusters(), on_skip=None)
