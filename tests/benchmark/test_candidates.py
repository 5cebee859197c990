from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.benchmark.backends import BACKENDS
from prunekit.benchmark.batches import _embed
from prunekit.benchmark.candidates import Candidate, source_of
from prunekit.errors import PlanError
from prunekit.plan import Plan, ReadoutPlan, Source


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


def test_a_slim_encoder_with_a_readout_is_no_embedder(tmp_path: Path) -> None:
    source = Source(model_type="bert", layers=2, hidden=8, heads=2, ffn=16, vocabulary=30)
    candidates = []
    for name in ("dense", "slim"):
        (folder := tmp_path / name).mkdir()
        (folder / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}', encoding="utf-8")
        (folder / "model.onnx").write_text("", encoding="utf-8")
        candidates.append(Candidate(name, BACKENDS["ort"], source_of(folder)))
    (tmp_path / "dense" / "modules.json").write_text("[]", encoding="utf-8")
    assert _embed(candidates)
    Plan(source=source).save(tmp_path / "slim" / "plan.json")
    assert _embed(candidates)
    Plan(source=source, readout=ReadoutPlan(pooling="mean", neurons={2: (0, 1)})).save(tmp_path / "slim" / "plan.json")
    assert not _embed(candidates)
