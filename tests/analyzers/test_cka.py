from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from prunekit.analyzers.cka import debiased, find_blocks, run
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


def test_parts_of_any_size_give_the_same_norms() -> None:
    rows = rows_of(50, layers=3, hidden=5)
    whole = cross_norms(store(rows), store(rows), 5, 5)
    np.testing.assert_allclose(cross_norms(store(rows), store(rows), 5, 5, limit=1), whole, rtol=1e-12)


def test_two_blocks_are_found_and_named() -> None:
    matrix = np.full((13, 13), 0.2)
    matrix[:8, :8], matrix[8:, 8:] = 0.9, 0.8
    found = find_blocks(matrix, np.arange(13), seed=0)
    assert found is not None
    assert found.cut == 8
    assert found.may_go == (9, 10, 11, 12)
    assert found.contrast == pytest.approx((0.9 * 28 + 0.8 * 10) / 38 - 0.2)
    assert found.p_value < 0.01


def test_chance_rarely_looks_like_blocks() -> None:
    generator = np.random.default_rng(1)
    clear = 0
    for _ in range(60):
        noise = generator.random((10, 10))
        found = find_blocks((noise + noise.T) / 2, np.arange(10), seed=0, permutations=399)
        assert found is not None
        assert bool(found.may_go) <= found.clear
        clear += found.clear
    # 5% of them would be 3; 10 or more have a chance of one in two thousand.
    assert clear < 10


def test_few_layers_say_how_little_they_can() -> None:
    matrix = np.eye(4)
    matrix[0, 1] = matrix[1, 0] = matrix[2, 3] = matrix[3, 2] = 0.9
    found = find_blocks(matrix, np.arange(4), seed=0)
    assert found is not None
    assert found.p_value == pytest.approx(1 / 3)
    assert found.least == pytest.approx(1 / 3)
    assert find_blocks(matrix[:3, :3], np.arange(3), seed=0) is None


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
    monkeypatch.setattr("prunekit.analyzers.base.MEMORY", 10)
    np.testing.assert_allclose(run(inputs_of(rows, hidden=5)).rows["mean"].within, whole.rows["mean"].within, rtol=1e-10)
