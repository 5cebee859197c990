from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from benchmarks.coverage import exact_accuracy
from prunekit.errors import ParameterError, StatisticsError
from prunekit.metrics import Judged, Metric, compare, draws, interval, judged, judged_spans

CLASS_METRICS = [metric for metric in Metric if not metric.of_values]
VALUE_METRICS = [metric for metric in Metric if metric.of_values]


def answers(rows: int, classes: int = 3, right: float = 0.7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    actual = generator.integers(classes, size=rows)
    return np.where(generator.random(rows) < right, actual, generator.integers(classes, size=rows)), actual


def values(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    actual = generator.normal(size=rows).round(1)  # with ties
    return (actual + generator.normal(size=rows)).round(1), actual


def made(metric: Metric, rows: int, **named: object) -> tuple[np.ndarray, np.ndarray]:
    return values(rows) if metric.of_values else answers(rows)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(Metric)), st.lists(st.integers(0, 3), min_size=25, max_size=25).filter(any))
def test_a_weight_is_as_many_copies_of_the_row(metric: Metric, weights: list[int]) -> None:
    predicted, actual = made(metric, 25)
    copied = judged(metric, np.repeat(predicted, weights), np.repeat(actual, weights), classes=3)
    found = judged(metric, predicted, actual, classes=3).score(np.array(weights, dtype=np.float64))
    assert found == pytest.approx(copied.value, abs=1e-12)


@pytest.mark.parametrize("metric", list(Metric))
def test_the_weight_of_a_row_is_that_of_all_its_words(metric: Metric) -> None:
    predicted, actual = made(metric, 12)
    starts = np.array([0, 3, 3, 8, 12])
    found = judged(metric, predicted, actual, classes=3, starts=starts)
    assert found.rows == 4
    kept = np.r_[0:3, 8:12, 8:12]
    again = judged(metric, predicted[kept], actual[kept], classes=3)
    assert found.score(np.array([1.0, 5.0, 0.0, 2.0])) == pytest.approx(again.value, abs=1e-12)


def test_words_of_one_sentence_are_drawn_together() -> None:
    # Errors come by the sentence: an interval that takes words for independent is too narrow by the root of their number.
    generator = np.random.default_rng(0)
    sentences, words = 300, 25
    actual = np.zeros(sentences * words, dtype=np.int64)
    hard = generator.random(sentences) < 0.1
    predicted = np.repeat(hard, words).astype(np.int64)
    starts = np.arange(sentences + 1) * words
    _, low, high = interval(judged(Metric.ACCURACY, predicted, actual, classes=2, starts=starts))
    _, one_low, one_high = interval(judged(Metric.ACCURACY, hard.astype(np.int64), np.zeros(sentences, dtype=np.int64), classes=2))
    assert high - low == pytest.approx(one_high - one_low, rel=0.15)
    _, flat_low, flat_high = interval(judged(Metric.ACCURACY, predicted, actual, classes=2))
    assert high - low > 4 * (flat_high - flat_low)


def test_memory_does_not_depend_on_the_classes() -> None:
    predicted, actual = answers(3000, classes=2000)
    tracemalloc.start()
    interval(judged(Metric.F1, predicted, actual, classes=2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_spans_are_scored_by_micro_f1() -> None:
    generator = np.random.default_rng(0)
    actual, predicted = generator.integers(2, size=(2, 30))
    spans = judged_spans(*(side.astype(np.float64) for side in (actual & predicted, predicted, actual)))
    assert spans.value == pytest.approx(sklearn_metrics.f1_score(actual, predicted))
    assert judged_spans(*np.zeros((3, 4))).value == 0.0


def test_the_interval_is_scipys_bca() -> None:
    predicted, actual = values(80)
    _, low, high = interval(judged(Metric.PEARSON, predicted, actual, classes=1))
    expected = stats.bootstrap(
        (predicted, actual),
        lambda x, y: stats.pearsonr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_a_comparison_is_paired() -> None:
    # Both err on the same rows but for ten of a thousand: marginal intervals are wide, that of the difference is not.
    predicted, actual = answers(1000, classes=2, right=0.6)
    ours = predicted.copy()
    ours[:10] = 1 - ours[:10]
    dense, slim = (judged(Metric.ACCURACY, each, actual, classes=2) for each in (predicted, ours))
    lost = (predicted == actual).astype(float) - (ours == actual)
    found = compare(slim, dense, by="difference")
    assert found.value == pytest.approx(-lost.mean())
    half = 1.96 * lost.std() / np.sqrt(1000)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    share = compare(slim, dense)
    assert share.value == pytest.approx(slim.value / dense.value)
    assert (share.high - share.low) / 2 == pytest.approx(half / dense.value, rel=0.2)
    assert compare(dense, dense) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("metric", list(Metric))
def test_intervals_hold_the_value_grow_with_the_level_and_are_seeded(metric: Metric) -> None:
    predicted, actual = made(metric, 200)
    found = judged(metric, predicted, actual, classes=3)
    value, low, high = interval(found, level=0.8)
    _, wide_low, wide_high = interval(found, level=0.99)
    assert wide_low < low < value < high < wide_high
    assert value == found.value
    assert interval(found, seed=3) == interval(found, seed=3)


def test_resamples_draw_as_many_rows_with_replacement() -> None:
    drawn = np.array(list(draws(50, 0, 400)))
    assert (drawn.sum(axis=1) == 50).all()
    # A count of a multinomial with equal shares: mean 1, variance 1 - 1/n.
    assert drawn.mean() == 1.0
    assert drawn.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_units() -> None:
    correlations = {Metric.MATTHEWS, Metric.PEARSON, Metric.SPEARMAN, Metric.COSINE}
    assert [metric.formatted(0.9128) for metric in Metric] == ["0.913" if metric in correlations else "91.3%" for metric in Metric]


def test_what_cannot_be_compared_is_refused() -> None:
    one, other = (judged(Metric.ACCURACY, *answers(rows), classes=3) for rows in (10, 11))
    with pytest.raises(StatisticsError, match="Got 10 and 11 of them"):
        compare(one, other)
    with pytest.raises(ParameterError, match=r"'level' .* in \(0, 1\)"):
        compare(one, one, level=0.0)
    never = Judged(10, lambda weights: 0.0)
    with pytest.raises(StatisticsError, match=r"reference above 0\. Got 0 instead"):
        compare(one, never)
    with pytest.raises(StatisticsError, match=r"class ids in 0\.\.2"):
        judged(Metric.F1, np.array([3, 0]), np.array([0, 1]), classes=3)
    with pytest.raises(StatisticsError, match="one shape"):
        judged(Metric.F1, np.array([1, 0]), np.array([0, 1, 1]), classes=3)


@pytest.mark.parametrize("rows", [200, 1000])
def test_the_interval_of_an_accuracy_holds_the_truth_in_95_percent_of_the_draws(rows: int) -> None:
    for right in (0.6, 0.8, 0.9, 0.95):
        assert 0.93 <= exact_accuracy(rows, right) <= 0.97
