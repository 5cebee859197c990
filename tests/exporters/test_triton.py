"""The configuration is read by protobuf itself, with the fields that Triton's `model_config.proto` gives these names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import TensorProto, helper

from prunekit.errors import ExportError
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.exporters.triton import config_text, write_triton
from tests.models import build

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {"TYPE_INT32": 8, "TYPE_INT64": 9, "TYPE_FP16": 10, "TYPE_FP32": 11}


def model_config() -> Any:
    """An empty `inference.ModelConfig`, of the parts that are written."""
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="inference", syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    enum.value.add(name="TYPE_INVALID", number=0)
    for name, number in _TYPES.items():
        enum.value.add(name=name, number=number)
    tensor = file.message_type.add(name="Tensor")
    tensor.field.add(name="name", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    tensor.field.add(name="data_type", number=2, type=_FIELD.TYPE_ENUM, type_name=".inference.DataType", label=_FIELD.LABEL_OPTIONAL)
    tensor.field.add(name="dims", number=3, type=_FIELD.TYPE_INT64, label=_FIELD.LABEL_REPEATED)
    batching = file.message_type.add(name="Batching")
    batching.field.add(name="max_queue_delay_microseconds", number=2, type=_FIELD.TYPE_UINT64, label=_FIELD.LABEL_OPTIONAL)
    config = file.message_type.add(name="ModelConfig")
    for number, name in ((1, "name"), (2, "platform"), (17, "backend")):
        config.field.add(name=name, number=number, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    config.field.add(name="max_batch_size", number=4, type=_FIELD.TYPE_INT32, label=_FIELD.LABEL_OPTIONAL)
    for number, name in ((5, "input"), (6, "output")):
        config.field.add(name=name, number=number, type=_FIELD.TYPE_MESSAGE, type_name=".inference.Tensor", label=_FIELD.LABEL_REPEATED)
    config.field.add(
        name="dynamic_batching", number=11, type=_FIELD.TYPE_MESSAGE, type_name=".inference.Batching", label=_FIELD.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


@pytest.mark.parametrize(("head", "outputs"), [("ForSequenceClassification", [[3]]), ("ForTokenClassification", [[-1, 3]])])
def test_the_configuration_is_that_of_the_file(head: str, outputs: list[list[int]], tmp_path: Path) -> None:
    model = build("bert", head)
    names = ("input_ids", "attention_mask", "token_type_ids")
    export_onnx(model, tmp_path / "onnx" / "model.onnx", inputs=names, space=sample_space(model.config))
    home = write_triton(tmp_path / "onnx" / "model.onnx", tmp_path, "a slim/model") / "a_slim_model"
    config = text_format.Parse((home / "config.pbtxt").read_text(), model_config())
    assert (config.name, config.platform, config.backend) == ("a_slim_model", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size > 1
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    # The batch is none of the dims.
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [(name, 9, [-1]) for name in names]
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output] == [("logits", 11, dims) for dims in outputs]
    assert os.path.samefile(home / "1" / "model.onnx", tmp_path / "onnx" / "model.onnx")


def test_external_data_lies_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunekit.exporters.onnx.SINGLE_FILE", 1000)
    monkeypatch.setattr("os.link", refuse)
    model = build("bert", "ForSequenceClassification")
    export_onnx(model, tmp_path / "model.onnx", inputs=("input_ids", "attention_mask"), space=sample_space(model.config))
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx_data"}
    home = write_triton(tmp_path / "model.onnx", tmp_path, "slim")
    assert {path.name for path in (home / "slim" / "1").iterdir()} == {"model.onnx", "model.onnx_data"}
    onnx.checker.check_model(str(home / "slim" / "1" / "model.onnx"))


def refuse(source: Path, target: Path) -> None:
    raise OSError("no links here")


def test_what_cannot_be_batched_is_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, "length"])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    with pytest.raises(ExportError, match="cannot batch 'x'"):
        config_text(helper.make_model(graph), "slim")
