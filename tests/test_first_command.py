"""A bare percentage is of the model: what it bounds, what it is spent on, and that what is left is trained."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from prunekit.budget import Effort, Unit
from prunekit.pipeline import neurons
from prunekit.pipeline.compress import Result, compress
from prunekit.pipeline.records import Inputs
from prunekit.pipeline.recovery import LABEL_PASSES, LABEL_ROWS, bounded, effort_of
from prunekit.recipe import Recipe
from tests import lines
from tests.lines import checkpoint, data, save


def made(model: Path, rows: str, tmp_path: Path, **recipe: Any) -> Result:
    with lines.quick():
        return compress(model, data(rows), out=tmp_path / "slim", **recipe)


def test_a_model_without_a_head_keeps_a_share_of_its_layers_and_reads_a_share_of_its_neurons(tmp_path: Path) -> None:
    found = made(checkpoint("base"), "topics", tmp_path, keep="30%", recover="2epochs", dtype="fp32")
    dense, slim = found.report.dense, found.report.slim
    assert found.plan.readout is not None
    assert found.plan.readout.size <= 0.3 * dense.neurons
    assert slim.params_layers <= 0.3 * dense.params_layers
    (budget,) = found.report.budgets
    assert (budget.unit, budget.asked, budget.met) == (Unit.MODEL, "30%", True)
    assert budget.reached == max(slim.neurons / dense.neurons, slim.params_layers / dense.params_layers)
    assert any(note.startswith("recovered by training on the labels, 2 epochs at most") for note in found.report.notes)


def test_a_fine_tuned_model_keeps_its_head_and_is_distilled_by_default(tmp_path: Path) -> None:
    found = made(checkpoint("sequence"), "text", tmp_path, keep="40%")
    dense, slim = found.report.dense, found.report.slim
    assert found.plan.readout is None
    assert slim.params_layers <= 0.4 * dense.params_layers
    assert found.report.budgets[0].reached == slim.params_layers / dense.params_layers
    assert any(note.endswith("the model keeps its head") for note in found.report.notes)
    assert any(note.startswith("recovered by distillation from the dense model, 5 min at most") for note in found.report.notes)


def test_a_readout_takes_the_place_of_a_head_that_is_worse(tmp_path: Path) -> None:
    model = copy.deepcopy(lines.dense("sequence"))
    with torch.no_grad():
        # It says the same of everything.
        model.classifier.weight.zero_()
    found = made(save(model, tmp_path / "model"), "text", tmp_path, keep="40%", recover="none", dtype="fp32")
    assert found.plan.readout is not None
    assert found.plan.readout.size <= 0.4 * found.report.dense.neurons
    assert any(note.endswith("the readout takes the head's place") for note in found.report.notes)
    scores = {row.name: row.value for row in found.report.rows}
    assert scores["slim"] > scores["dense"]


def test_a_head_keeps_its_place_where_a_readout_does_not_survive_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(lines.dense("sequence"))
    with torch.no_grad():
        # It says the same of everything, but for a little.
        model.classifier.weight.mul_(0.01)
        model.classifier.bias.copy_(torch.tensor([1.0, -1.0]))
    against, seen = neurons._against_head, []

    def lost(run: Any, validation: Any, ids: Any, probe: Any) -> Any:
        found = against(run, validation, ids, probe)
        seen.append(found)
        return found if len(seen) == 1 else replace(found, slim=found.dense - 0.01, upper=0.02)

    monkeypatch.setattr(neurons, "_against_head", lost)
    found = made(save(model, tmp_path / "model"), "text", tmp_path, keep="40%", recover="none", dtype="fp32")
    assert len(seen) == 2
    assert found.plan.readout is None
    assert found.report.slim.params_layers <= 0.4 * found.report.dense.params_layers
    first, second = [note for note in found.report.notes if "head" in note and note.startswith("on ")]
    assert first.endswith("the readout takes the head's place")
    assert second.endswith("is not better: the model keeps its head")
    assert not {"oracle"} & {row.name for row in found.report.rows}


def test_train_is_read_once_where_the_slim_model_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunekit.pipeline.models.CHOICE_ROWS", 50)
    read, collect = [], neurons._collect

    def counted(run: Any, view: Any, split: str, rows: Any = None) -> Any:
        if split == "train":
            read.append(len(run.inputs.encoded["train"] if rows is None else rows))
        return collect(run, view, split, rows)

    monkeypatch.setattr(neurons, "_collect", counted)
    asked: dict[str, Any] = {"keep": ["40% neurons", "60% params"], "pooling": "mean", "recover": "1epochs", "dtype": "fp32"}
    made(checkpoint("sequence"), "text", tmp_path, **asked)
    # All of it by the dense model, and a sample by the slim one and by the baselines.
    assert read == [lines.ROWS["train"], 50, 50, 50]


def test_what_has_lost_no_layers_is_not_trained_by_default() -> None:
    kept = lines.line("base")
    recipe = Recipe(keep="20% neurons")
    assert effort_of(recipe, kept.plan.model_copy(update={"layers": None})) is None
    assert effort_of(recipe.replace(keep="20%"), kept.plan) is not None
    assert effort_of(recipe.replace(recover="1epochs"), kept.plan) is not None
    assert effort_of(recipe.replace(keep="20%", recover="none"), kept.plan) is None
    assert effort_of(recipe, lines.line("sequence").plan) is not None


def test_labels_alone_are_worth_few_passes() -> None:
    auto, asked = Effort.parse("auto"), Effort.parse("10min")

    def passes(effort: Effort, rows: int, own_head: bool) -> float | None:
        inputs = SimpleNamespace(encoded={"train": range(rows)}, own_head=own_head)
        return bounded(effort, cast(Inputs, inputs)).passes

    assert passes(auto, 10**6, False) == LABEL_PASSES
    assert passes(auto, LABEL_ROWS // 10, False) == 10
    assert passes(auto, 10, False) == passes(auto, 10**6, True) == auto.passes
    assert passes(asked, 10**6, False) is None
