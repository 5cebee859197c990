"""Every mistake through the command line's own entry point: one line, its exit code, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import prunekit
from prunekit import cli
from prunekit.errors import ParameterError
from prunekit.exporters import artefact
from prunekit.pipeline import compress
from prunekit.plan import Plan
from tests import lines
from tests.lines import checkpoint, data, line

Change = Callable[[Path], None]


def complaint(capsys: pytest.CaptureFixture[str], arguments: list[str], out: Path, code: int = 2) -> str:
    """What the program says of a run that fails; nothing may be written beside what was there."""
    before = sorted(out.parent.rglob("*"))
    assert cli.main([*arguments, "-o", str(out), "--quiet"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", said.err), said.err
    assert sorted(out.parent.rglob("*")) == before
    return said.err


def rows_with(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """The topics, with some splits replaced."""
    found = {name: lines.topic_rows(20, at) for at, name in enumerate(lines.ROWS)}
    return lines.write_rows(folder, {**found, **splits})


def one_class(folder: Path) -> Path:
    return rows_with(folder, train=[{"text": "banal dunal", "label": "a"}] * 9)


def empty_rows(folder: Path) -> Path:
    return rows_with(folder, train=[*lines.topic_rows(20, 0), {"text": "  ", "label": "a"}])


def unseen_label(folder: Path) -> Path:
    return rows_with(folder, test=[{"text": "banal", "label": "c"}])


def no_label(folder: Path) -> Path:
    return rows_with(folder, train=[*lines.topic_rows(20, 0), {"text": "banal", "label": None}])


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (None, ["--data", "absent.csv"], "absent.csv"),
        (None, ["--text", "nope"], r"The 'text' parameter of load_data must be a column of the data \(text, label\). Got 'nope' instead"),
        (None, ["--label", "nope"], "'label' parameter"),
        (one_class, [], "The label column 'label' of train holds one value only, 'a'"),
        (empty_rows, [], "The column 'text' of train is empty in 1 row, first in row 21"),
        (no_label, [], "The column 'label' of train has no label in 1 row"),
        (unseen_label, [], "The label 'c' of test .* is in no row of train"),
        (None, ["--keep", "0%"], r"The 'keep' parameter of compress must be a percentage in \(0%, 100%\].* Got '0%' instead"),
        (None, ["--keep", "200%"], "Got '200%' instead"),
        (None, ["--keep", "ten"], "Got 'ten' instead"),
        (
            None,
            ["--keep", "0.1% neurons"],
            "The 'keep' parameter of compress must be at least 1 of the 64 neurons. Got '0.1% neurons' instead",
        ),
        (None, ["--layers", "2-5"], "The 'layers' parameter of compress must be of the model's blocks 0-2. Got '2-5' instead"),
        (None, ["--max-length", "4", "--pooling", "middle"], "The 'pooling' parameter of compress must be one of 'cls', 'mean', 'last'"),
        (None, ["--task", "token-classification"], "'tokens'|words"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else getattr(value, "__name__", ""),
)
def test_of_the_data_and_the_options(
    make: Callable[[Path], Path] | None, options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data("topics") if make is None else make(tmp_path / "rows")
    (tmp_path / "place").mkdir()
    given = ["compress", str(checkpoint("base")), "--data", str(rows), *options]
    assert re.search(says, complaint(capsys, given, tmp_path / "place" / "slim"))


def unsupported(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def not_finite(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unsupported, "of the type 't5', which prunekit does not know. It knows albert, bert"),
        (truncated, "cannot be loaded from safetensors"),
        (pickled, "has pickled weights only .* Convert them to safetensors"),
        (without_config, "has no config.json"),
        (not_finite, "NaN or infinity"),
        (shutil.rmtree, "is not a directory. Give a directory with config.json and model.safetensors, or a hub id"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_of_the_model(change: Change, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint("base"), model)
    change(model)
    (tmp_path / "place").mkdir()
    given = ["compress", str(model), "--data", str(data("topics"))]
    assert re.search(says, complaint(capsys, given, tmp_path / "place" / "slim"))


def ours() -> list[str]:
    return ["compress", str(checkpoint("base")), "--data", str(data("topics")), "--keep", "20% neurons"]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_of_an_output_that_is_somebody_elses(overwrite: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slim").mkdir()
    (tmp_path / "slim" / "thesis.txt").write_text("irreplaceable")
    said = complaint(capsys, [*ours(), *overwrite], tmp_path / "slim")
    assert "The 'out' parameter of compress must be a new or an empty directory" in said
    assert (tmp_path / "slim" / "thesis.txt").read_text() == "irreplaceable"


def test_of_an_output_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(line("base").path, tmp_path / "slim")
    assert "Add --overwrite" in complaint(capsys, ours(), tmp_path / "slim")
    # What is to be replaced stays as it was if the run fails.
    assert "'nope'" in complaint(capsys, [*ours(), "--overwrite", "--text", "nope"], tmp_path / "slim")
    assert Plan.load(tmp_path / "slim" / "plan.json") == line("base").plan


def test_of_an_output_without_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever runs the tests may have every permission.
    monkeypatch.setattr(artefact.os, "access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    assert "cannot be written: no permission in" in complaint(capsys, ours(), tmp_path / "slim")


def test_of_a_disk_that_turns_read_only(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    save = Plan.save

    def fails(self: Plan, path: str | Path) -> None:
        if "slim" in str(path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        save(self, path)

    monkeypatch.setattr(Plan, "save", fails)
    with lines.quick():
        assert "Read-only file system" in complaint(capsys, [*ours(), "--dtype", "fp32"], tmp_path / "slim")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--keep", "20%", "--keep", "1 KB"],
            "--keep '0.001 MB' cannot be met: the embedding alone takes 0.0",
        ),
        (["--keep", "1% params"], "--keep '1% params' cannot be met by removing heads and FFN neurons: with as few as may be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_what_cannot_be_met(options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lines.quick():
        given = ["compress", str(checkpoint("base")), "--data", str(data("topics")), *options]
        assert re.search(says, complaint(capsys, given, tmp_path / "slim", code=1))


def test_what_misses_the_largest_drop_keeps_its_plan_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compress", str(checkpoint("base")), "--data", str(data("topics")), "--keep", "2%", "--max-drop", "0%"]
    given += ["--recover", "none", "--dtype", "fp32"]
    with lines.quick():
        assert cli.main([*given, "-o", str(tmp_path / "slim"), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: --max-drop 0.00% was not met: on rows of validation the slim model loses [^\n]+\n", said), said
    assert [path.name for path in tmp_path.iterdir()] == ["slim-unmet"]
    assert {"plan.json", "report.json"} <= {path.name for path in (tmp_path / "slim-unmet").iterdir()}


def edited(text: str, **changes: Any) -> str:
    """A plan with some keys changed; those of `source` one by one."""
    fields = json.loads(text)
    if "digest" not in changes:
        fields.pop("digest")
    return json.dumps({**fields, **changes, "source": {**fields["source"], **changes.get("source", {})}})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hiden": "0"}, "is not a valid plan: hiden"),
        ({"source": {"vocabulary": 99}}, "The plan was made for a model with vocabulary = 99; this one has vocabulary = 73"),
        ({"source": {"model_type": "roberta"}}, "The plan was made for a model with model_type = roberta; this one has model_type = bert"),
        ({"version": 2}, "has version 2; this prunekit reads up to 1. Upgrade prunekit"),
        ({"source": {"ffn": 8}}, "index .* is out of range, the model has 8"),
        ({"layers": ""}, "layers: nothing is kept"),
        ({"layers": "0,3"}, "layers: index 3 is out of range, the model has 3"),
        ({"heads": {"0": "0-4"}}, "heads, block 0: index 4 is out of range, the model has 4"),
        ({"readout": {"pooling": "cls", "neurons": {"3": "0,0"}}}, "indices must increase strictly"),
        ({"readout": {"pooling": "cls", "neurons": {"9": "0"}}}, "out of range"),
        ({"readout": {"pooling": "cls", "neurons": {"3": ""}}}, "the readout keeps no neuron"),
        ({"readout": {"pooling": "token", "neurons": {"3": "0"}}}, "for the data's task. Got 'a plan whose readout reads words'"),
        ({"digest": "0" * 64}, "was edited: its digest is 000000000000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_of_a_plan(changes: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text(edited((line("sequence").path / "plan.json").read_text(), **changes))
    given = ["apply", str(checkpoint("sequence")), "--plan", str(tmp_path / "plan.json"), "--data", str(data("text"))]
    assert re.search(says, complaint(capsys, given, tmp_path / "slim"))


@pytest.mark.parametrize(
    ("model", "case", "options", "says"),
    [
        ("base", "base", [], "The 'data' parameter of apply must be given for a plan with a readout"),
        ("base", "sequence", [], "The 'data' parameter of apply must be given for a model without a head of its own"),
        ("sequence", "sequence", ["--max-drop", "1%"], "The 'max_drop' parameter of apply must be left out without data"),
        ("base", "sequence", ["--data", "topics"], "The 'plan' parameter of apply must be one with a readout"),
        ("base", "base", ["--data", "topics", "--pooling", "cls"], "The 'pooling' parameter of apply must be 'mean', as the plan has it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.partition(" ")[0],
)
def test_of_a_plan_and_what_it_needs(
    model: str, case: str, options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(data(option)) if option == "topics" else option for option in options]
    given = ["apply", str(checkpoint(model)), "--plan", str(line(case).path / "plan.json"), *options]
    assert says in complaint(capsys, given, tmp_path / "slim")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("compress", ["--max-length", "9999"]),
        ("plan", ["--max-length", "9999"]),
        ("apply", ["--max-length", "9999"]),
        ("apply", ["--prompt", "query"]),
        ("analyze", ["--max-length", "9999"]),
        ("analyze", ["--pooling", "max"]),
        ("collect", ["--pooling", "max"]),
    ],
)
def test_an_error_names_the_command(command: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["--plan", str(line("base").path / "plan.json")] if command == "apply" else []
    given = [command, str(checkpoint("base")), "--data", str(data("topics")), *plan, *options]
    assert f" parameter of {command} must be " in complaint(capsys, given, tmp_path / "out")


def test_an_error_names_the_function() -> None:
    plan = line("base").path / "plan.json"
    calls = {"plan": prunekit.make_plan, "analyze": prunekit.analyze, "compress": partial(prunekit.compress, plan=plan)}
    for name, function in calls.items():
        with pytest.raises(ParameterError, match=f"The 'pooling' parameter of {name} must be given for an embedder only"):
            function(checkpoint("base"), data("topics"), pooling="max")


def test_of_a_plan_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["apply", str(checkpoint("base")), "--plan", "absent.json", "--data", str(data("topics"))]
    assert "The plan 'absent.json' cannot be read" in complaint(capsys, given, tmp_path / "slim")
    assert "Got 'no/such/plan.json' instead" in complaint(capsys, ["plan", *ours()[1:]], Path("no/such/plan.json"))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def interrupted(*_: object) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        signal.raise_signal(number)

    monkeypatch.setattr(compress, "deploy", interrupted)
    assert cli.main([*ours(), "-o", str(tmp_path / "slim"), "--quiet"]) == 130
    assert capsys.readouterr().err == "interrupted, nothing was written\n"
    assert [name.startswith(".slim.tmp-") for name in seen] == [True]
    assert not list(tmp_path.iterdir())


_KILLED = """
import os, signal, sys
from prunekit import cli; from prunekit.pipeline import compress as pipeline
pipeline.deploy = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main(sys.argv[1:])
"""


def test_what_a_killed_run_leaves_is_cleared_by_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    arguments = [*ours(), "--dtype", "fp32", "-o", str(tmp_path / "slim"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], env={**os.environ, "PYTHONPATH": search}, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".slim.tmp-")
    with lines.quick():
        assert cli.main(arguments) == 0
    capsys.readouterr()
    assert [path.name for path in tmp_path.iterdir()] == ["slim"]
    assert Plan.load(tmp_path / "slim" / "plan.json").digest == line("base").plan.digest
