from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from prunekit.errors import StatisticsError
from prunekit.stats.comoment import Comoment, ComomentSum


def rows(n: int = 60, k: int = 5, o: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x = draw(n, k) @ draw(k, k) + 3
    return x, x @ draw(k, o) + draw(n, o) - 7, torch.rand(n, generator=generator, dtype=torch.float64) + 0.1


def moment(x: Tensor, y: Tensor, weights: Tensor, chunks: int = 1) -> Comoment:
    total = ComomentSum()
    for part in zip(x.chunk(chunks), y.chunk(chunks), weights.chunk(chunks), strict=True):
        total.add(*part)
    return total.finish()


@pytest.mark.parametrize("bias", [True, False])
def test_solution_is_that_of_weighted_lstsq(bias: bool) -> None:
    x, y, weights = rows()
    weight, shift = moment(x, y, weights).solve(0.0, bias=bias)
    design = np.column_stack([x.numpy(), np.ones(len(x))]) if bias else x.numpy()
    root = np.sqrt(weights.numpy())[:, None]
    expected = np.linalg.lstsq(design * root, y.numpy() * root, rcond=None)[0]
    np.testing.assert_allclose(weight.T, expected[:5], atol=1e-9)
    np.testing.assert_allclose(shift, expected[5] if bias else np.zeros(3), atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_damped_solution_is_ridge_with_a_free_bias(bias: bool) -> None:
    x, y, weights = rows()
    weight, shift = moment(x, y, weights).solve(0.3, bias=bias)
    design, targets, w = x.numpy(), y.numpy(), weights.numpy()
    w = w / w.sum()
    if bias:
        design, targets = design - w @ design, targets - w @ targets
    strength = 0.3 * float((w @ np.square(design)).mean())
    # Ridge as least squares with extra rows.
    tall = np.vstack([design * np.sqrt(w)[:, None], np.sqrt(strength) * np.eye(5)])
    expected = np.linalg.lstsq(tall, np.vstack([targets * np.sqrt(w)[:, None], np.zeros((5, 3))]), rcond=None)[0]
    np.testing.assert_allclose(weight.T, expected, atol=1e-9)
    if bias:
        np.testing.assert_allclose(shift, w @ y.numpy() - expected.T @ (w @ x.numpy()), atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_paired_solution_is_a_ridge_for_each_input_by_itself(bias: bool) -> None:
    """Inputs of very different scales: each is damped by its own mean square about where its moments are taken."""
    x, y, weights = rows(o=5)
    x = x * torch.tensor([1e-3, 0.1, 1.0, 30.0, 1e4], dtype=torch.float64)
    turn, shift = moment(x, y, weights).solve_diagonal(0.3, bias=bias)
    w = weights.numpy() / weights.numpy().sum()
    for place in range(5):
        design, targets = x[:, place].numpy(), y[:, place].numpy()
        if bias:
            design, targets = design - w @ design, targets - w @ targets
        tall = np.append(design * np.sqrt(w), np.sqrt(0.3 * (w @ np.square(design))))
        expected = np.linalg.lstsq(tall[:, None], np.append(targets * np.sqrt(w), 0.0), rcond=None)[0][0]
        np.testing.assert_allclose(turn[place], expected, rtol=1e-7)
        whole = float(w @ y[:, place].numpy() - expected * (w @ x[:, place].numpy()))
        np.testing.assert_allclose(shift[place], whole if bias else 0.0, rtol=1e-7, atol=1e-9)


def test_a_paired_input_that_never_varies_has_no_weight() -> None:
    x, y, weights = rows(o=5)
    x[:, 2] = 4.0
    turn, shift = moment(x, y, weights).solve_diagonal(0.1)
    assert float(turn[2]) == 0.0
    assert bool((turn[[0, 1, 3, 4]] != 0).all())
    assert float(shift[2]) == pytest.approx(float(weights @ y[:, 2] / weights.sum()))


def test_residual_is_orthogonal_to_the_inputs() -> None:
    x, y, weights = rows()
    weight, shift = moment(x, y, weights).solve(0.0)
    residual = y - x @ weight.T - shift
    np.testing.assert_allclose((residual * weights[:, None]).T @ x, np.zeros((3, 5)), atol=1e-8)
    np.testing.assert_allclose(weights @ residual, np.zeros(3), atol=1e-9)


def test_chunks_and_their_order_do_not_matter() -> None:
    x, y, weights = rows()
    whole = moment(x, y, weights)
    for found in (moment(x, y, weights, 7), moment(x.flip(0), y.flip(0), weights.flip(0), 3)):
        for name in ("weight", "mean_x", "mean_y", "xx", "yx", "yy"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


def test_moments_are_numpys() -> None:
    x, y, weights = rows()
    found = moment(x, y, weights, 4)
    both = np.cov(np.column_stack([x.numpy(), y.numpy()]).T, aweights=weights.numpy(), ddof=0)
    np.testing.assert_allclose(found.xx, both[:5, :5], atol=1e-10)
    np.testing.assert_allclose(found.yx, both[5:, :5], atol=1e-10)
    assert found.yy == pytest.approx(np.trace(both[5:, 5:]))


def test_error_is_the_mean_squared_residual() -> None:
    x, y, weights = rows()
    found = moment(x, y, weights)
    weight = torch.randn(3, 5, dtype=torch.float64)
    best = found.mean_y - weight @ found.mean_x
    residual = (y - x @ weight.T - best).square().sum(1)
    assert found.error(weight) == pytest.approx(float(weights @ residual / weights.sum()))


def test_a_mean_far_from_zero_keeps_its_digits_in_single_precision() -> None:
    x, y, weights = rows(400)
    exact = moment(x, y, weights)
    found = moment((x + 1e4).float(), y.float(), weights.float(), 5)
    # Rounding of the rows themselves to single precision is 1e-3.
    np.testing.assert_allclose(found.xx, exact.xx, atol=0.02)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_singular_inputs_and_few_rows_have_a_finite_solution(damping: float) -> None:
    x, y, weights = rows(4, 9)
    x[:, 3] = 2.0
    x[:, 4] = x[:, 5]
    weight, shift = moment(x, y, weights).solve(damping)
    assert bool(torch.isfinite(weight).all())
    # Of the inputs that are the same, each takes an equal part; the one that never varies takes none.
    torch.testing.assert_close(weight[:, 4], weight[:, 5])
    torch.testing.assert_close(weight[:, 3], torch.zeros(3, dtype=torch.float64), atol=1e-8, rtol=0)
    if not damping:
        torch.testing.assert_close(x @ weight.T + shift, y)


def test_inputs_that_never_vary_say_nothing() -> None:
    weight, shift = moment(torch.ones(5, 2), torch.full((5, 3), 4.0), torch.ones(5)).solve(0.1)
    torch.testing.assert_close(weight, torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(shift, torch.full((3,), 4.0, dtype=torch.float64))


def test_rounding_of_inputs_that_never_vary_is_not_taken_for_a_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    # As far from the mean as single precision goes, and by chance along with the targets.
    noise = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    x = 3 + 2e-7 * noise
    weight, shift = moment(x, noise, torch.ones(40, dtype=torch.float64)).solve(0.1)
    assert float(weight.abs().max()) < 1
    torch.testing.assert_close(x @ weight.T + shift, noise.mean(0).expand(40, 2), atol=1e-5, rtol=0)


def test_no_inputs_leave_the_mean() -> None:
    x, y, weights = rows()
    _, shift = moment(x[:, :0], y, weights).solve(0.1)
    torch.testing.assert_close(shift, weights @ y / weights.sum())


def test_nothing_and_nan_are_refused() -> None:
    x, y, weights = rows()
    with pytest.raises(StatisticsError, match="No calibration row carries any weight"):
        ComomentSum().finish()
    with pytest.raises(StatisticsError, match="No calibration row carries any weight"):
        moment(x, y, torch.zeros(60, dtype=torch.float64))
    x[3, 1] = torch.nan
    with pytest.raises(StatisticsError, match="not finite"):
        moment(x, y, weights)
