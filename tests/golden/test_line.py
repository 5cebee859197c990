"""What the whole line gives on the tiny model, number by number; a change here is a change of every user's result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lines import line

GOLDEN = Path(__file__).with_name("line.json")


def found(case: str) -> dict[str, Any]:
    """What is written down of a case; ``python -m tests.golden.test_line`` writes the file anew."""
    report = line(case).report
    exact = {name: getattr(report.slim, name) for name in ("neurons", "layers", "params", "params_layers")}
    scores = {row.name: round(row.value, 4) for row in report.rows}
    return {"digest": report.plan_digest, "dense_params": report.dense.params, **exact, "macs": report.slim.macs, "scores": scores}


@pytest.mark.parametrize("case", ["base", "sequence", "everything"])
def test_the_line_gives_what_it_gave(case: str) -> None:
    golden, now = json.loads(GOLDEN.read_text(encoding="utf-8"))[case], found(case)
    scores, before = now.pop("scores"), golden.pop("scores")
    assert now == golden
    # One of 60 rows may fall on the other side of a boundary on another processor.
    assert scores == {name: pytest.approx(value, abs=2 / 60) for name, value in before.items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({case: found(case) for case in ("base", "sequence", "everything")}, indent=1) + "\n", encoding="utf-8")
