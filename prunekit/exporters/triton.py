"""A model repository of Triton: the deployed file under its version, and a `config.pbtxt` derived from the file."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import onnx

from prunekit.errors import ExportError
from prunekit.exporters.onnx import data_path

FOLDER = "triton"
MAX_BATCH = 64
#: Microseconds that a request may wait for others to be batched with.
DELAY = 500
_TYPES: dict[int, str] = {
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
}


def write_triton(file: Path, folder: Path, name: str) -> Path:
    """Write `triton/NAME/config.pbtxt` and `triton/NAME/1/model.onnx`.

    The file is hard-linked where the file system supports it, so that it is stored once.

    Parameters
    ----------
    file : Path
        The deployed ONNX file; its batch axis is the first of every input and output.
    folder : Path
        Directory of the artefact.
    name : str
        Name of the model; any character but letters, digits, ``-``, ``_`` and ``.`` becomes ``_``.

    Returns
    -------
    Path
        The repository, for ``tritonserver --model-repository``.

    Raises
    ------
    ExportError
        If an input or output has a type or a first axis that Triton cannot batch.
    """
    name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
    model_folder = folder / FOLDER / name
    text = config_text(onnx.load(str(file), load_external_data=False), name)
    (model_folder / "1").mkdir(parents=True)
    (model_folder / "config.pbtxt").write_text(text, encoding="utf-8")
    _link(file, model_folder / "1" / "model.onnx")
    if data_path(file).is_file():
        # The file refers to its data by name, in the same directory.
        _link(data_path(file), model_folder / "1" / data_path(file).name)
    return model_folder.parent


def config_text(proto: onnx.ModelProto, name: str) -> str:
    """Return the text of `config.pbtxt` for a model; raise ExportError if Triton cannot batch it."""
    blocks = [f'name: "{name}"', 'backend: "onnxruntime"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {MAX_BATCH}"]
    stored = {tensor.name for tensor in proto.graph.initializer}
    for field, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            if value.name not in stored:
                blocks.append(f"{field} [\n{_entry(value)}\n]")
    blocks.append(f"dynamic_batching {{\n  max_queue_delay_microseconds: {DELAY}\n}}")
    return "\n".join(blocks) + "\n"


def _entry(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    axes = list(tensor.shape.dim)
    if tensor.elem_type not in _TYPES or not axes or axes[0].dim_param != "batch_size":
        raise ExportError(f"Triton cannot batch {value.name!r}: it needs numbers whose first axis is the batch.")
    sizes = ", ".join(str(axis.dim_value) if axis.HasField("dim_value") else "-1" for axis in axes[1:])
    return f'  {{\n    name: "{value.name}"\n    data_type: {_TYPES[tensor.elem_type]}\n    dims: [ {sizes} ]\n  }}'


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(source, target)
