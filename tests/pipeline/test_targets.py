from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunekit.arch.view import ModelView
from prunekit.errors import BudgetError
from prunekit.exporters.onnx import OnnxFile, export_onnx
from prunekit.pipeline import targets
from prunekit.pipeline.compress import compress
from prunekit.pipeline.dense import dense_file
from prunekit.pipeline.inputs import load_inputs
from prunekit.pipeline.latency_table import CACHE
from prunekit.pipeline.records import Run
from prunekit.pipeline.targets import Verify
from prunekit.pruning.costs import Goal, Latency, head_width
from prunekit.pruning.latency_model import LatencyTable, Prices
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.timing import latency_of_files
from tests.lines import checkpoint, data, quick
from tests.models import build

TABLE = LatencyTable(1, 0.2, Prices(0.02, 0.01, 0.02, 0.004), Prices(0.02, 0.01, 0.02, 0.004))


def checked(monkeypatch: pytest.MonkeyPatch, measured: list[float]) -> tuple[Verify, ModelView, float]:
    """A check whose measurements are given, as shares of a goal that the table says is met exactly, the model, and the goal's limit."""
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    cost = Latency(TABLE, head_width(view))
    full = cost.of(view)
    given = iter(measured)
    monkeypatch.setattr(targets, "export_onnx", lambda *_, **__: SimpleNamespace(path=Path("slim.onnx"), bytes=1))
    monkeypatch.setattr(targets, "space_of", lambda *_: None)
    monkeypatch.setattr(Verify, "_shares", lambda *_: {1: next(given) * full})
    inputs: Any = SimpleNamespace(view=view, loaded=SimpleNamespace(config=None, tokenizer=None))
    run = Run(Recipe(speedup="2x"), inputs, Path(), Stages())
    return Verify(run, None, (Goal(cost, full, 1.0, "--speedup 2x"),)), view, full


def verified(monkeypatch: pytest.MonkeyPatch, measured: list[float]) -> list[float | None]:
    """The limits that a check asks for, as shares of the goal's; None: it will do."""
    check, view, full = checked(monkeypatch, measured)
    found = []
    for _ in measured:
        wanted = check(view)
        found.append(None if wanted is None else wanted[0].limit / full)
    return found


def test_a_time_as_predicted_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(monkeypatch, [1.0]) == [None]
    assert verified(monkeypatch, [0.98]) == [None]


def test_a_table_that_is_off_is_corrected_by_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(monkeypatch, [1.25, 1.0]) == [pytest.approx(0.8), None]
    # What was cut too much is given back, once.
    assert verified(monkeypatch, [0.9, 0.9]) == [pytest.approx(1 / 0.9), None]


def test_a_busy_machine_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = verified(monkeypatch, [0.2]), verified(monkeypatch, [5.0] * 6)
    assert low == [pytest.approx(1 / 0.85)]
    assert high == [pytest.approx(1 / 1.3)] * 4 + [None] * 2


class Work:
    """A model that is cut, and the limits to which."""

    def __init__(self, view: ModelView) -> None:
        self.view, self.limits = view, list[float]()

    def step(self, wanted: Any) -> None:
        self.limits.append(wanted[0].limit)


@pytest.mark.parametrize(("measured", "limits"), [([1.0], []), ([1.02], []), ([1.1, 1.0], [1 / 1.1]), ([1.1, 1.1, 1.1], [1 / 1.1] * 2)])
def test_what_a_second_measurement_finds_too_slow_is_cut_further(
    measured: list[float], limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    check, view, full = checked(monkeypatch, measured)
    work: Any = Work(view)
    check.settle(work)
    assert [limit / full for limit in work.limits] == pytest.approx(limits)


@pytest.mark.needs("onnxruntime")
def test_shares_are_measured_at_each_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        targets, "latency_of_files", lambda *files, **named: latency_of_files(*files, **{**named, "min_rounds": 2, "max_seconds": 0.0})
    )
    recipe = Recipe(model=str(checkpoint("sequence")), data=str(data("text")), speedup="2x", batch=4)
    inputs = load_inputs(recipe, None, Stages())
    run = Run(recipe, inputs, tmp_path, Stages())
    check = Verify(run, None, (), 0.0)
    space = targets.space_of(inputs.loaded.config, inputs.loaded.tokenizer)
    found = check._shares(export_onnx(inputs.view.model, tmp_path / "slim.onnx", inputs=inputs.view.inputs, space=space).path)
    assert found.keys() == {1, 4}
    assert all(share > 0 for share in found.values())
    assert dense_file(run, None).path == tmp_path / "dense.onnx"


@pytest.mark.needs("onnxruntime")
def test_the_dense_file_is_exported_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    exported: list[str] = []

    def export(model: Any, path: Path, **named: Any) -> OnnxFile:
        exported.append(Path(path).name)
        return export_onnx(model, path, **named)

    for module in ("dense", "evaluate", "latency_table", "max_drop", "targets"):
        monkeypatch.setattr(f"prunekit.pipeline.{module}.export_onnx", export)
    # Both budgets need the dense file before anything is cut, and the largest drop, the frontier and the report after it.
    recipe: dict[str, Any] = {"keep": ("90% latency", "1 GB"), "max_drop": "99%", "frontier": True, "recover": "none", "dtype": "fp32"}
    # All files are exported before the budget of time is checked, which may or may not be met.
    with quick(), suppress(BudgetError):
        compress(checkpoint("sequence"), data("text"), out=tmp_path / "out", **recipe)
    assert len(exported) > 4
    assert [name for name in exported if "dense" in name] == ["dense.onnx"]
