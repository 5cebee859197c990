"""Any byte that is changed in a directory of ours is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file
from safetensors.torch import save_file

from prunekit import cli
from prunekit.exporters.manifest import Manifest, write_manifest
from prunekit.exporters.verify import verify
from prunekit.plan import Plan
from tests.lines import line


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(line("sequence").path, tmp_path / "slim"))


def test_what_was_written_is_as_it_was_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", str(place), "--verify"]) == 0
    assert capsys.readouterr().out == f"{place} is as it was written\n"
    found = Manifest.load(place)
    assert found.plan == Plan.load(place).digest
    assert found.data is not None
    assert {*found.files, "manifest.json"} == {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_every_single_flipped_byte_is_found(place: Path) -> None:
    generator = np.random.default_rng(0)
    paths = sorted(path for path in place.rglob("*") if path.is_file())
    assert len(paths) > 8
    for turn in range(60):
        path = paths[turn % len(paths)]
        raw = path.read_bytes()
        at, bit = int(generator.integers(len(raw))), 1 << int(generator.integers(8))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :])
        found = verify(place)
        path.write_bytes(raw)
        assert found is not None, (path.name, at, bit)
        assert found.path == path.relative_to(place).as_posix()
    assert verify(place) is None


@pytest.mark.parametrize("change", ["missing", "extra", "white space"])
def test_the_command_names_the_file(change: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = {"missing": "config.json", "extra": "notes.txt", "white space": "manifest.json"}[change]
    if change == "missing":
        (place / name).unlink()
    else:
        with (place / name).open("a") as file:
            file.write(" ")
    assert cli.main(["show", str(place), "--verify"]) == 1
    assert f"{name!r}:" in capsys.readouterr().out


def test_a_model_that_answers_differently_is_found_though_the_manifest_was_written_anew(place: Path) -> None:
    path = place / "onnx" / "model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(1.2), tensor.name))
    onnx.save(model, path)
    (place / "manifest.json").unlink()
    write_manifest(place)
    found = verify(place)
    assert found is not None
    assert found.path == "onnx/model.onnx"
    assert "differs by" in found.why


def test_a_manifest_of_another_plan_is_found(place: Path) -> None:
    found = Manifest.load(place)
    (place / "manifest.json").write_bytes(found.model_copy(update={"plan": "0" * 64}).to_bytes())
    wrong = verify(place)
    assert wrong is not None
    assert wrong.path == "plan.json"


@pytest.mark.parametrize("words", [["plan.json"], [".", "."], ["absent"]])
def test_verify_is_of_one_directory(words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", *(str(place / word) for word in words), "--verify"]) == 2
    assert capsys.readouterr().err.startswith("error: The 'verify' parameter of show must be given with")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "files": {}}', "\x00", "[" * 100_000])
def test_what_is_no_manifest_is_said(text: str, place: Path) -> None:
    (place / "manifest.json").write_text(text)
    found = verify(place)
    assert found is not None
    assert found.path == "manifest.json"


@pytest.mark.parametrize("kind", ["of another type", "too long"])
def test_stored_rows_are_those_that_are_written(kind: str, place: Path) -> None:
    stored = {name: torch.from_numpy(array) for name, array in load_file(place / "probe.safetensors").items()}
    name = next(name for name in stored if name.startswith("input"))
    stored[name] = torch.zeros(3, 8, dtype=torch.bfloat16) if kind == "of another type" else torch.zeros(1, 60_000, dtype=torch.int64)
    save_file(stored, place / "probe.safetensors")
    write_manifest(place, Manifest.load(place).data)
    found = verify(place)
    assert found is not None
    assert found.path == "probe.safetensors"
