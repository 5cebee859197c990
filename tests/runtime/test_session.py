from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from prunekit.data.batches import Encoded, _Padding
from prunekit.data.places import Words
from prunekit.errors import DependencyError, ModelError, ParameterError, StatisticsError
from prunekit.runtime import session as module
from prunekit.runtime.scores import outputs_of_file
from prunekit.runtime.session import OnnxSession, runtime

pytestmark = pytest.mark.needs("onnxruntime")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def save(
    path: Path, nodes: list[onnx.NodeProto], shape: list[str | int], inputs: tuple[str, ...] = ("input_ids", "attention_mask")
) -> Path:
    """A graph whose output `logits` is what the nodes make of the inputs."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", "sequence_length"]) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
            helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


SUM = [
    helper.make_node("Mul", ["input_ids", "attention_mask"], ["real"]),
    helper.make_node("Cast", ["real"], ["float"], to=TensorProto.FLOAT),
    helper.make_node("ReduceSum", ["float", "axis"], ["sum"], keepdims=1),
]
#: (rows, 2): the sum of a row's ids, and its logarithm base e, NaN below 0
ROWS = [*SUM, helper.make_node("Log", ["sum"], ["log"]), helper.make_node("Concat", ["sum", "log"], ["logits"], axis=1)]
#: (rows, length, 1): twice each id
TOKENS = [
    helper.make_node("Cast", ["input_ids"], ["float"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["float", "two"], ["double"]),
    helper.make_node("Unsqueeze", ["double", "last"], ["logits"]),
]


def encoded(rows: list[list[int]], left: bool = False, words: list[list[int]] | None = None) -> Encoded:
    """Rows of token ids padded with 9; `words` are the places of first sub-words."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ids = np.concatenate([np.array(row, dtype=np.int32) for row in rows])
    kept, labels = None, np.zeros(len(rows), dtype=np.int64)
    if words is not None:
        starts = np.concatenate([[0], np.cumsum([len(row) for row in words])]).astype(np.int64)
        labels = np.zeros(starts[-1], dtype=np.int64)
        places, order = (
            np.concatenate([np.array(each, dtype=np.int32) for each in found]) for found in (words, map(range, map(len, words)))
        )
        kept = Words(places, starts, order, labels, starts)
    return Encoded(ids, np.zeros(len(ids), dtype=np.int8), offsets, labels, 0, 0, _Padding(9, 0, left), kept)


def test_outputs_come_in_the_order_of_the_split(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = [rng.integers(1, 9, size=size).tolist() for size in rng.integers(1, 30, size=300)]
    found = outputs_of_file(save(tmp_path / "m.onnx", ROWS, ["batch_size", 2]), encoded(rows))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], [sum(row) for row in rows])
    np.testing.assert_allclose(found[:, 1], np.log([sum(row) for row in rows]), rtol=1e-5)


@pytest.mark.parametrize("left", [False, True])
def test_words_come_in_the_order_of_the_split(tmp_path: Path, rng: np.random.Generator, left: bool) -> None:
    rows = [rng.integers(1, 9, size=size).tolist() for size in rng.integers(1, 30, size=100)]
    words = [sorted(rng.choice(len(row), size=int(rng.integers(0, len(row) + 1)), replace=False).tolist()) for row in rows]
    session = OnnxSession(save(tmp_path / "m.onnx", TOKENS, ["batch_size", "sequence_length", 1]))
    assert session.per_token == {"logits"}
    found = outputs_of_file(session, encoded(rows, left, words))
    assert found[:, 0].tolist() == [2 * row[place] for row, places in zip(rows, words, strict=True) for place in places]


def test_nan_names_the_row(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", ROWS, ["batch_size", 2])
    with pytest.raises(StatisticsError, match="gives NaN or infinity for row 2 "):
        outputs_of_file(path, encoded([[1, 2, 3], [-4, 1], [1, 1, 1, 1]]))


def test_a_session_takes_what_it_needs_of_a_batch(tmp_path: Path) -> None:
    session = OnnxSession(save(tmp_path / "m.onnx", TOKENS, ["batch_size", "sequence_length", 1], inputs=("input_ids",)))
    ids = np.array([[3, 4]])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    assert session.inputs == ("input_ids",)
    assert session.outputs == ("logits",)
    assert session(batch)["logits"].ravel().tolist() == [6, 8]
    assert list(session.feeds(batch)) == ["input_ids"]
    with pytest.raises(ModelError, match="takes input_ids; input_ids was not given"):
        session({"attention_mask": ids})
    with pytest.raises(ModelError, match=r"cannot be run: .*") as caught:
        session({"input_ids": ids.astype(np.float32)})  # type: ignore[dict-item]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09\x12\x03abc"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"The ONNX file '.*m\.onnx' cannot be loaded: ") as caught:
        OnnxSession(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_its_data_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", ROWS, ["batch_size", 2])
    proto = onnx.load(str(path))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(999, dtype=np.float32), "weight"))
    proto.graph.node.append(helper.make_node("Add", ["sum", "weight"], ["unused"]))
    onnx.convert_model_to_external_data(proto, location="m.onnx_data", size_threshold=100, convert_attribute=False)
    proto.graph.initializer[-1].ClearField("raw_data")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="cannot be loaded"):
        OnnxSession(path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        OnnxSession(tmp_path / "none.onnx")


@pytest.mark.parametrize(("changes", "name"), [({"threads": 0}, "threads"), ({"device": "tpu"}, "device")])
def test_mistakes(tmp_path: Path, changes: dict[str, object], name: str) -> None:
    with pytest.raises(ParameterError) as caught:
        OnnxSession(tmp_path / "none.onnx", **changes)  # type: ignore[arg-type]
    assert caught.value.parameter == name


def test_without_onnxruntime_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"onnxruntime is not installed. Install it with: pip install 'onnxruntime>="):
        runtime()
    with pytest.raises(DependencyError, match=r"pip install 'onnxruntime-gpu"):
        runtime("cuda")
    # What is left where one of two overlapping packages was removed.
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(DependencyError, match="Remove both, then"):
        runtime()


def test_a_fallback_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    path = save(tmp_path / "m.onnx", ROWS, ["batch_size", 2])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [module.CPU])
    with pytest.raises(DependencyError, match=r"has no CUDAExecutionProvider.*onnxruntime-gpu"):
        OnnxSession(path, device="cuda")
    # A wheel that knows CUDA, on a machine without it.
    whole = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [module.CUDA, module.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: whole(path, options, providers=[module.CPU]))
    with pytest.raises(DependencyError, match="fell back to CPUExecutionProvider"):
        OnnxSession(path, device="cuda")


def test_threads_do_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    given = []
    whole = onnxruntime.InferenceSession

    def session(path: str, options: onnxruntime.SessionOptions, providers: list[str]) -> object:
        given.append(options)
        return whole(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxSession(save(tmp_path / "m.onnx", ROWS, ["batch_size", 2]), threads=2)
    assert given[0].intra_op_num_threads == 2
    assert given[0].get_session_config_entry("session.force_spinning_stop") == "1"
