from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from prunekit.errors import StatisticsError
from prunekit.metrics import Metric
from prunekit.metrics.ranked import by_query, judged_lists

LISTS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=2, max_size=15), min_size=1, max_size=5)


def flat(lists: list[list[tuple[int, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [row for each in lists for row in each]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in lists])])
    # Distinct scores: scikit-learn breaks ties otherwise.
    scores = np.array([score for _, score in rows], dtype=np.float64) + np.random.default_rng(0).permutation(len(rows)) * 1e-3
    return scores, np.array([grade for grade, _ in rows], dtype=np.float64), starts


@settings(max_examples=80)
@given(LISTS)
def test_ndcg_and_average_precision_are_scikit_learns(lists: list[list[tuple[int, int]]]) -> None:
    scores, grades, starts = flat(lists)
    for metric in (Metric.NDCG, Metric.MAP, Metric.MRR):
        found = by_query(metric, scores, grades, starts)
        for at, (start, stop) in enumerate(pairwise(starts)):
            score, grade = scores[start:stop], grades[start:stop]
            if not grade.any():
                assert np.isnan(found[at])
                continue
            ranks = 1 + np.argsort(np.argsort(-score))
            expected = {
                Metric.NDCG: lambda g=grade, s=score: metrics.ndcg_score([2**g - 1], [s], k=10),
                Metric.MAP: lambda g=grade, s=score: metrics.average_precision_score(g > 0, s),
                Metric.MRR: lambda g=grade, r=ranks: 1 / r[g > 0].min(),
            }[metric]()
            assert found[at] == pytest.approx(expected)


def test_a_model_that_says_nothing_gains_nothing() -> None:
    grades, starts = np.array([1.0, 0, 0, 0, 1.0]), np.array([0, 4, 5])
    assert by_query(Metric.MRR, np.zeros(5), grades, starts).tolist() == [0.25, 1.0]


def test_queries_are_what_is_drawn_and_those_without_a_relevant_row_say_nothing() -> None:
    scores, grades, starts = np.array([2.0, 1, 2, 1, 3]), np.array([1.0, 0, 0, 1, 0]), np.array([0, 2, 4, 5])
    found = judged_lists(Metric.MRR, scores, grades, starts)
    assert found.rows == 2
    assert found.value == pytest.approx(0.75)
    assert found.score(np.array([0.0, 2.0])) == pytest.approx(0.5)
    with pytest.raises(StatisticsError, match="No query has a relevant row"):
        judged_lists(Metric.MAP, scores, np.zeros(5), starts)
