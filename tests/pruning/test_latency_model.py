from __future__ import annotations

import numpy as np
import pytest

from prunekit.errors import StatisticsError
from prunekit.pruning.latency_model import LatencyTable, Prices, Widths, fit_table, probes

TABLE = LatencyTable(1, 0.08, Prices(0.01, 0.008, 0.004, 0.00006), Prices(0.012, 0.004, 0.002, 0.000004))


def drawn(blocks: int, seed: int) -> Widths:
    generator = np.random.default_rng(seed)
    return Widths(tuple(generator.integers(13, size=blocks).tolist()), tuple(generator.integers(1537, size=blocks).tolist()))


@pytest.mark.parametrize("blocks", [1, 2, 6, 12])
def test_the_probes_tell_all_prices_apart(blocks: int) -> None:
    found = fit_table([(widths, TABLE.share(widths)) for widths in probes(blocks, 12, 1536)], batch=1)
    for seed in range(20):
        widths = drawn(blocks, seed)
        assert found.share(widths) == pytest.approx(TABLE.share(widths), rel=1e-6)
    assert found.residual < 1e-6
    assert blocks == 1 or found.inner.head == pytest.approx(TABLE.inner.head)
    assert found.last.neuron == pytest.approx(TABLE.last.neuron)


def test_what_has_no_attention_above_it_is_computed_for_the_position_that_is_read_alone() -> None:
    assert Widths((4, 2, 0), (8, 8, 8)).top == 1
    assert Widths((0, 0, 0), (8, 8, 8)).top == -1
    inner, last = TABLE.inner, TABLE.last
    assert TABLE.share(Widths((4, 2, 0), (8, 8, 8))) == pytest.approx(TABLE.rest + inner.of(4, 8) + last.of(2, 8) + last.of(0, 8))
    assert TABLE.share(Widths((0, 0, 0), (8, 8, 8))) == pytest.approx(TABLE.rest + 3 * last.of(0, 8))


def test_noise_of_a_few_percent_stays_a_few_percent() -> None:
    generator = np.random.default_rng(0)
    measured = [(widths, TABLE.share(widths) * generator.normal(1, 0.02)) for widths in probes(6, 12, 1536)]
    found = fit_table(measured, batch=1)
    off = [abs(found.share(drawn(6, seed)) / TABLE.share(drawn(6, seed)) - 1) for seed in range(100)]
    assert np.quantile(off, 0.9) < 0.06
    assert min(found.rest, *vars(found.inner).values(), *vars(found.last).values()) >= 0


def test_errors_count_as_shares_of_the_measured_times() -> None:
    """(t / 1 - 1)^2 + (t / 3 - 1)^2 is least at t = 1.2, where (t - 1)^2 + (t - 3)^2 is at 2."""
    widths = Widths((2, 2), (8, 8))
    found = fit_table([(widths, 1.0), (widths, 3.0)], batch=1)
    assert found.share(widths) == pytest.approx(1.2)
    assert found.residual == pytest.approx(0.6)


@pytest.mark.parametrize("even", [False, True])
def test_no_probe_has_ffns_without_any_attention(even: bool) -> None:
    # An exporter computes these for the position that is read alone, which says nothing of any other model.
    assert all(any(widths.heads) or not any(widths.ffn) for widths in probes(6, 12, 1536, even=even))


def test_what_cannot_be_narrower_is_not_probed() -> None:
    assert {widths.heads for widths in probes(3, 12, 64, cut_heads=False)} == {(12, 12, 12)}
    assert all(len(set(widths.heads)) == len(set(widths.ffn)) == 1 for widths in probes(3, 12, 64, even=True))
    for widths in probes(2, 1, 1):
        assert max(*widths.heads, *widths.ffn) <= 1


@pytest.mark.parametrize("shares", [[], [0.0], [float("nan")]])
def test_a_table_needs_times(shares: list[float]) -> None:
    with pytest.raises(StatisticsError, match="measured times"):
        fit_table([(Widths((1,), (1,)), share) for share in shares], batch=1)
