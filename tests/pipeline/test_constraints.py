"""Constraints through the whole line, on a tiny model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prunekit
from prunekit.arch.count import count
from prunekit.budget import Budget, Unit
from prunekit.errors import BudgetError, StatisticsError
from prunekit.pipeline import targets
from prunekit.pipeline.compress import compress
from prunekit.pipeline.drop import Drop
from prunekit.pipeline.file_size import bounded_dtype
from prunekit.pipeline.inputs import load_inputs
from prunekit.pipeline.latency_table import CACHE
from prunekit.pipeline.max_drop import Evaluator
from prunekit.plan import Plan
from prunekit.pruning.latency_model import LatencyTable, Prices
from prunekit.recipe import Recipe
from prunekit.recipe.signatures import options
from prunekit.report import words
from prunekit.report.progress import Stages
from prunekit.runtime.records import Timing
from tests import lines
from tests.lines import checkpoint, data

_PRICES = Prices(0.03, 0.04, 0.03, 0.003)
#: Neither trained nor lowered.
PLAIN: dict[str, Any] = {"recover": "none", "dtype": "fp32"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    # What is chosen does not hang on how busy the machine is.
    monkeypatch.setattr(targets, "latency_table", lambda timed, batch, **_: LatencyTable(batch, 0.05, _PRICES, _PRICES))


def test_a_file_size_is_chosen_by(tmp_path: Path) -> None:
    dense = lines.line("sequence").report.dense
    wanted = dense.bytes - 4 * dense.params_layers // 2
    with lines.quick():
        found = compress(checkpoint("sequence"), data("text"), keep=f"{wanted} B", recover="none", out=tmp_path / "slim")
    size = (tmp_path / "slim" / "onnx" / "model.onnx").stat().st_size
    # Half of the layers' weights go, and no more than the file needs.
    assert wanted - 12_000 <= size <= wanted
    assert 0.3 < found.report.slim.params_layers / dense.params_layers <= 0.5
    (budget,) = found.report.budgets
    assert (budget.unit, budget.met) == (Unit.BYTES, True)
    assert {"random", "magnitude"} <= {row.name for row in found.report.rows}


def test_a_time_in_milliseconds_is_chosen_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 50 ms are half of the dense file's time.
    monkeypatch.setattr(targets, "_dense_p95", lambda *_: 0.1)
    monkeypatch.setattr(Timing, "p95_ms", 40.0)
    with lines.quick():
        found = compress(checkpoint("sequence"), data("text"), p95="50ms", **PLAIN, out=tmp_path / "slim").report
        loose = compress(checkpoint("sequence"), data("text"), p95="1s", **PLAIN, out=tmp_path / "loose").report
        with pytest.raises(BudgetError, match=r"--p95 0.1ms, where the dense file takes 100 ms, cannot be met by removing"):
            compress(checkpoint("sequence"), data("text"), p95="0.1ms", **PLAIN, out=tmp_path / "tight")
    assert found.slim.params_layers < 0.6 * found.dense.params_layers
    assert loose.slim.params_layers == loose.dense.params_layers
    (budget,) = found.budgets
    assert (budget.unit, budget.limit, budget.met) == (Unit.P95, 0.05, True)
    assert budget.reached == 0.04
    assert "asked for at most 50ms at the 95th percentile" in words.headline(found)
    assert ("time of one row, 95th percentile", "≤ 50.0 ms") in {row[:2] for row in words.budgets(found).rows}


@pytest.mark.parametrize("dtype", ["int8", "int8-static"])
def test_a_file_size_that_fp32_cannot_meet_bounds_the_file_in_int8(dtype: str, tmp_path: Path) -> None:
    model = copy.deepcopy(lines.dense("sequence"))
    model.resize_token_embeddings(4_000, mean_resizing=False)
    place = lines.save(model, tmp_path / "wide")
    with lines.quick():
        whole = compress(place, data("text"), keep="1 GB", dtype=dtype, recover="none", out=tmp_path / "whole").report
        table = whole.dense_low.bytes - whole.dense.params_layers
        wanted = int(table + 0.6 * whole.dense.params_layers)
        found = compress(place, data("text"), keep=f"{wanted} B", dtype=dtype, recover="none", out=tmp_path / "slim").report
    plain, low = found.files
    assert low.bytes <= wanted < 4 * 4_000 * model.config.hidden_size < plain.bytes
    assert 0.3 < found.slim.params_layers / found.dense.params_layers < 0.7
    assert [(budget.dtype, budget.met, budget.reached) for budget in found.budgets] == [(dtype, True, low.bytes)]
    assert f"in {dtype}, " in words.headline(found)
    assert any(f"bounds the file in {dtype}, since in fp32 it leaves less than a quarter of the layers" in note for note in found.notes)
    assert [(budget.dtype, budget.met) for budget in whole.budgets] == [("fp32", True)]
    with pytest.raises(
        BudgetError, match=r"embedding alone takes .* MB in fp32. Add --vocabulary data, or leave out --dtype fp32, so that"
    ):
        compress(place, data("text"), keep=f"{wanted} B", **PLAIN, out=tmp_path / "plain")


def test_a_largest_drop_alone_is_searched_for_and_a_frontier_beside_it(tmp_path: Path) -> None:
    with lines.quick():
        found = compress(checkpoint("sequence"), data("text"), max_drop="25%", frontier=True, **PLAIN, out=tmp_path / "slim")
    assert found.plan.heads or found.plan.ffn
    assert any(note.startswith("search: ") for note in found.report.notes)
    assert any("60 of validation choose and hold --max-drop (they are too few" in note for note in found.report.notes)
    assert any(note.startswith("largest drop: on 60 rows of validation slim loses ") for note in found.report.notes)
    report = found.report
    assert report.slim.params_layers < 0.9 * report.dense.params_layers
    assert report.frontier[0].name == "dense"
    for point in report.frontier[1:]:
        plan = Plan.load(tmp_path / "slim" / "frontier" / f"{point.name}.json")
        assert plan.heads or plan.ffn
        assert point.low <= point.speed <= point.high
    assert [point.params for point in report.frontier] == sorted((point.params for point in report.frontier), reverse=True)
    if len(report.frontier) > 1:
        assert "Frontier, validation split" in (tmp_path / "slim" / "report.md").read_text()
        assert "What else could be had" in (tmp_path / "slim" / "report.html").read_text()
    assert prunekit.load(tmp_path / "slim") is not None


def test_what_cannot_be_met_says_how_near_one_can_come(tmp_path: Path) -> None:
    with (
        lines.quick(),
        pytest.raises(BudgetError, match=r"--speedup 900x cannot be met by removing .*: with as few as may be, .*x as fast"),
    ):
        compress(checkpoint("sequence"), data("text"), speedup="900x", max_drop="0%", recover="none", out=tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


def test_a_budget_and_a_largest_drop_that_contradict_name_what_binds(tmp_path: Path) -> None:
    with (
        lines.quick(),
        pytest.raises(BudgetError, match=r"--max-drop 0.00% was not met: .* binds is --keep '10% params', which contradicts it here"),
    ):
        compress(checkpoint("sequence"), data("text"), keep=["10% params", "80% macs"], max_drop="0%", **PLAIN, out=tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


def more_rows(folder: Path) -> str:
    """The rows of "text" with ten times as many of validation."""
    topics = {name: (data("text") / f"{name}.jsonl").read_text() for name in ("train", "validation", "test")}
    folder.mkdir()
    for name, text in topics.items():
        (folder / f"{name}.jsonl").write_text(text)
    rows = lines.sentences(600, 77)
    labels = lines.answers(lines.dense("sequence"), rows).argmax(axis=1)
    lines.write_rows(
        folder, {"validation": [{"text": " ".join(row), "label": int(label)} for row, label in zip(rows, labels, strict=True)]}
    )
    return str(folder)


@pytest.mark.parametrize("recipe", [{"keep": "60% params", "dtype": "int8"}, {"dtype": "fp32", "recover": "1epochs"}])
def test_rows_that_hold_the_largest_drop_choose_nothing_else(tmp_path: Path, recipe: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"max_drop": "50%", "recover": "none", "out": tmp_path / "slim", **recipe}
    with lines.quick():
        found = compress(checkpoint("sequence"), more_rows(tmp_path / "rows"), **asked)
    said = [note for note in found.report.notes if note.startswith("largest drop: ")]
    assert said[0].startswith("largest drop: on 300 rows that chose nothing else slim loses ")
    assert any("300 of validation choose, 300 that were set aside from it hold --max-drop" in note for note in found.report.notes)
    assert len(said) == (2 if asked["dtype"] == "int8" else 1)


def test_a_search_is_said_not_to_have_seen_the_training_nor_the_precision(tmp_path: Path) -> None:
    with lines.quick():
        trained = compress(checkpoint("sequence"), data("text"), max_drop="25%", recover="1epochs", dtype="fp32", out=tmp_path / "trained")
        low = compress(checkpoint("sequence"), data("text"), keep="90 KB", dtype="int8", recover="none", out=tmp_path / "low")
    assert any("judged candidates before any training" in note for note in trained.report.notes)
    assert any("90 KB bounds the file in fp32" in note or "0.09 MB bounds the file in fp32" in note for note in low.report.notes)
    assert low.report.budgets[0].reached == low.report.files[0].bytes
    assert not any("in fp32" in note or "any training" in note for note in lines.line("sequence").report.notes)


@pytest.mark.parametrize(("pooling", "removable"), [("cls", True), ("mean", False)])
def test_a_frontier_starts_from_all_tokens(tmp_path: Path, pooling: str, removable: bool) -> None:
    """The tokens that stay have other ids in the slim model; the mean of the embeddings alone needs no block, and has no frontier."""
    splits = {name: lines.topic_rows(count, at, lines.WORDS[8:]) for at, (name, count) in enumerate(lines.ROWS.items())}
    rows = lines.write_rows(tmp_path / "rows", splits)
    wanted = {"keep": "50% neurons", "vocabulary": "data", "pooling": pooling}
    with lines.quick():
        found = compress(checkpoint("base"), rows, frontier=True, **PLAIN, out=tmp_path / "slim", **wanted)
    assert found.plan.vocabulary is not None
    assert max(found.plan.vocabulary) > len(found.plan.vocabulary)
    assert (len(found.report.frontier) > 1) is removable


def test_a_frontier_ends_where_a_point_cannot_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop, seen = Evaluator.drop, list[Path]()

    def some(evaluator: Evaluator, path: Path) -> Drop:
        seen.append(path)
        if len(seen) > 2:
            raise StatisticsError("60 of 60 rows of the outputs hold NaN.")
        return drop(evaluator, path)

    monkeypatch.setattr(Evaluator, "drop", some)
    with lines.quick():
        found = compress(checkpoint("sequence"), data("text"), keep="60% params", frontier=True, **PLAIN, out=tmp_path / "slim")
    assert [point.name for point in found.report.frontier] == ["dense", "latency-70"]
    assert [path.name for path in (tmp_path / "slim" / "frontier").iterdir()] == ["latency-70.json"]
    assert any(note.startswith("frontier: latency-50 and what is faster was left out: 60 of 60") for note in found.report.notes)


def test_the_plans_of_a_frontier_are_kept_where_a_budget_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def miss(*_: object) -> None:
        raise BudgetError("--keep 60% params was not met.")

    monkeypatch.setattr("prunekit.pipeline.compress.check_constraints", miss)
    with lines.quick(), pytest.raises(BudgetError, match="was not met"):
        compress(checkpoint("sequence"), data("text"), keep="60% params", frontier=True, **PLAIN, out=tmp_path / "slim")
    place = tmp_path / "slim-unmet"
    names = [point["name"] for point in json.loads((place / "report.json").read_text())["frontier"]][1:]
    assert names
    assert {path.stem for path in (place / "frontier").iterdir()} == set(names)
    assert Plan.load(place / "frontier" / f"{names[0]}.json").ffn


def test_a_model_that_was_trained_is_kept_where_a_budget_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def miss(*_: object) -> None:
        raise BudgetError("--speedup 9x was not met.")

    def full(*_: object) -> None:
        raise OSError("The disk is full.")

    asked: dict[str, Any] = {"keep": "60% params", "recover": "1epochs", "dtype": "fp32"}
    with lines.quick():
        met = compress(checkpoint("sequence"), data("text"), **asked, out=tmp_path / "met")
        monkeypatch.setattr("prunekit.pipeline.compress.check_constraints", miss)
        with pytest.raises(BudgetError, match=r"the trained model of what was reached .*prunekit export.* are in .*slim-unmet"):
            compress(checkpoint("sequence"), data("text"), **asked, out=tmp_path / "slim")
        assert not list(tmp_path.glob(".slim.recover-*"))
        # Where it cannot be kept, the same command goes on from the checkpoints.
        monkeypatch.setattr("prunekit.pipeline.compress.keep_reached", full)
        with pytest.raises(OSError, match="full"):
            compress(checkpoint("sequence"), data("text"), **asked, out=tmp_path / "slim")
        assert list(tmp_path.glob(".slim.recover-*"))
    kept = prunekit.load(tmp_path / "slim-unmet")
    for (name, one), other in zip(met.model.state_dict().items(), kept.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert (tmp_path / "slim-unmet" / "recipe.yaml").read_text() == (tmp_path / "met" / "recipe.yaml").read_text()
    done = prunekit.export(tmp_path / "slim-unmet", tmp_path / "files")
    assert (done.path / "onnx" / "model.onnx").is_file()


def test_bytes_are_of_the_file_in_fp32_where_that_keeps_a_quarter_of_the_layers() -> None:
    asked = Recipe(model=str(checkpoint("sequence")), data=str(data("text")), keep=("1 GB",))
    inputs = load_inputs(asked, None, Stages())
    counts = count(inputs.view, np.ones(1, dtype=np.int64))

    def bounded(share: float, **changes: Any) -> str:
        budget = Budget(Unit.BYTES, 4.0 * (counts.params - (1 - share) * counts.params_layers))
        return bounded_dtype(asked.model_copy(update=changes), inputs, budget)

    assert [bounded(share) for share in (0.2, 0.3)] == ["int8", "fp32"]
    assert bounded(0.2, dtype="fp32") == "fp32"
    # A plan is told so, too.
    assert "dtype" in options("plan")
