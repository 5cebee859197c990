"""Mistakes of `export` and `bench` through the command line's own entry point: one line, exit code 2, and nothing left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from prunekit import cli
from tests.lines import checkpoint, data

pytestmark = pytest.mark.needs("onnxruntime")


def complaint(capfd: pytest.CaptureFixture[str], arguments: list[str], place: Path) -> str:
    """What the program says of a command that fails, what runtimes print on their own included."""
    before = sorted(place.rglob("*"))
    assert cli.main(arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", said.err), said.err
    assert sorted(place.rglob("*")) == before
    return said.err


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `export` writes it; nobody changes it."""
    out = tmp_path_factory.mktemp("exported") / "out"
    assert cli.main(["export", str(checkpoint("sequence")), "-o", str(out), "--quiet"]) == 0
    return out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--optimize", "O3"], "The 'optimize' parameter of export must be one of none, O1. Got 'O3' instead."),
        (["--optimize", ""], "Got '' instead."),
        (["--opset", "16"], "The 'opset' parameter of export must be 17 to 20. Got 16 instead."),
        (["--opset", "21"], "Got 21 instead."),
        (["--opset", "new"], "Invalid value for '--opset'"),
        (["--dtype", "int4"], "The 'dtype' parameter of export must be one of fp32, fp16, int8"),
        (["--device", "tpu"], "The 'device' parameter of export must be one of cpu, cuda. Got 'tpu' instead."),
        (["--device", "cuda", "--dtype", "int8"], "The 'dtype' parameter of export must be fp32 or fp16 for cuda."),
        (["--dtype", "int8-static"], "The 'data' parameter of export must be given for int8-static, whose ranges come from rows of"),
        (["--data", "absent.csv"], "absent.csv"),
        (["--data", "ROWS", "--label", "nope"], "'label' parameter"),
        (["--data", "VALUES"], "The label column 'score' holds values, the model has 2 classes"),
        (["--max-length", "0"], "The 'max_length' parameter of export must be 1 to 64, the longest row that the model takes"),
        (["--pooling", "mean"], "The 'pooling' parameter of export must be left out for a model with a head"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_an_option_of_export(options: list[str], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    places = {"ROWS": str(data("text")), "VALUES": str(data("pair"))}
    given = ["export", str(checkpoint("sequence")), "-o", str(tmp_path / "out"), *(places.get(option, option) for option in options)]
    assert says in complaint(capfd, given, tmp_path)


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_tokenizer, "has no tokenizer: one of tokenizer.json"),
        (without_weights, "has no weights: model.safetensors is missing"),
        (cut_weights, "cannot be loaded from safetensors"),
        (shutil.rmtree, "is not a directory. Give a directory with config.json and model.safetensors, or a hub id"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("command", ["export", "bench"])
def test_of_a_checkpoint(
    command: str, change: Callable[[Path], None], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint("sequence"), tmp_path / "model")
    change(tmp_path / "model")
    more = ["-o", str(tmp_path / "out")] if command == "export" else ["--data", str(data("text"))]
    found = complaint(capfd, [command, str(tmp_path / "model"), *more], tmp_path)
    # To bench a directory is what holds a file or a checkpoint.
    assert says in found or (command == "bench" and re.search("does not exist|has no model: neither", found))


def graph_of(path: Path, kind: str, *, opset: int = 18) -> None:
    """A graph of one node, with an input that is no token."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(kind, ["x", "x"], ["y"])], "graph", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(path))


def half_a_file(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def a_text(path: Path) -> None:
    path.write_text("not a model")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def the_weights(path: Path) -> None:
    shutil.copyfile(checkpoint("sequence") / "model.safetensors", path)


def another_graph(path: Path) -> None:
    graph_of(path, "MatMul")


def an_unknown_node(path: Path) -> None:
    model = onnx.load(str(path))
    model.graph.node[-1].op_type = "NoSuchNode"
    onnx.save(model, str(path))


def an_opset_of_the_future(path: Path) -> None:
    model = onnx.load(str(path))
    model.opset_import[0].version = 99
    onnx.save(model, str(path))


def without_its_data(path: Path) -> None:
    onnx.save_model(onnx.load(str(path)), str(path), save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    (path.parent / "model.onnx_data").unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (half_a_file, "cannot be read"),
        (a_text, "cannot be read|is no ONNX model"),
        (empty, "is no ONNX model: it has no nodes"),
        (the_weights, "cannot be read|is no ONNX model"),
        (another_graph, "takes x; what can be timed takes some of input_ids, attention_mask, token_type_ids"),
        (an_unknown_node, "cannot be loaded.*NoSuchNode"),
        (an_opset_of_the_future, "cannot be loaded.*99"),
        (without_its_data, "cannot be loaded"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_of_a_file_to_bench(
    change: Callable[[Path], None], says: str, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path / "model")
    change(tmp_path / "model" / "onnx" / "model.onnx")
    found = complaint(capfd, ["bench", str(tmp_path / "model"), "--length", "5", "--time-budget", "0.001"], tmp_path)
    assert re.search(says, found)
    # To export takes a checkpoint, and says so of any file.
    given = ["export", str(tmp_path / "model" / "onnx" / "model.onnx"), "-o", str(tmp_path / "out")]
    assert "is not a directory. Give a directory with config.json and model.safetensors" in complaint(capfd, given, tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cuda"], "CUDA"),
        (["--device", "tpu"], "The 'device' parameter of bench must be one of cpu, cuda. Got 'tpu' instead."),
        (["--backend", "tensorrt"], "The 'backend' parameter of bench must be one of ort, ort-cuda"),
        (["--backend", "torch"], "The backend 'torch' reads a checkpoint; "),
        (["--against", "dense"], "No model says what it was made from: --against needs a directory that compress wrote"),
        (["--against", "fast"], "The 'against' parameter of bench must be some of dense, dense-int8"),
        (["--length", "data"], "Give --data, or --length 128."),
        (["--data", "absent.csv"], "absent.csv"),
        (["--max-regression", "5%"], "The 'baseline' parameter of bench must be given where one model is gated"),
        (["--gate", "speed", "--max-regression", "5%"], "speed"),
        (["--csv", "no/such/place.csv"], "The 'csv' parameter of bench must be a file in a directory that exists"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_an_option_of_bench(
    options: list[str], says: str, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert says in complaint(capfd, ["bench", str(exported), *options], tmp_path)


def test_of_a_provider_that_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    given = ["export", str(checkpoint("sequence")), "-o", str(tmp_path / "out"), "--device", "cuda"]
    said = complaint(capfd, given, tmp_path)
    assert (
        "The installed onnxruntime has no CUDAExecutionProvider. Install it with: pip install 'onnxruntime-gpu[cuda,cudnn]>=1.20'" in said
    )


def test_of_candidates_without_a_tokenizer(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(exported, tmp_path / "model")
    without_tokenizer(tmp_path / "model")
    said = complaint(capfd, ["bench", str(tmp_path / "model"), "--data", str(data("text"))], tmp_path)
    assert "No candidate has a tokenizer beside it" in said


def test_of_a_disk_that_is_full_for_a_table(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def fails(self: Path, text: str, **options: Any) -> int:
        if "table" not in self.name:
            return write(self, text, **options)
        write(self, text[:10], **options)
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", fails)
    given = ["bench", str(exported), "--length", "5", "--time-budget", "0.001", "--markdown", str(tmp_path / "table.md")]
    assert "table.md' cannot be written: No space left on device." in complaint(capfd, given, tmp_path)


#: No file may grow above this many bytes: the tokenizer fits, no model does.
_LIMITED = """
import resource, sys
from prunekit import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(cli.main(sys.argv[2:]))
"""


def limited(size: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, on a disk that takes files of a size only."""
    search = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    given = [sys.executable, "-c", _LIMITED, str(size), *arguments]
    return subprocess.run(given, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["export", "export int8", "compress"])
def test_of_a_disk_that_is_full(command: str, tmp_path: Path) -> None:
    more = ["--data", str(data("text")), "--keep", "60% params", "--recover", "none"] if command == "compress" else []
    more += ["--dtype", "int8"] if command == "export int8" else []
    out = tmp_path / "out"
    done = limited(30_000, [command.split()[0], str(checkpoint("sequence")), *more, "-o", str(out), "--quiet"])
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr == f"error: The output directory {str(out)!r} cannot be written: File too large.\n"
    assert not list(tmp_path.iterdir())
