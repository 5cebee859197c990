from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.benchmark.candidates import source_of
from prunekit.errors import PlanError
from prunekit.plan import Plan, Source


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    (tmp_path / "onnx").mkdir()
    for name in ("config.json", "onnx/model.onnx"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("where", [".", "onnx/model.onnx"])
def test_a_candidate_names_the_plan_beside_it(artefact: Path, where: str) -> None:
    assert source_of(artefact / where).plan is None
    plan = Plan(source=Source(model_type="bert", layers=2, hidden=8, heads=2, ffn=16, vocabulary=30), layers=(0,))
    plan.save(artefact / "plan.json")
    assert source_of(artefact / where).plan == plan.digest


def test_a_plan_that_is_none_is_refused(artefact: Path) -> None:
    (artefact / "plan.json").write_text("[]", encoding="utf-8")
    with pytest.raises(PlanError):
        source_of(artefact)
