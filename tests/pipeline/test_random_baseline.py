"""A structure that was named, or given by a plan, beside as much that is drawn at random."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prunekit.arch.view import ModelView
from prunekit.pipeline import models
from prunekit.pipeline.compress import compress
from prunekit.pipeline.random_baseline import drawn_plan
from prunekit.pipeline.result import Result
from prunekit.plan import Plan, kept_blocks
from prunekit.recipe import Recipe
from prunekit.transforms.apply import apply, completed
from tests import lines
from tests.lines import checkpoint, data, dense
from tests.models import build


def drawn(given: Plan, model: Any, draw: int = 0, **recipe: Any) -> Plan | None:
    """What is drawn beside a plan for a model, with nothing but what decides it."""
    view = ModelView.of(model)
    run: Any = SimpleNamespace(recipe=Recipe(**{"plan": "plan.json", **recipe}), inputs=SimpleNamespace(view=view))
    decided: Any = SimpleNamespace(plan=completed(view, given))
    return drawn_plan(run, decided, draw)


def test_blocks_that_training_freezes_by_number_are_not_drawn_again() -> None:
    plan = Plan(source=ModelView.of(dense("sequence")).source, layers=(0, 2))
    assert drawn(plan, dense("sequence")) is not None
    assert drawn(plan, dense("sequence"), freeze="layers:2") is None


def widths(plan: Plan) -> list[list[int]]:
    """Heads and FFN neurons of the blocks kept, from few to many; an affine map counts as none."""
    blocks = kept_blocks(plan)
    heads = sorted(len(plan.heads.get(block, range(plan.source.heads))) for block in blocks)
    ffn = sorted(-1 if block in (plan.affine or ()) else len(plan.ffn.get(block, range(plan.source.ffn))) for block in blocks)
    return [heads, ffn]


@pytest.mark.parametrize(
    "named",
    [
        {"layers": (0, 2)},
        {"ffn": {1: ()}},
        {"heads": {0: ()}, "affine": (2,)},
        {"layers": (0, 1), "heads": {0: (1, 2), 1: (0,)}, "ffn": {1: (0, 5, 9)}, "vocabulary": tuple(range(40))},
    ],
)
def test_as_much_is_drawn_and_the_model_is_as_large(named: dict[str, Any]) -> None:
    model = dense("sequence")
    source = ModelView.of(model).source
    plan = completed(ModelView.of(model), Plan(source=source, **named))
    found = [drawn(plan, model, draw, seed=seed) for draw in range(3) for seed in range(4)]
    for other in found:
        assert other is not None
        assert widths(other) == widths(plan)
        assert (other.layers, other.heads, other.ffn, other.affine) != (plan.layers, plan.heads, plan.ffn, plan.affine)
        structure = plan.model_copy(update={"vocabulary": None})
        sizes = [sum(each.numel() for each in apply(model, made).parameters()) for made in (structure, other)]
        assert sizes[0] == sizes[1]
    assert len({other.digest for other in found if other is not None}) > 1
    assert found[0] == drawn(plan, model, 0, seed=0)


def test_nothing_is_drawn_where_nothing_can_differ_or_more_was_chosen() -> None:
    model = dense("sequence")
    source = ModelView.of(model).source
    cut = Plan(source=source, layers=(0, 2))
    assert drawn(cut, model) is not None
    assert drawn(Plan(source=source), model) is None
    assert drawn(Plan(source=source, vocabulary=tuple(range(40))), model) is None
    assert drawn(cut.model_copy(update={"hidden": tuple(range(8))}), model) is None
    assert drawn(cut, model, plan=None, layers="0,2", keep="50% params") is None
    assert drawn(cut, model, plan=None, layers="0,2", max_drop="1%") is not None
    assert drawn(cut, model, plan=None, layers="0,2") is not None
    albert = build("albert", "ForSequenceClassification")
    source = ModelView.of(albert).source
    assert drawn(Plan(source=source, ffn={block: (0, 3) for block in range(source.layers)}), albert) is None


def made(tmp_path: Path, model: str = "sequence", rows: str = "text", **recipe: Any) -> Result:
    with lines.quick():
        return compress(checkpoint(model), data(rows), out=tmp_path / "slim", **{"recover": "none", "dtype": "fp32", **recipe})


def names(result: Result) -> set[str]:
    return {row.name for row in result.report.rows}


@pytest.mark.parametrize("recipe", [{"layers": "0,2"}, {"drop": ["ffn:1", "attention:2"]}])
def test_named_blocks_are_compared_with_as_many_at_random(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def kept(*given: Any) -> Plan | None:
        plans.append(drawn_plan(*given))  # type: ignore[arg-type]  # there is one
        return plans[-1]

    monkeypatch.setattr(models, "drawn_plan", kept)
    found = made(tmp_path, **recipe)
    assert names(found) >= {"dense", "slim", "random"}
    assert "magnitude" not in names(found)
    assert {pair.against for pair in found.report.paired if pair.by == "difference"} >= {"random"}
    assert "at random" in found.report.verdict
    # By hand: the same plan, refitted on the same rows, exported and scored.
    monkeypatch.undo()
    plans[0].save(tmp_path / "plan.json")
    again = made(tmp_path / "b", plan=tmp_path / "plan.json")
    (random,), (slim,) = ([row for row in each.report.rows if row.name == name] for each, name in ((found, "random"), (again, "slim")))
    assert random.value == slim.value


def test_a_plan_is_compared_with_units_at_random_and_says_so(tmp_path: Path) -> None:
    source = ModelView.of(dense("sequence")).source
    Plan(source=source, heads={0: (1,)}, ffn={1: tuple(range(8)), 2: (0, 3)}).save(tmp_path / "plan.json")
    found = made(tmp_path, plan=tmp_path / "plan.json")
    assert "random" in names(found)
    assert any("the plan was given" in note and "the random one is drawn" in note for note in found.report.notes)
    (tmp_path / "b").mkdir()
    Plan(source=source, vocabulary=tuple(range(len(lines.VOCABULARY)))).save(tmp_path / "b" / "plan.json")
    found = made(tmp_path / "b", plan=tmp_path / "b" / "plan.json")
    assert "random" not in names(found)
    assert any("there are no baselines of the same size" in note for note in found.report.notes)


def test_what_is_drawn_is_trained_where_that_is_asked_for(tmp_path: Path) -> None:
    found = made(tmp_path, layers="0,2", recover="1epochs", baselines=True)
    row = found.report.row("random")
    assert row is not None
    assert row.trained
    assert len(row.draws) == 3
    assert np.isfinite(row.draws).all()
    plain = made(tmp_path / "b", layers="0,2", recover="1epochs")
    assert any("random was not trained: it is compared" in note for note in plain.report.notes)
    assert {pair.name for pair in plain.report.paired if pair.against == "random" and pair.by == "difference"} == {"untrained"}
