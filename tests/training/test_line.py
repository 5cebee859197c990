"""Recovery as a part of the whole line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunekit.arch.view import ModelView
from prunekit.errors import ParameterError
from prunekit.pipeline.compress import compress
from prunekit.pipeline.recovery import checkpoint_place
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.training.loop import Distiller
from tests import lines


def save_plan(folder: Path) -> Path:
    """The top block and the FFN of another one are dropped."""
    source = ModelView.of(lines.dense("sequence")).source
    path = folder / "some.json"
    Plan(source=source, layers=(0, 1), ffn={0: ()}).save(path)
    return path


class _Killed(BaseException):
    pass


@pytest.mark.needs("onnxruntime")
def test_dropped_blocks_and_ffns_are_trained_by_one_recipe_that_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = save_plan(tmp_path)
    recipe: dict[str, Any] = {"plan": str(plan), "recover": "4epochs", "freeze": "layers:0", "seed": 3}
    out = tmp_path / "slim"
    steps: list[int] = []
    loss = Distiller.compute_loss

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 6:
            raise _Killed
        return loss(self, *args, **kwargs)

    monkeypatch.setattr(Distiller, "compute_loss", counting)
    with lines.quick():
        with pytest.raises(_Killed) as killed:
            compress(lines.checkpoint("sequence"), lines.data("text"), out=out, **recipe)
        assert killed.value.__notes__ == ["the same command again goes on from the last checkpoint of the training"]
        assert [path.name[:14] for path in tmp_path.iterdir() if path.is_dir()] == [".slim.recover-"]
        found = compress(lines.checkpoint("sequence"), lines.data("text"), out=out, **recipe)
    # Stops are at every second of 20 steps.
    assert steps[:8] == [0, 1, 2, 3, 4, 5, 4, 5]
    # Nothing but the artefact is left, and it is measured as always.
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["slim"]
    assert any(note.startswith("recovered by distillation from the dense model, 4 epochs at most: ") for note in found.report.notes)
    assert found.plan.layers == (0, 1)
    assert found.plan.ffn == {0: ()}
    assert found.report.row("slim") is not None
    assert Recipe.load(out / "recipe.yaml").recover == "4epochs"


def test_another_run_has_another_place_and_what_training_does_not_depend_on_has_none(tmp_path: Path) -> None:
    plan = Plan.load(save_plan(tmp_path))
    recipe = Recipe(keep="40% params", recover="3epochs")
    place = checkpoint_place(recipe, plan, tmp_path / "slim")
    assert place.parent == tmp_path
    assert checkpoint_place(recipe.replace(threads=2), plan, tmp_path / "slim") == place
    # Rows that hold a largest drop are set aside from those that training is judged by.
    for other in (recipe.replace(recover="4epochs"), recipe.replace(seed=1), recipe.replace(max_drop="2%")):
        assert checkpoint_place(other, plan, tmp_path / "slim") != place


def test_mistakes_are_found_before_anything_is_loaded(tmp_path: Path) -> None:
    plan = save_plan(tmp_path)
    with pytest.raises(ParameterError, match="The 'recover' parameter of compress must be left out without data to train on"):
        compress(lines.checkpoint("sequence"), None, out=tmp_path / "slim", plan=str(plan), recover="1min")
    with pytest.raises(
        ParameterError, match=r"The 'recover' parameter of compress must be .auto., or a time or a number of epochs above 0"
    ):
        Recipe(recover="0min")
    with pytest.raises(ParameterError, match="The 'recover' parameter of compress must be text"):
        Recipe(recover=10)
    with pytest.raises(ParameterError, match="The 'freeze' parameter of compress must be left out where nothing is trained"):
        Recipe(freeze="layers:0", recover="none")
