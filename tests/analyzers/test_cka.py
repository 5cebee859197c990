from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.blocks import STEPS, false_rate, found_rate
from prunekit.analyzers.cka import debiased, find_blocks, outlying, run
from prunekit.errors import StatisticsError
from prunekit.stats.cross import cross_norms
from tests.analyzers.subjects import inputs_of, rows_of, store

Floats = NDArray[np.float64]


def _kernel_cka(x: Floats, y: Floats) -> float:
    """Kornblith et al. 2019, equations 1 and 2, with the n x n kernels written out."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def _layers(rows: NDArray[np.float32], hidden: int) -> list[Floats]:
    return [rows[:, at : at + hidden].astype(np.float64) for at in range(0, rows.shape[1], hidden)]


def test_cka_from_moments_is_that_of_the_kernels() -> None:
    rows, base = rows_of(60, layers=4, hidden=9), rows_of(60, layers=4, hidden=9, seed=5)
    found = run(inputs_of(rows, hidden=9, base=base, tokens=True))
    ours, theirs = _layers(rows, 9), _layers(base, 9)
    for kind in ("mean", "token"):
        within, across = found.rows[kind].within, found.rows[kind].across
        assert across is not None
        np.testing.assert_allclose(within, [[_kernel_cka(x, y) for y in ours] for x in ours], atol=1e-10, rtol=0)
        np.testing.assert_allclose(across, [[_kernel_cka(x, y) for y in theirs] for x in ours], atol=1e-10, rtol=0)


def test_a_rotated_and_scaled_layer_is_the_same_layer() -> None:
    rows = rows_of(80, layers=1, hidden=12).astype(np.float64)
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((12, 12)))[0]
    found = run(inputs_of(np.hstack([rows, 4 * rows @ rotation + 7]).astype(np.float32), hidden=12))
    assert found.rows["mean"].within[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_the_debiased_estimate_of_unrelated_layers_is_near_zero_where_the_plain_one_is_not() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((512, 2 * 64)).astype(np.float32)
    found = run(inputs_of(rows, hidden=64)).rows["mean"]
    assert found.debiased is not None
    assert found.within[0, 1] > 0.08
    assert abs(found.debiased[0, 1]) < 0.02
    np.testing.assert_allclose(found.debiased.diagonal(), 1.0)


def test_the_debiased_estimate_of_one_batch_is_the_u_statistic() -> None:
    """HSIC_1 of Song et al. 2012, equation 5, as a sum over distinct indices."""
    rows = rows_of(7, layers=2, hidden=3)
    x, y = _layers(rows, 3)

    def hsic(k: Floats, m: Floats) -> float:
        n, total = len(k), 0.0
        for i in range(n):
            for j in range(n):
                for q in range(n):
                    for r in range(n):
                        if len({i, j, q, r}) == 4:
                            total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        return total / (n * (n - 1) * (n - 2) * (n - 3))

    k, m = x @ x.T, y @ y.T
    found = debiased(store(rows), 3)
    assert found is not None
    assert found[0, 1] == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-10)


def test_a_short_last_batch_weighs_by_its_rows() -> None:
    """Of 260 rows the last four would be half of the estimate, and nothing but noise."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(12):
        shared = generator.standard_normal((260, 24))
        x, y = (np.hstack([shared, generator.standard_normal((260, 40))]) for _ in range(2))
        matrix = debiased(store(np.hstack([x, y]).astype(np.float32)), 64, batch=256)
        assert matrix is not None
        found.append(matrix[0, 1])
    assert np.std(found) < 0.05


def test_parts_of_any_size_give_the_same_norms() -> None:
    rows = rows_of(50, layers=3, hidden=5)
    whole = cross_norms(store(rows), store(rows), 5, 5)
    np.testing.assert_allclose(cross_norms(store(rows), store(rows), 5, 5, limit=1), whole, rtol=1e-12)


@pytest.mark.parametrize("kind", list(STEPS))
def test_of_200_smooth_chains_without_blocks_hardly_any_may_lose_a_layer(kind: str) -> None:
    assert false_rate(kind, 0.01, 200) <= 0.05


