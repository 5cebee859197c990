"""Sub-blocks that are named to go before anything is chosen, through the whole line on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import prunekit
from prunekit.errors import ParameterError
from prunekit.pipeline.compress import compress, make_plan
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from tests import lines
from tests.lines import checkpoint, data


def made(tmp_path: Path, model: str, rows: str, **recipe: Any) -> Any:
    with lines.quick():
        return compress(checkpoint(model), data(rows), out=tmp_path / "slim", recover="none", dtype="fp32", **recipe)


def same_model(tmp_path: Path, found: Any) -> None:
    """What is loaded is what was made, and as the plan has it."""
    loaded = prunekit.load(tmp_path / "slim")
    weights = found.model.state_dict()
    assert {name: tensor.shape for name, tensor in loaded.state_dict().items()} == {name: w.shape for name, w in weights.items()}
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])


def test_ffn_blocks_alone_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    found = made(tmp_path, "sequence", "text", drop=["ffn:1-2"])
    assert found.plan.ffn == {1: (), 2: ()}
    assert not found.plan.heads
    assert found.plan.layers is None
    assert "drop" in (tmp_path / "slim" / "recipe.yaml").read_text()
    assert Recipe.load(tmp_path / "slim" / "recipe.yaml").drop == ("ffn:1-2",)
    same_model(tmp_path, found)


def test_a_map_takes_their_place_and_more_goes_under_a_budget(tmp_path: Path) -> None:
    found = made(tmp_path, "sequence", "text", drop="ffn:2", affine=True, keep="50% params")
    assert found.plan.affine == (2,)
    assert 2 not in found.plan.ffn
    assert found.report.slim.params_layers <= 0.5 * found.report.dense.params_layers
    assert {"random", "magnitude"} <= {row.name for row in found.report.rows}
    same_model(tmp_path, found)


def test_a_budget_that_what_is_named_meets_has_no_baselines(tmp_path: Path) -> None:
    found = made(tmp_path, "sequence", "text", drop="ffn:1-2", keep="90% params")
    assert found.plan.ffn == {1: (), 2: ()}
    assert not {"random", "magnitude"} & {row.name for row in found.report.rows}
    assert "random" not in found.report.verdict


def test_a_frontier_goes_on_from_what_is_named(tmp_path: Path) -> None:
    found = made(tmp_path, "sequence", "text", frontier=True, layers="0-1", drop="ffn:1")
    assert len(found.report.frontier) > 1
    for point in found.report.frontier[1:]:
        plan = Plan.load(tmp_path / "slim" / "frontier" / f"{point.name}.json")
        assert plan.layers == found.plan.layers
        assert plan.ffn[1] == ()
    same_model(tmp_path, found)


def test_attention_goes_below_a_readout_and_beside_blocks(tmp_path: Path) -> None:
    found = made(tmp_path, "base", "topics", layers="0,2", drop=["attention:2", "ffn:0"], keep=["60% neurons", "40% params"])
    assert found.plan.layers == (0, 2)
    assert found.plan.heads[2] == ()
    assert found.plan.ffn[0] == ()
    assert found.plan.readout is not None
    same_model(tmp_path, found)


def test_time_is_told_by_a_table_of_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    with lines.quick():
        plan = make_plan(checkpoint("sequence"), data("text"), drop="ffn:0", keep="80% latency")
    assert plan.ffn[0] == ()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"drop": "ffn"}, r"'drop' parameter of compress must be FFN or attention blocks"),
        ({"drop": "layers:1"}, r"'drop' parameter of compress must be FFN or attention blocks"),
        ({"drop": ["ffn:1", "ffn:2"]}, r"'drop' parameter of compress must be FFN or attention blocks"),
        ({"drop": "ffn:2,1"}, r"'drop' parameter of compress must be FFN or attention blocks"),
        ({"drop": 3}, r"'drop' parameter of compress must be FFN or attention blocks"),
        ({"drop": "attention:1", "affine": True}, r"'affine' parameter of compress must be left out where no FFN block is dropped"),
        ({"drop": "ffn:1", "uniform": True, "keep": "50% params"}, r"'uniform' parameter of compress must be left out"),
        ({"drop": "ffn:1", "plan": "plan.json"}, r"'drop' parameter of compress must be left out where a plan is given"),
    ],
)
def test_what_cannot_be_dropped_is_said_at_once(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Recipe(**recipe)


def test_only_blocks_that_are_kept_have_something_to_drop(tmp_path: Path) -> None:
    for recipe in ({"drop": "ffn:3"}, {"drop": "ffn:1", "layers": "0,2"}):
        with pytest.raises(ParameterError, match=r"'drop' parameter of compress must be sub-blocks of the blocks kept"):
            compress(checkpoint("sequence"), data("text"), out=tmp_path / "slim", **recipe)
    assert not (tmp_path / "slim").exists()
