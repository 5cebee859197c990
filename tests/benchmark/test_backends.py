from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.benchmark.backends import BACKENDS
from prunekit.benchmark.backends.base import Batch, ModelFiles
from prunekit.benchmark.backends.ort import placed
from prunekit.benchmark.backends.pytorch import TorchRunner
from prunekit.benchmark.candidates import parse
from prunekit.benchmark.rivals import RIVALS, rivals
from prunekit.errors import DependencyError, ModelError, ParameterError
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.runtime.profile import NodeRun
from prunekit.runtime.profile import parse as parse_trace
from prunekit.runtime.session import CPU, CUDA, OnnxSession
from tests import lines
from tests.models import VOCABULARY, build

pytestmark = pytest.mark.needs("onnxruntime")


@pytest.fixture(scope="module")
def model() -> Any:
    return build("bert", "ForSequenceClassification", num_hidden_layers=2)


@pytest.fixture(scope="module")
def source(model: Any, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    path = tmp_path_factory.mktemp("source") / "m.onnx"
    export_onnx(model, path, inputs=ModelView.of(model).inputs, space=sample_space(model.config))
    return ModelFiles(path, path, None)


@pytest.fixture(scope="module")
def batch() -> Batch:
    ids = np.random.default_rng(3).integers(4, VOCABULARY, size=(3, 6))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def logits(model: Any, batch: Batch) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy()
    return found


def test_onnxruntime_answers_as_pytorch_does(source: ModelFiles, batch: Batch, model: Any) -> None:
    runner = BACKENDS["ort"].load(source, threads=1)
    feeds = runner.feeds(batch)
    np.testing.assert_allclose(runner.outputs(feeds)["logits"], logits(model, batch), atol=1e-5)
    assert set(runner.placement(feeds)) == {CPU}
    runner.run(feeds)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 0.05)])
def test_pytorch_answers_as_itself(batch: Batch, model: Any, half: bool, tolerance: float) -> None:
    runner = TorchRunner(model, tuple(batch), ("logits",), device="cpu", half=half, compiled=False)
    feeds = runner.feeds(batch)
    np.testing.assert_allclose(runner.outputs(feeds)["logits"], logits(model, batch), atol=tolerance)
    assert ("cpu bfloat16" in runner.placement(feeds)) == half
    runner.run(feeds)


@pytest.mark.needs("compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own compiler still imports what uses it
def test_compiled_pytorch_answers_as_itself(batch: Batch, tmp_path: Path) -> None:
    # One layer, since each is compiled.
    dense = build("bert", "ForSequenceClassification", num_hidden_layers=1, vocab_size=len(lines.VOCABULARY), pad_token_id=0)
    folder = lines.save(dense, tmp_path)
    runner = BACKENDS["torch-compile"].load(ModelFiles(folder, None, folder), threads=1)
    # The shapes are dynamic: another length is the same program.
    for rows in (batch, {name: array[:2, :4] for name, array in batch.items()}):
        feeds = runner.feeds(rows)
        np.testing.assert_allclose(runner.outputs(feeds)["logits"], logits(dense, rows), atol=1e-5)
        runner.run(feeds)
    assert list(runner.placement(feeds)) == ["cpu float32"]


def test_compiling_without_a_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DependencyError, match="needs a C\\+\\+ compiler, and 'no-such-compiler' is not on the PATH"):
        BACKENDS["torch-compile"].load(ModelFiles(tmp_path, None, tmp_path), threads=1)


@pytest.mark.needs("openvino")
@pytest.mark.parametrize(("name", "precision"), [("openvino", "f32"), ("openvino-int8", "i8")])
def test_openvino_reads_the_same_file(
    name: str, precision: str, source: ModelFiles, batch: Batch, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = BACKENDS[name].load(source, threads=1, calibration=[batch])
    feeds = runner.feeds(batch)
    np.testing.assert_allclose(runner.outputs(feeds)["logits"], logits(model, batch), atol=1e-4 if precision == "f32" else 0.3)
    assert runner.placement(feeds)[f"CPU {precision}"] > 0
    runner.run(feeds)
    assert capsys.readouterr().out == ""


def test_bound_inputs_and_outputs_give_what_a_plain_run_gives(source: ModelFiles, batch: Batch) -> None:
    # The processor is a device to bind to as well, so that the path is walked on every machine.
    assert source.onnx is not None
    session = OnnxSession(source.onnx)
    binding = session.bind(session.feeds(batch))
    session.run_bound(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], session(batch)["logits"])


FLOAT, SHAPE = (("float", (2, 3)),), (("int64", (2,)),)


def test_what_computes_shapes_may_stay_on_the_processor() -> None:
    runs = [NodeRun("a", "MatMul", CUDA, FLOAT, FLOAT), NodeRun("b", "Shape", CPU, FLOAT, SHAPE)]
    assert placed(runs, CUDA) == {CUDA: 1, CPU: 1}


@pytest.mark.parametrize("kind", ["float", "float16", "bfloat16"])
def test_a_node_that_fell_back_is_an_error(kind: str) -> None:
    runs = [NodeRun("a", "MatMul", CUDA, FLOAT, FLOAT), NodeRun("layer.0/Erf", "Erf", CPU, FLOAT, ((kind, (2, 3)),))]
    with pytest.raises(DependencyError, match=r"ran 1 of 2 nodes on CPUExecutionProvider, not on CUDAExecutionProvider.*'layer.0/Erf'"):
        placed(runs, CUDA)


def test_a_trace_is_read() -> None:
    shapes = {"input_type_shape": [{"float": [1, 2]}, {"float": [2, 3]}], "output_type_shape": [{"float": [1, 3]}]}
    events: list[dict[str, Any]] = [
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "x_kernel_time", "args": {"op_name": "MatMul", "provider": CUDA, **shapes}},
        {"cat": "Node", "name": "x_fence_before", "args": {"op_name": "MatMul"}},
    ]
    assert parse_trace(events) == (NodeRun("x", "MatMul", CUDA, (("float", (1, 2)), ("float", (2, 3))), (("float", (1, 3)),)),)


@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if backend.device == "cuda"])
def test_without_a_gpu_cuda_is_refused(name: str, source: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DependencyError, match="CUDA") as caught:
        BACKENDS[name].load(ModelFiles(source.path, source.onnx, source.path.parent), threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["openvino", "nncf"])
def test_a_runtime_that_is_not_installed_says_how_to_get_it(missing: str, source: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "nncf":
        monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))
        monkeypatch.setitem(sys.modules, "nncf", None)
        with pytest.raises(DependencyError, match=r"nncf.*pip install 'nncf>=3' 'openvino>=2025'"):
            BACKENDS["openvino-int8"].check()
        BACKENDS["openvino"].check()
        return
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DependencyError, match=r"openvino is not installed.*pip install 'nncf>=3' 'openvino>=2025'"):
        BACKENDS["openvino"].load(source, threads=1)


def test_rivals_are_named_and_need_a_recipe(source: ModelFiles, tmp_path: Path) -> None:
    found = parse([str(source.path)], ["ort"])
    assert rivals((), found, "cpu", tmp_path) == ()
    with pytest.raises(ParameterError, match="'against' parameter of bench must be some of dense, dense-int8, torch"):
        rivals(("fast",), found, "cpu", tmp_path)
    with pytest.raises(ModelError, match="says what it was made from"):
        rivals(("dense",), found, "cpu", tmp_path)
    assert {"dense", "dense-int8", "openvino"} <= set(RIVALS)