@pytest.mark.parametrize("length", [6, 12, 24])
def test_similarity_that_falls_with_the_distance_alone_has_no_blocks(length: int) -> None:
    places = np.arange(length + 1)
    distance = np.abs(places[:, None] - places)
    for matrix in (1 - distance / length, np.exp(-distance / 4), np.exp(-1.0 * distance), 1 / (1 + distance)):
        found = find_blocks(matrix, places)
        assert found is not None
        assert not found.clear
        assert found.may_go == ()


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
def test_of_200_planted_pairs_of_blocks_nearly_all_are_found(noise: float) -> None:
    assert found_rate(noise, 200) >= 0.95


def test_two_blocks_are_found_and_named() -> None:
    matrix = np.full((13, 13), 0.2)
    matrix[:8, :8], matrix[8:, 8:] = 0.9, 0.8
    found = find_blocks(matrix, np.arange(13))
    assert found is not None
    assert found.cut == 8
    assert found.may_go == (9, 10, 11, 12)
    assert found.contrast == pytest.approx((0.9 * 28 + 0.8 * 10) / 38 - 0.2)
    assert found.p_value < 0.01


def test_layers_far_from_the_one_that_stays_do_not_go() -> None:
    matrix = np.full((13, 13), 0.2)
    matrix[:8, :8], matrix[8:, 8:] = 0.95, 0.95
    matrix[8, 11] = matrix[11, 8] = 0.7
    found = find_blocks(matrix, np.arange(13))
    assert found is not None
    assert found.may_go == (9, 10)
    matrix[8, 9] = matrix[9, 8] = 0.79
    found = find_blocks(matrix, np.arange(13))
    assert found is not None
    assert found.clear
    assert found.may_go == ()


def test_the_outlier_test_has_the_level_and_the_critical_value_of_grubbs() -> None:
    generator = np.random.default_rng(0)
    drawn = generator.normal(size=(4000, 12))
    rejected = np.mean([outlying(row, int(row.argmax())) <= 0.05 for row in drawn])
    assert rejected == pytest.approx(0.05, abs=0.012)
    # Grubbs and Beck 1972, table I: 2.285 for n = 12 at 5%, one-sided.
    values = np.sort(drawn[0])
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        tried = np.append(values[:11], values[10] + middle)
        low, high = (low, middle) if outlying(tried, 11) <= 0.05 else (middle, high)
    tried = np.append(values[:11], values[10] + high)
    assert (tried[-1] - tried.mean()) / tried.std(ddof=1) == pytest.approx(2.285, abs=2e-3)
    assert outlying(np.ones(8), 0) == 1.0


def test_few_layers_have_no_blocks() -> None:
    matrix = np.eye(4)
    matrix[0, 1] = matrix[1, 0] = matrix[2, 3] = matrix[3, 2] = 0.9
    assert find_blocks(matrix, np.arange(4)) is None


def test_a_layer_that_says_the_same_of_every_row_has_no_similarity() -> None:
    rows = rows_of(40, layers=4, hidden=6)
    rows[:, :6] = 1.5
    found = run(inputs_of(rows, hidden=6))
    assert np.isnan(found.rows["mean"].within[0]).all()
    assert found.to_json()["rows"]["mean"]["within"][0] == [None] * 4
    assert np.isfinite(found.rows["mean"].within[1:, 1:]).all()


def test_one_row_is_an_error_of_one_line() -> None:
    with pytest.raises(StatisticsError, match="more than one row"):
        run(inputs_of(rows_of(1, layers=3, hidden=4), hidden=4))


def test_the_same_numbers_where_the_moments_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(64, layers=4, hidden=5)
    whole = run(inputs_of(rows, hidden=5))
    monkeypatch.setattr("prunekit.analyzers.base.LARGEST_COMOMENT", 10)
    np.testing.assert_allclose(run(inputs_of(rows, hidden=5)).rows["mean"].within, whole.rows["mean"].within, rtol=1e-10)
