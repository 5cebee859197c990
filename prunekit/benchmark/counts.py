"""Exact counts of a candidate, the same on every machine: parameters, nodes, bytes, multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf has no types
from numpy.typing import NDArray

from prunekit.arch.config import read_config, stored_elements
from prunekit.benchmark.backends.base import ModelFiles
from prunekit.errors import ModelError
from prunekit.exporters.quantize import SIX_BITS
from prunekit.runtime.profile import NodeRun, profile
from prunekit.validation.escape import LINE, reason
from prunekit.validation.limits import ONNX_BYTES, VOCABULARY
from prunekit.validation.reading import ReadError, check_regular

Shape = tuple[int, ...]

_WEIGHTS = tuple(getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT4", "UINT4"))


#: Nodes whose output is a matrix product over the last axis of the first input.
_PRODUCTS = {
    "MatMul", "Gemm", "FusedMatMul", "FusedGemm", "GemmFastGelu", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QLinearMatMul", "QGemm", "MatMulNBits",
}  # fmt: skip


def read_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its external data.

    Raises
    ------
    ModelError
        A file that is not an ONNX model.
    """
    try:
        check_regular(path, ONNX_BYTES)
        # Without `format` onnx would derive another one from a suffix such as .json or .txt.
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (ReadError, OSError, DecodeError) as error:
        raise ModelError(f"The ONNX file {str(path)!r} cannot be read: {reason(error, LINE)}") from None
    if not model.graph.node:
        raise ModelError(f"The file {str(path)!r} is no ONNX model: it has no nodes.")
    # protobuf gives a name that is not UTF-8 as bytes.
    if not all(isinstance(entry.name, str) for entry in (*model.graph.initializer, *model.graph.node, *model.graph.input)):
        raise ModelError(f"The file {str(path)!r} is no ONNX model: a name is not UTF-8 text.")
    if any(size < 0 for tensor in model.graph.initializer for size in tensor.dims):
        raise ModelError(f"The file {str(path)!r} is no ONNX model: a weight has a negative size.")
    return model


def params_of(model: onnx.ModelProto) -> int:
    """Count the elements of all weights, in any precision, including scales and zero points of a quantised file."""
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type in _WEIGHTS]
    return sum(math.prod(tensor.dims) * 4 // (3 if tensor.name.endswith(SIX_BITS) else 4) for tensor in weights)


def bytes_of(path: Path, model: onnx.ModelProto) -> int:
    """Return the size of the file and of the external data that it names, in bytes."""
    names = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    files = [path, *(path.parent / str(name) for name in names)]
    return sum(file.stat().st_size for file in files if file.is_file())


def weights_of(folder: Path) -> tuple[int, int]:
    """Return (parameters, bytes) of a checkpoint's safetensors, from their headers."""
    return stored_elements(folder)


def vocabulary_size(source: ModelFiles) -> int:
    """Return the number of token ids of a candidate, from its config or from the embedding table of its ONNX file.

    Raises
    ------
    ModelError
        Neither gives it.
    """
    if source.folder is not None:
        fields = read_config(source.folder / "config.json", f"The model {str(source.path)!r} has a config.json that")
        if isinstance(fields.get("vocab_size"), int) and 1 <= fields["vocab_size"] <= VOCABULARY:
            return int(fields["vocab_size"])
    if source.onnx is not None:
        graph = read_graph(source.onnx).graph
        names = {"input_ids"}
        tables = {tensor.name: tensor.dims for tensor in graph.initializer if len(tensor.dims) == 2}
        for node in graph.node:
            if node.op_type == "Cast" and names & set(node.input[:1]):
                names |= set(node.output[:1])
            sizes = [tables[name][0] for name in node.input if name in tables and 1 <= tables[name][0] <= VOCABULARY]
            if names & set(node.input) and sizes:
                return int(max(sizes))
    raise ModelError(
        f"The model {str(source.path)!r} does not say how many tokens it knows: no config.json with 'vocab_size' is beside it."
    )


def macs_of(path: Path, feeds: Mapping[str, NDArray[np.int64]]) -> int:
    """Count the multiply-accumulates of matrix products, convolutions and attention on one batch, from the shapes at run time.

    The graph is run once as stored in the file, without onnxruntime's optimisations.
    """
    graph = read_graph(path).graph
    nodes = {node.name: node for node in graph.node}
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    # Other exporters keep weights in nodes of their own.
    constants = ((node.output[0], entry) for node in graph.node if node.op_type == "Constant" and node.output for entry in node.attribute)
    shapes |= {name: tuple(entry.t.dims) for name, entry in constants if entry.name == "value"}
    feeds = {value.name: feeds[value.name] for value in graph.input if value.name in feeds}
    return sum(_macs(run, nodes.get(run.name), shapes) for run in profile(path, feeds, optimise=False))


def _macs(run: NodeRun, node: onnx.NodeProto | None, weights: Mapping[str, Shape]) -> int:
    if run.op in _PRODUCTS:
        return math.prod(run.outputs[0][1]) * _inner(run, node)
    counter = _COUNTERS.get(run.op)
    return 0 if counter is None or node is None else counter(run, node, weights)


def _attributes(node: onnx.NodeProto | None) -> dict[str, Any]:
    return {} if node is None else {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _inner(run: NodeRun, node: onnx.NodeProto | None) -> int:
    shape = run.inputs[0][1]
    return shape[-2] if _attributes(node).get("transA") else shape[-1]


def _fused_attention(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    """Count com.microsoft Attention and QAttention: x (b, L, H) times weights (H, q + k + v), scores, and their product with the values."""
    rows, length, hidden = run.inputs[0][1]
    width = _weight(weights, node)[1]
    return rows * length * hidden * width + _mixing(rows, length, length, run.outputs[0][1][-1])


def _attention(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    """Count MultiHeadAttention on (b, L, D), and ai.onnx Attention also on (b, heads, L, d)."""
    query, key = run.inputs[0][1], run.inputs[1][1]
    width = query[-1] * (query[1] if len(query) == 4 else 1)
    return _mixing(query[0], query[-2], key[-2], width)


def _mixing(rows: int, queries: int, keys: int, width: int) -> int:
    return 2 * rows * queries * keys * width


def _einsum(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    equation = _attributes(node)["equation"].decode().replace(" ", "").partition("->")[0]
    shapes: Sequence[Shape] = [shape for _, shape in run.inputs]
    sizes = {
        letter: size
        for letters, shape in zip(equation.split(","), shapes, strict=False)
        for letter, size in zip(letters, shape, strict=False)
    }
    return math.prod(sizes.values())


def _weight(weights: Mapping[str, Shape], node: onnx.NodeProto) -> Shape:
    """Return the shape of the second input of a node; raises ModelError where the file does not hold it."""
    shape = weights.get(node.input[1]) if len(node.input) > 1 else None
    if shape is None or len(shape) < 2:
        raise ModelError(f"The weight of the {node.op_type} node {node.name!r} is computed: its multiply-accumulates cannot be counted.")
    return shape


def _conv(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    return math.prod(run.outputs[0][1]) * math.prod(_weight(weights, node)[1:])


_COUNTERS: dict[str, Callable[[NodeRun, onnx.NodeProto, Mapping[str, Shape]], int]] = {
    "Attention": lambda run, node, weights: (_fused_attention if node.domain == "com.microsoft" else _attention)(run, node, weights),
    "QAttention": _fused_attention,
    "MultiHeadAttention": _attention,
    "Einsum": _einsum,
    "Conv": _conv,
}
