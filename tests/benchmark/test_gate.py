from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunekit.benchmark.gate import CHECKS, Gate
from prunekit.benchmark.results import Footprint
from prunekit.errors import ParameterError
from prunekit.runtime.records import Ratio


def cost(name: str = "slim", **changes: Any) -> Footprint:
    given: dict[str, Any] = {"params": 100, "macs": 1000, "nodes": 10, "bytes": 400, "macs_length": 16, "load_seconds": 0.1}
    given |= {"peak_bytes": None, "placement": {}, "agreement": None, "backend": "ort", "device": "cpu", "path": name}
    return Footprint(name=name, **{**given, **changes})


def time_of(growth: tuple[float, float, float]) -> Ratio:
    """A ratio by the growth of time: value, low, high."""
    value, low, high = growth
    return Ratio("slim", 1 / (1 + value), 1 / (1 + high), 1 / (1 + low))


@pytest.mark.parametrize(
    ("growth", "outcome"),
    [
        ((0.10, 0.06, 0.14), "failed"),
        ((0.10, 0.04, 0.16), "undecided"),
        ((0.03, 0.01, 0.06), "undecided"),
        ((0.02, 0.00, 0.04), "passed"),
        ((-0.5, -0.6, -0.4), "passed"),
    ],
)
def test_time_fails_only_where_the_whole_interval_is_beyond_the_limit(growth: tuple[float, float, float], outcome: str) -> None:
    gate = Gate(max_regression=0.05)
    (verdict,) = gate.of_ratio("batch 1, data", time_of(growth))
    assert verdict.outcome == outcome
    assert (verdict.value, verdict.low, verdict.high) == pytest.approx(growth)
    assert gate.decided([time_of(growth)]) == (outcome != "undecided")


def test_rounds_go_on_while_a_wide_limit_is_within_the_interval() -> None:
    """Twice the time is half the speed, and not none of it."""
    gate, ratio = Gate(max_regression=1.0), time_of((1.0, 0.9, 1.1))
    assert gate.of_ratio("", ratio)[0].outcome == "undecided"
    assert not gate.decided([ratio])


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(1.51, 1.7, "passed"), (1.5, 1.7, "passed"), (1.4, 1.9, "failed"), (1.1, 1.2, "failed")]
)
def test_a_speedup_has_to_be_shown(low: float, high: float, outcome: str) -> None:
    gate = Gate(min_speedup=1.5)
    (verdict,) = gate.of_ratio("batch 1, data", Ratio("slim", (low + high) / 2, low, high))
    assert verdict.outcome == outcome
    assert gate.decided([Ratio("slim", 1.6, low, high)]) == (not low <= 1.5 <= high)


positive = st.floats(0.1, 10)


@given(st.tuples(positive, positive, positive), st.floats(0, 2))
def test_a_candidate_that_gets_slower_never_passes_more_easily(values: tuple[float, float, float], limit: float) -> None:
    low, value, high = sorted(values)
    worse = Ratio("slim", value / 2, low / 2, high / 2)
    rank = {"passed": 0, "undecided": 1, "failed": 2}
    before, after = (Gate(max_regression=limit).of_ratio("", ratio)[0] for ratio in (Ratio("slim", value, low, high), worse))
    assert rank[before.outcome] <= rank[after.outcome]


def test_counts_are_exact() -> None:
    gate = Gate(max_regression=0.1)
    verdicts = {verdict.check: verdict for verdict in gate.of_counts(cost("dense"), cost(params=110, macs=1101, nodes=10, bytes=40))}
    assert {name: verdict.outcome for name, verdict in verdicts.items()} == {
        "params": "passed",
        "macs": "failed",
        "nodes": "passed",
        "bytes": "passed",
    }
    assert verdicts["bytes"].value == pytest.approx(-0.9)
    assert Gate(max_regression=0.0).of_counts(cost("dense"), cost())[0].outcome == "passed"


def test_what_one_side_does_not_count_is_not_compared() -> None:
    verdicts = Gate(max_regression=0.1).of_counts(cost("dense"), cost(macs=None, nodes=None))
    assert [verdict.check for verdict in verdicts] == ["params", "bytes"]


def test_only_what_was_asked_for_is_checked() -> None:
    assert Gate().verdicts(cost("dense"), [cost("dense"), cost()], [], []) == ()
    assert Gate().of_ratio("", time_of((9.0, 9.0, 9.0))) == ()
    gate = Gate(max_regression=0.1, checks=("bytes",))
    assert gate.of_ratio("", time_of((9.0, 9.0, 9.0))) == ()
    assert gate.decided([time_of((0.1, 0.0, 0.2))])
    assert [verdict.check for verdict in gate.verdicts(cost("dense"), [cost("dense"), cost(bytes=900)], [], [])] == ["bytes"]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_regression": -0.1},
        {"max_regression": float("nan")},
        {"min_speedup": 0.0},
        {"min_speedup": float("inf")},
        {"checks": ("time",)},
        {"checks": ()},
    ],
)
def test_mistakes(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="of bench must be"):
        Gate(**changes)
    assert CHECKS == ("latency", "params", "macs", "nodes", "bytes")
