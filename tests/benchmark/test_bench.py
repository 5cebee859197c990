from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import prunekit
from prunekit.arch.view import ModelView
from prunekit.benchmark.results import Benchmark
from prunekit.cli import main
from prunekit.errors import DataError, ModelError, ParameterError, PrunekitError
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.runtime.records import Comparison
from prunekit.runtime.timing import compare
from tests.models import FFN, HIDDEN, build

pytestmark = pytest.mark.needs("onnxruntime")

QUICK: dict[str, Any] = {"lengths": [5], "time_budget": 1e-3, "memory": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two ONNX files, of four layers and of one."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for name, layers in (("dense", 4), ("slim", 1)):
        model = build("bert", "ForSequenceClassification", num_hidden_layers=layers)
        found[name] = export_onnx(model, folder / f"{name}.onnx", inputs=ModelView.of(model).inputs, space=sample_space(model.config)).path
    return found


def test_two_files_are_counted_exactly_and_timed_side_by_side(files: dict[str, Path]) -> None:
    found = prunekit.bench(files["dense"], files["slim"], batch_sizes=[1, 3], lengths=[5], time_budget=1e-3)
    assert found.labels == ("batch 1, 5 tokens", "batch 3, 5 tokens")
    assert (found.baseline, [cost.name for cost in found.costs]) == ("dense", ["dense", "slim"])
    for comparison in found.comparisons:
        assert comparison.rounds >= 20
        assert [ratio.candidate for ratio in comparison.ratios] == ["slim"]
    per_token = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * FFN
    for name, layers in (("dense", 4), ("slim", 1)):
        cost = found.cost(name)
        graph = onnx.load(str(files[name])).graph
        assert cost.nodes == len(graph.node)
        assert cost.bytes == files[name].stat().st_size
        # The last layer asks, mixes and goes on for the one position that is read; keys and values are of all five.
        last = 5 * 2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN + 2 * HIDDEN * FFN + 2 * 5 * HIDDEN
        assert cost.macs == (layers - 1) * (5 * per_token + 2 * 5 * 5 * HIDDEN) + last + HIDDEN * HIDDEN + 3 * HIDDEN
        assert cost.macs_length == 5
        assert set(cost.placement) == {"CPUExecutionProvider"}
        assert cost.load_seconds > 0
        assert cost.peak_bytes is None or cost.peak_bytes > 1e7
    slim = build("bert", "ForSequenceClassification", num_hidden_layers=1)
    weights = sum(parameter.numel() for parameter in slim.parameters())
    assert found.cost("slim").params == pytest.approx(weights, rel=0.02)
    assert found.cost("slim").agreement is not None
    assert {comparison.clock for comparison in found.comparisons} <= {"thread", "process"}
    assert {each.clock for each in prunekit.bench(files["dense"], threads=2, **QUICK).comparisons} == {"wall"}
    assert found.ratio() == found.ratio("slim", "batch 1, 5 tokens")


def test_all_comparisons_together_take_the_time_budget(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[float] = []

    def counting(*args: Any, max_seconds: float, **given: Any) -> Comparison:
        seconds.append(max_seconds)
        return compare(*args, max_seconds=0.0, **given)

    monkeypatch.setattr("prunekit.benchmark.bench.compare", counting)
    prunekit.bench(files["slim"], batch_sizes=[1, 2], lengths=[4, 5], time_budget=60.0, memory=False)
    assert len(seconds) == 4
    assert sum(seconds) == pytest.approx(60.0)


def test_a_benchmark_is_read_back(files: dict[str, Path], tmp_path: Path) -> None:
    found = prunekit.bench(files["dense"], files["slim"], max_regression=0.1, **QUICK)
    path = tmp_path / "b.json"
    path.write_text(found.to_json(), encoding="utf-8")
    assert Benchmark.load(path) == found
    # Earlier versions had another name for the invocations.
    assert Benchmark.from_json(found.to_json().replace('"invocations"', '"sittings"')) == found
    later = json.dumps({**json.loads(found.to_json()), "version": 2})
    with pytest.raises(DataError, match="has version 2; this prunekit reads up to 1"):
        Benchmark.from_json(later)
    for text in ("{", "[]", json.dumps({"version": 1}), "[" * 100_000, "9" * 5000):
        with pytest.raises(DataError):
            Benchmark.from_json(text)
    with pytest.raises(DataError, match="cannot be read"):
        Benchmark.load(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="not a regular file"):
        Benchmark.load(tmp_path / "pipe.json")


def test_numbers_of_numpy_are_written_as_numbers(files: dict[str, Path]) -> None:
    found = prunekit.bench(files["dense"], **{**QUICK, "threads": np.int64(1), "seed": np.int64(1), "batch_sizes": [np.int64(1)]})
    assert json.loads(found.to_json())["labels"] == list(found.labels)


def test_a_model_against_itself_answers_the_same(files: dict[str, Path]) -> None:
    found = prunekit.bench(files["dense"], files["dense"], max_regression=0.0, checks=["params", "macs", "nodes", "bytes"], **QUICK)
    assert [cost.name for cost in found.costs] == ["dense", "dense #2"]
    assert replace(found.costs[0], name="", load_seconds=0, agreement=None) == replace(
        found.costs[1], name="", load_seconds=0, agreement=None
    )
    assert found.costs[1].agreement == 1
    assert found.passed


def test_a_larger_model_fails_on_its_counts(files: dict[str, Path]) -> None:
    found = prunekit.bench(files["dense"], baseline=files["slim"], max_regression=0.05, checks=["macs", "bytes"], **QUICK)
    assert found.baseline == "slim"
    assert not found.passed
    assert {verdict.check: verdict.outcome for verdict in found.verdicts} == {"macs": "failed", "bytes": "failed"}


def test_one_model_alone_is_timed(files: dict[str, Path]) -> None:
    found = prunekit.bench(files["dense"], **QUICK)
    assert found.comparisons[0].ratios == ()
    with pytest.raises(KeyError, match="one candidate"):
        found.ratio()
    with pytest.raises(ParameterError, match="'baseline' parameter of bench must be given where one model is gated"):
        prunekit.bench(files["dense"], max_regression=0.1, **QUICK)


def test_a_checkpoint_is_exported_and_borrowed_names_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        model = build("bert", "ForSequenceClassification", num_hidden_layers=1)
        export_onnx(model, tmp_path / f"{name}.onnx", inputs=ModelView.of(model).inputs, space=sample_space(model.config))
        (tmp_path / name / "onnx").mkdir(parents=True)
        (tmp_path / f"{name}.onnx").rename(tmp_path / name / "onnx" / "model.onnx")
    found = prunekit.bench(tmp_path / "a", f"mine=ort:{tmp_path / 'b'}", **QUICK)
    assert [cost.name for cost in found.costs] == ["a", "mine"]


@pytest.mark.parametrize(
    ("models", "changes", "error", "message"),
    [
        ([], {}, ParameterError, "'models'"),
        (["none.onnx"], {}, ModelError, "'none.onnx' does not exist"),
        (["tpu:dense"], {}, ParameterError, "'backend' parameter of bench must be one of ort"),
        (["DENSE"], {"backends": ["tpu"]}, ParameterError, "'backend'"),
        (["DENSE"], {"device": "tpu"}, ParameterError, "'device'"),
        (["DENSE"], {"batch_sizes": [0]}, ParameterError, "'batch'"),
        (["DENSE"], {"lengths": [0]}, ParameterError, "'length'"),
        (["DENSE"], {"lengths": "data"}, ParameterError, "Give --data"),
        (["DENSE"], {"threads": 0}, ParameterError, "'threads'"),
        (["DENSE"], {"time_budget": 0}, ParameterError, "'time_budget'"),
        (["DENSE", "DENSE"], {"min_speedup": -1.0}, ParameterError, "'min_speedup'"),
        (["FOLDER"], {}, ModelError, "has no model: neither"),
        (["BROKEN"], {}, ModelError, "cannot be|no ONNX model"),
    ],
)
def test_mistakes_are_one_line(
    files: dict[str, Path], tmp_path: Path, models: list[str], changes: dict[str, Any], error: type[PrunekitError], message: str
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    places = {"DENSE": str(files["dense"]), "FOLDER": str(tmp_path), "BROKEN": str(broken)}
    with pytest.raises(error, match=message) as caught:
        prunekit.bench(*(places.get(model, model) for model in models), **{**QUICK, **changes})
    assert "\n" not in str(caught.value)


def with_nan(path: Path, to: Path) -> Path:
    model = onnx.load(str(path))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("classifier.bias"))
    values = numpy_helper.to_array(bias).copy()
    values[0] = float("nan")
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, str(to))
    return to


def test_a_model_that_answers_nan_is_not_timed(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PrunekitError, match="'bad' gives NaN or infinity"):
        prunekit.bench(with_nan(files["dense"], tmp_path / "bad.onnx"), **QUICK)


def test_the_command_line_gates_and_writes(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("# Before\n", encoding="utf-8")
    outputs = {name: tmp_path / name for name in ("json", "csv", "markdown", "github", "pytest-benchmark")}
    options = [word for name, path in outputs.items() for word in (f"--{name}", str(path))]
    argv = ["bench", str(files["slim"]), "--baseline", str(files["dense"]), "--length", "5", "--time-budget", "0.001"]
    assert main([*argv, *options, "--max-regression", "0%", "--gate", "macs"]) == 0
    printed = capsys.readouterr().out
    assert "PASSED: slim, macs" in printed
    assert Benchmark.load(outputs["json"]).baseline == "dense"
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == "# Before\n" + outputs["markdown"].read_text(encoding="utf-8")
    again = ["bench", str(files["slim"]), "--length", "5", "--time-budget", "0.001", *options]
    assert main(again) == 2
    assert "'json' parameter of bench must be a new file" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    assert len(Benchmark.load(outputs["json"]).costs) == 1
    outputs["csv"].write_text("name,thesis\n", encoding="utf-8")
    assert main([*again, "--overwrite"]) == 2
    assert "prunekit did not write what is there" in capsys.readouterr().err
    argv = ["bench", str(files["dense"]), "--baseline", str(files["slim"]), "--length", "5", "--time-budget", "0.001", "--quiet"]
    assert main([*argv, "--max-regression", "10%", "--gate", "macs,bytes"]) == 1
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["FAILED", "FAILED"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "x"], "'batch'"),
        (["--max-regression", "much"], "'max_regression'"),
        (["--max-regression", "5"], "'max_regression' parameter of bench must be a percentage such as 10%"),
        (["--json", "none/b.json"], "'json' parameter of bench must be a file in a directory that exists"),
    ],
)
def test_bad_options_are_one_line(files: dict[str, Path], options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(files["dense"]), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
