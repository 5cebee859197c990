from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunekit.budget import ABSOLUTE, Budget, Unit, parse_budgets
from prunekit.errors import ParameterError


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("10%", Unit.MODEL, 0.1),
        ("100%", Unit.MODEL, 1.0),
        ("0.1%", Unit.MODEL, 0.001),
        (" 10 % ", Unit.MODEL, 0.1),
        ("10% neurons", Unit.NEURONS, 0.1),
        ("40% params", Unit.PARAMS, 0.4),
        ("40%PARAMS", Unit.PARAMS, 0.4),
        ("40% macs", Unit.MACS, 0.4),
        ("25% latency", Unit.LATENCY, 0.25),
        ("8 MB", Unit.BYTES, 8e6),
        ("8MiB", Unit.BYTES, 8 * 2**20),
        ("1.5 gb", Unit.BYTES, 1.5e9),
        ("512 KB", Unit.BYTES, 512e3),
        ("900 B", Unit.BYTES, 900),
    ],
)
def test_grammar(text: str, unit: Unit, amount: float) -> None:
    budget = Budget.parse(text)
    assert budget.unit is unit
    assert budget.amount == pytest.approx(amount, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "0%",
        "200%",
        "100.1%",
        "-5%",
        "ten",
        "",
        "%",
        "10",
        "0.1",
        "10% apples",
        "10 apples",
        "10% bytes",
        "0 MB",
        "-1 MB",
        "8 % MB",
        "1e1%",
        "٣%",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="The 'keep' parameter of compress must be a percentage in") as caught:
        Budget.parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 10_000), st.sampled_from([unit for unit in Unit if unit not in ABSOLUTE]))
def test_shares_round_trip(hundredths: int, unit: Unit) -> None:
    budget = Budget.parse(f"{hundredths / 100}% {unit}")
    assert 0 < budget.amount <= 1
    assert Budget.parse(str(budget)).amount == pytest.approx(budget.amount, rel=1e-5)
    assert Budget.parse(str(budget)).unit is unit


def test_several_must_hold_together() -> None:
    assert [budget.unit for budget in parse_budgets(["10%", "40% params", "8 MB"])] == [Unit.MODEL, Unit.PARAMS, Unit.BYTES]
    assert parse_budgets("10%") == (Budget(Unit.MODEL, 0.1),)


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ([], "nothing"),
        (["10%", "20%"], "model came twice"),
        (["10% neurons", "20% neurons"], "neurons came twice"),
        (["8 MB", "9 KB"], "bytes came twice"),
    ],
)
def test_contradictions_are_refused(texts: list[str], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        parse_budgets(texts)


def test_the_caller_is_named() -> None:
    with pytest.raises(ParameterError, match="The 'keep' parameter of select must"):
        Budget.parse("ten", of="select")
