from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics

from prunekit.errors import StatisticsError
from prunekit.metrics import Metric
from prunekit.metrics.label_sets import LEAST, best_thresholds, judged_sets, probabilities
from prunekit.tasks import Task, TaskKind

SETS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(arrays(bool, (n, 4)), arrays(bool, (n, 4)), arrays(np.int64, n, elements=st.integers(0, 3)))
)


@settings(max_examples=30)
@given(SETS)
def test_f1_is_scikit_learns_on_rows_and_on_resamples(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    predicted, actual, times = rows
    for metric in (Metric.MICRO_F1, Metric.F1):
        found = judged_sets(metric, predicted, actual)
        for weights in (np.ones(len(actual)), times.astype(np.float64)):
            again = np.repeat(np.arange(len(actual)), weights.astype(int))
            ours, theirs = predicted[again], actual[again]
            # scikit-learn counts labels that are nowhere as 0.
            there = np.flatnonzero(ours.any(axis=0) | theirs.any(axis=0))
            each = [metrics.f1_score(theirs[:, at], ours[:, at], zero_division=0) for at in there]
            if metric is Metric.MICRO_F1:
                each = [metrics.f1_score(theirs.ravel(), ours.ravel(), zero_division=0)] if len(there) else []
            expected = np.mean(each) if each else 0.0
            assert found.score(weights) == pytest.approx(expected)


@settings(max_examples=60)
@given(arrays(np.float64, (40, 3), elements=st.integers(-4, 4).map(float)), arrays(bool, (40, 3)))
def test_no_cut_is_better_than_the_one_chosen(scores: np.ndarray, labels: np.ndarray) -> None:
    found = best_thresholds(scores, labels)
    cuts = np.arange(-4.5, 5)
    own = labels.sum(axis=0) >= LEAST
    for at in np.flatnonzero(own):
        best = max(metrics.f1_score(labels[:, at], scores[:, at] > cut, zero_division=0) for cut in cuts)
        assert metrics.f1_score(labels[:, at], scores[:, at] > found[at], zero_division=0) == pytest.approx(best)
    shared = found[~own]
    assert len(set(shared)) <= 1
    if len(shared) and labels.any():
        micro = [metrics.f1_score(labels.ravel(), scores.ravel() > cut, zero_division=0) for cut in (*cuts, shared[0])]
        assert micro[-1] == pytest.approx(max(micro))


def test_without_any_label_the_threshold_is_a_half() -> None:
    assert np.array_equal(probabilities(best_thresholds(np.ones((3, 2)), np.zeros((3, 2), dtype=bool))), [0.5, 0.5])


def test_a_thousand_labels_take_memory_by_rows_times_labels_alone() -> None:
    import tracemalloc

    generator = np.random.default_rng(0)
    labels = generator.random((400, 1000)) < 0.01
    scores = generator.normal(size=labels.shape) + 3 * labels
    task = Task(TaskKind.LABELS, Metric.F1, tuple(map(str, range(1000))))
    tracemalloc.start()
    told = task.tuned(scores, labels)
    assert task.score(told, labels) > 0.3
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 8 * labels.size / 2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(StatisticsError, match="one shape"):
        judged_sets(Metric.F1, np.zeros((2, 3), dtype=bool), np.zeros((2, 2), dtype=bool))
    with pytest.raises(StatisticsError, match="at least one row"):
        judged_sets(Metric.F1, np.zeros((0, 3), dtype=bool), np.zeros((0, 3), dtype=bool))
    task = Task(TaskKind.LABELS, Metric.F1, ("a", "b"))
    with pytest.raises(StatisticsError, match=r"labels \(n, 2\)"):
        task.score(np.zeros((3, 2)), np.zeros(3, dtype=np.int64))
