from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from prunekit.budget import Unit
from prunekit.errors import DataError
from prunekit.report.model import BudgetResult, Report
from tests.report.samples import report


def test_a_report_round_trips() -> None:
    found = report()
    assert Report.from_json(found.to_json()) == found
    bare = report(latency=(), trace=(), notes=(), stages={}, budgets=(), max_drop=None)
    assert Report.from_json(bare.to_json()) == bare


def test_what_follows_is_in_the_file_for_readers_but_is_not_read_back() -> None:
    fields = json.loads(report().to_json())
    assert fields["derived"]["retained_of_dense"] == pytest.approx(0.9128 / 0.9216)
    assert fields["derived"]["retained_of_oracle"] == pytest.approx(0.9128 / 0.9186)
    assert fields["derived"]["kept"]["neurons"] == pytest.approx(61 / 2688)
    assert fields["derived"]["budgets_met"] is True
    fields["derived"] = {"retained_of_dense": 99}
    assert Report.from_json(json.dumps(fields)) == report()


def test_retained_is_only_said_of_what_was_measured() -> None:
    found = report(rows=tuple(row for row in report().rows if row.name != "dense"))
    assert found.retained("slim", "dense") is None
    assert found.retained("slim", "oracle") == pytest.approx(0.9128 / 0.9186)
    zero = report(rows=tuple(row.model_copy(update={"value": 0.0 if row.name == "dense" else row.value}) for row in report().rows))
    assert zero.retained("slim", "dense") is None


@pytest.mark.parametrize(("limit", "reached", "met"), [(0.1, 0.1, True), (0.1, 0.1000001, False), (0.3, 0.1 + 0.2, True), (1.0, 0.5, True)])
def test_a_budget_is_met_or_not(limit: float, reached: float, met: bool) -> None:
    assert BudgetResult(asked="x", unit=Unit.PARAMS, limit=limit, reached=reached).met is met


def test_a_report_is_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        report().seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        report(extra=1)
    with pytest.raises(ValidationError):
        report(mean_length=float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(version=2), "version 2; this prunekit reads up to 1"),
        (lambda fields: fields.update(surprise=1), "surprise"),
        (lambda fields: fields.pop("seed"), "seed: Field required"),
        (lambda fields: fields["rows"][0].update(name="thin"), r"rows\.0\.name"),
    ],
)
def test_a_broken_report_is_one_line(change: Any, message: str) -> None:
    fields = json.loads(report().to_json())
    change(fields)
    with pytest.raises(DataError, match=message) as caught:
        Report.from_json(json.dumps(fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[" * 100_000, "nest more than"), ("[]", "must be a JSON object. Got list")]
)
def test_what_is_no_report(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Report.from_json(text, name="report.json")
