"""What can be refused is refused before a model is run, and what misses a bound is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunekit.errors import BudgetError, ParameterError, PrunekitError
from prunekit.pipeline import early, preflight
from prunekit.pipeline.compress import compress, make_plan
from prunekit.plan import Plan, Source
from tests import lines
from tests.lines import checkpoint, data


def stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be run from here on."""

    def run(*_: object, **__: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(torch.nn.Module, "__call__", run)


def no_accelerate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(early.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]


def full_disk(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))  # type: ignore[attr-defined]


def somebody_elses(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "slim").mkdir()
    (folder / "slim" / "thesis.txt").write_text("mine")


def kept_before(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "slim-unmet").mkdir()
    (folder / "slim-unmet" / "thesis.txt").write_text("mine")


def of_another_model(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    source = Source(model_type="bert", layers=9, hidden=16, heads=4, ffn=32, vocabulary=73)
    Plan(source=source).save(folder / "plan.json")
    monkeypatch.chdir(folder)


MISTAKES: list[tuple[str, str, dict[str, Any], str, Callable[[pytest.MonkeyPatch, Path], None] | None]] = [
    ("sequence", "text", {"keep": "30%", "freeze": "layers:7"}, "'freeze' parameter of compress must be blocks that are kept", None),
    ("sequence", "text", {"keep": "30%", "freeze": "7"}, "'freeze' parameter of compress must be blocks of the model", None),
    ("sequence", "text", {"layers": "0-1", "freeze": "layers:2"}, r"blocks that are kept \(0, 1\)", None),
    ("sequence", "text", {"layers": "0-7"}, "'layers' parameter of compress must be of the model's blocks 0-2", None),
    ("sequence", "text", {"drop": "ffn:7"}, "'drop' parameter of compress must be sub-blocks of the blocks kept", None),
    ("sequence", "text", {"keep": "0.01% params"}, r"--keep '0.01% params' cannot be met by removing heads and FFN neurons", None),
    ("sequence", "text", {"keep": "30% params", "uniform": True}, r"cannot be met by removing FFN neurons \(heads stay: uniform", None),
    ("sequence", "text", {"keep": "0.01% macs", "layers": "0"}, r"--keep '0.01% macs' cannot be met", None),
    ("sequence", "text", {"keep": "1 KB"}, r"the embedding alone takes 0.00 MB in int8. Add --vocabulary data, or allow more", None),
    ("sequence", "text", {"keep": "50% params", "multiple_of": 32, "uniform": True, "drop": "ffn:0"}, "'uniform' parameter", None),
    ("sequence", "text", {"text": "body"}, "'text' parameter", None),
    ("sequence", "text", {"label": "stars"}, "'label' parameter", None),
    ("sequence", "text", {"metric": "pearson"}, "'metric' parameter", None),
    ("sequence", "text", {"max_length": 500}, "'max_length' parameter", None),
    ("sequence", "tokens", {}, "it holds LABEL_0, LABEL_1, LABEL_2, the model has LABEL_0, LABEL_1", None),
    ("base", "tokens", {"pooling": "mean"}, "'pooling' parameter of compress must be left out for a token task", None),
    ("base", "absent.csv", {}, "absent.csv", None),
    ("sequence", "text", {}, "Training needs accelerate", no_accelerate),
    ("sequence", "text", {"recover": "none"}, "MB of disk at least while it is made, and 0 MB are free", full_disk),
    ("sequence", "text", {}, "'out' parameter of compress must be a new or an empty directory", somebody_elses),
    ("sequence", "text", {"max_drop": "1%"}, "'out' parameter of compress must be a new or an empty directory", kept_before),
    ("sequence", "text", {"plan": "plan.json"}, "The plan was made for a model with", of_another_model),
]


@pytest.mark.parametrize(
    ("model", "rows", "parameters", "says", "prepare"), MISTAKES, ids=lambda value: getattr(value, "__name__", str(value))[:40]
)
def test_a_mistake_is_refused_before_a_model_is_run(
    model: str,
    rows: str,
    parameters: dict[str, Any],
    says: str,
    prepare: Callable[[pytest.MonkeyPatch, Path], None] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / rows if rows.endswith(".csv") else data(rows)
    dense = checkpoint(model)
    stand_still(monkeypatch)
    if prepare is not None:
        prepare(monkeypatch, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PrunekitError, match=says):
        compress(dense, source, out=tmp_path / "slim", **parameters)
    assert sorted(tmp_path.rglob("*")) == before


def test_statistics_and_plans_are_refused_as_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, dense = data("text"), checkpoint("sequence")
    stand_still(monkeypatch)
    with pytest.raises(BudgetError, match="cannot be met"):
        make_plan(dense, source, keep="0.01% params")


def test_what_misses_a_bound_keeps_its_plan_and_its_report(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"keep": ["10% params", "80% macs"], "max_drop": "0%", "out": tmp_path / "slim"}
    asked |= {"recover": "none", "dtype": "fp32"}
    with lines.quick(), pytest.raises(BudgetError, match=r"--max-drop 0.00% was not met: .* The plan and the report .*slim-unmet"):
        compress(checkpoint("sequence"), data("text"), **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["slim-unmet"]
    kept = Plan.load(tmp_path / "slim-unmet" / "plan.json")
    report = json.loads((tmp_path / "slim-unmet" / "report.json").read_text())
    assert kept.digest == report["plan_digest"]
    assert report["slim"]["params_layers"] <= 0.1 * report["dense"]["params_layers"]
    # The same again takes the place of what was kept; and what was kept can be carried out.
    with lines.quick(), pytest.raises(BudgetError, match="was not met"):
        compress(checkpoint("sequence"), data("text"), **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["slim-unmet"]
    with lines.quick():
        plan = tmp_path / "slim-unmet" / "plan.json"
        carried = compress(checkpoint("sequence"), data("text"), plan=plan, recover="none", dtype="fp32", out=tmp_path / "slim")
    assert carried.plan.heads == kept.heads


def test_what_a_failed_run_left_is_not_replaced_by_a_run_that_reads_it(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"keep": "10% params", "max_drop": "0%", "recover": "1epochs", "dtype": "fp32", "out": tmp_path / "slim"}
    with lines.quick(), pytest.raises(BudgetError, match="was not met"):
        compress(checkpoint("sequence"), data("text"), **asked)
    before = {path.name: path.read_bytes() for path in (tmp_path / "slim-unmet").iterdir() if path.is_file()}
    with pytest.raises(ParameterError, match="slim-unmet"):
        compress(tmp_path / "slim-unmet", data("text"), **asked)
    assert {path.name: path.read_bytes() for path in (tmp_path / "slim-unmet").iterdir() if path.is_file()} == before
    # Elsewhere it goes on from there.
    with lines.quick():
        on = compress(tmp_path / "slim-unmet", data("text"), keep="90% params", recover="none", dtype="fp32", out=tmp_path / "on")
    assert on.report.slim.params_layers < on.report.dense.params_layers


def test_a_search_that_finds_nothing_keeps_the_nearest(tmp_path: Path) -> None:
    with lines.quick(), pytest.raises(BudgetError, match=r"cannot be met by a smaller model; .* The plan of what was reached is in"):
        compress(checkpoint("sequence"), data("text"), max_drop="0%", recover="none", out=tmp_path / "slim")
    assert sorted(path.name for path in (tmp_path / "slim-unmet").iterdir()) == ["manifest.json", "plan.json"]
    plan = Plan.load(tmp_path / "slim-unmet" / "plan.json")
    assert plan.heads or plan.ffn
