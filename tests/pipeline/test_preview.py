"""--dry-run, and what is expected of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prunekit import cli
from prunekit.pipeline.compress import compress
from prunekit.pipeline.forecast import Speed, forecast
from prunekit.pipeline.inputs import load_inputs
from prunekit.plan import Plan, ReadoutPlan, Source
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from tests import lines
from tests.lines import checkpoint, data

PLAN = Plan(source=Source(model_type="bert", layers=3, hidden=16, heads=4, ffn=32, vocabulary=73), layers=(0, 1))


@pytest.mark.parametrize("command", ["compress", "plan", "apply", "apply without data"])
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [command.split()[0], str(checkpoint("sequence")), "--dry-run"]
    line += [] if command.endswith("without data") else ["--data", str(data("text"))]
    PLAN.model_copy(update={"source": source_of()}).save(tmp_path / "given.json")
    line += ["--plan", str(tmp_path / "given.json")] if command.startswith("apply") else ["--keep", "50% params"]
    monkeypatch.chdir(tmp_path)
    assert cli.main(line) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("nothing was written (--dry-run)\n")
    assert [path.name for path in tmp_path.iterdir()] == ["given.json"]
    if not command.endswith("without data"):
        assert "rows   300 of train, 60 of validation, 60 of test" in shown
        assert "task   text-classification, 2 classes, accuracy" in shown
        assert "GB of memory at the peak" in shown
    assert ("  shrink " in shown) == (command in ("compress", "plan"))
    assert ("  export " in shown) == (command in ("compress", "apply"))
    if command.startswith("apply"):
        assert "blocks: 2 of 3" in shown


def source_of() -> Source:
    return PLAN.source.model_copy(update={"vocabulary": len(lines.VOCABULARY)})


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["compress", str(checkpoint("sequence")), "--data", str(data("text")), "--dry-run"]
    assert cli.main([*line, "--keep", "0.01% params"]) == 1
    assert "cannot be met" in capsys.readouterr().err
    assert cli.main([*line, "--label", "stars"]) == 2
    assert cli.main([*line, "--verbose", "--quiet"]) == 2
    PLAN.model_copy(update={"source": source_of()}).save(tmp_path / "plan.json")
    for option in (["--max-drop", "1%"], ["--recover", "3epochs"], ["--freeze", "layers:0"]):
        assert cli.main(["apply", str(checkpoint("sequence")), "--plan", "plan.json", "--dry-run", *option]) == 2
        assert "left out without data" in capsys.readouterr().err
    (tmp_path / "prunekit-out").mkdir()
    (tmp_path / "prunekit-out" / "mine").touch()
    assert cli.main(line) == 2


@pytest.mark.parametrize(
    ("model", "rows", "recipe"),
    [
        ("sequence", "text", {"keep": "50%", "recover": "none"}),
        ("base", "topics", {"keep": "50%", "recover": "1epochs"}),
        ("sequence", "text", {"keep": "50% params", "dtype": "int8", "recover": "none"}),
        ("sequence", "text", {"layers": "0-1", "recover": "none"}),
    ],
    ids=str,
)
def test_what_is_expected_is_what_is_entered_in_this_order(
    model: str, rows: str, recipe: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = list[str]()
    call = Stages.__call__

    def note(stage: Stages, name: str, unit: str = "") -> object:
        if not stage._depth:
            entered.append(name)
        return call(stage, name, unit)

    asked = Recipe(model=str(checkpoint(model)), data=str(data(rows)), **recipe)
    inputs = load_inputs(asked, None, Stages())
    names = [each.name for each in forecast(asked, inputs, None, Speed(1e-6, 1.0)).stages]
    monkeypatch.setattr(Stages, "__call__", note)
    with lines.quick():
        compress(checkpoint(model), data(rows), out=tmp_path / "slim", **recipe)
    entered = [name for name in entered if name not in ("load", "answer", "embed", "check labels")]
    expected = iter(names)
    assert all(name in expected for name in entered), (entered, names)
    # What a readout leaves to be shrunk is not known before.
    assert model == "base" or entered == names


def test_more_words_take_longer_to_choose_neurons_for() -> None:
    asked = Recipe(model=str(checkpoint("base")), data=str(data("tokens")), keep=("20% neurons",), recover="none")
    inputs = load_inputs(asked, None, Stages())
    few = replace(inputs, encoded={**inputs.encoded, "train": inputs.encoded["train"].take(np.arange(30))})
    some, all_words = (
        {each.name: each.seconds for each in forecast(asked, given, None, Speed(1e-6, 1.0)).stages}["select neurons"]
        for given in (few, inputs)
    )
    assert all_words > 2 * some


def test_a_plans_classifier_and_its_oracle_take_the_time_of_the_neurons_that_they_read() -> None:
    asked = Recipe(model=str(checkpoint("base")), data=str(data("topics")), recover="none")
    inputs = load_inputs(asked, None, Stages())
    source = inputs.view.source
    fits, oracles = [], []
    for width in (1, source.hidden):
        readout = ReadoutPlan(pooling="mean", neurons={source.layers: tuple(range(width))})
        seconds = {
            each.name: each.seconds for each in forecast(asked, inputs, Plan(source=source, readout=readout), Speed(1e-6, 1.0)).stages
        }
        fits.append(seconds["fit"])
        oracles.append(seconds["oracle"])
    assert fits[0] < fits[1] < oracles[1] == oracles[0]


def test_a_machine_twice_as_slow_takes_twice_as_long_but_for_what_is_bounded() -> None:
    asked = Recipe(model=str(checkpoint("sequence")), data=str(data("text")), recover="1epochs")
    inputs = load_inputs(asked, None, Stages())
    fast, slow = (forecast(asked, inputs, None, Speed(token * 1e-6, token)).stages for token in (1, 2))
    for one, two in zip(fast, slow, strict=True):
        assert two.seconds == pytest.approx(one.seconds if one.bounded else 2 * one.seconds)
    assert sum(each.seconds for each in fast) > 0


def test_a_time_that_holds_few_steps_is_said_to_do_so_before_the_run() -> None:
    asked = Recipe(model=str(checkpoint("sequence")), data=str(data("text")), keep=("50% params",), recover="90s")
    inputs = load_inputs(asked, None, Stages())
    step = 2.5 * inputs.encoded["train"].lengths.sum() / (len(inputs.encoded["train"]) / 32)
    (few,) = forecast(asked, inputs, None, Speed(8.0 / step, 1.0)).notes
    assert few.startswith("about 9 steps of training fit into 1.5 min at 8 s a step, and regain little: give --recover 4min, or")
    (none,) = forecast(asked, inputs, None, Speed(80.0 / step, 1.0)).notes
    assert none.startswith("hardly a step of training fits into 1.5 min at 80 s a step, and regain little: give --recover 34min, or")
    for changes in ({"recover": "3epochs"}, {"recover": "none"}):
        assert not forecast(asked.model_copy(update=changes), inputs, None, Speed(8.0 / step, 1.0)).notes
    assert not forecast(asked, inputs, None, Speed(3.0 / step, 1.0)).notes
    assert not forecast(asked, inputs, None, Speed(8.0 / step, 1.0), chooses=True).notes
