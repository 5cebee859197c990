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
from prunekit.benchmark.backends.base import Source
from prunekit.errors import ModelError
from prunekit.exporters.quantize import SIX_BITS
from prunekit.runtime.profile import NodeRun, profile
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
    """An ONNX file without its external data.

    Raises
    ------
    ModelError
        A file that is none.
    """
    try:
        check_regular(path, ONNX_BYTES)
        # By its name alone onnx would read a .json or a .txt as another format.
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (ReadError, OSError, DecodeError) as error:
        raise ModelError(f"The ONNX file {str(path)!r} cannot be read: {' '.join(str(error).split())}") from None
    if not model.graph.node:
        raise ModelError(f"The file {str(path)!r} is no ONNX model: it has no nodes.")
    # protobuf gives a name that is not UTF-8 as bytes.
    if not all(isinstance(named.name, str) for named in (*model.graph.initializer, *model.graph.node, *model.graph.input)):
        raise ModelError(f"The file {str(path)!r} is no ONNX model: a name is not UTF-8 text.")
    if any(size < 0 for tensor in model.graph.initializer for size in tensor.dims):
        raise ModelError(f"The file {str(path)!r} is no ONNX model: a weight has a negative size.")
    return model


def params_of(model: onnx.ModelProto) -> int:
    """Numbers in all weights, in whatever precision; scales and zero points of a quantised file are among them."""
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type in _WEIGHTS]
    return sum(math.prod(tensor.dims) * 4 // (3 if tensor.name.endswith(SIX_BITS) else 4) for tensor in weights)


def bytes_of(path: Path, model: onnx.ModelProto) -> int:
    """Size of the file and of the external data that it names."""
    names = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    files = [path, *(path.parent / str(name) for name in names)]
    return sum(file.stat().st_size for file in files if file.is_file())


def weights_of(folder: Path) -> tuple[int, int]:
    """(parameters, bytes) of a checkpoint's safetensors, from their headers."""
    return stored_elements(folder)


def vocabulary_size(source: Source) -> int:
    """How many token ids a candidate knows: that of its config, or of the table that an ONNX file looks them up in.

    Raises
    ------
    ModelError
        Where neither says so.
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
            if node.op_type == "Cast" and node.input[0] in names:
                names.add(node.output[0])
            found = [tables[name][0] for name in node.input if name in tables]
            if names & set(node.input) and found:
                return int(max(found))
    raise ModelError(
        f"The model {str(source.path)!r} does not say how many tokens it knows: no config.json with 'vocab_size' is beside it."
    )


def macs_of(path: Path, feeds: Mapping[str, NDArray[np.int64]]) -> int:
    """Multiply-accumulates of matrix products, convolutions and attention on one batch, from the shapes that the nodes really saw.

    The graph runs once as it is in the file, without onnxruntime's own rewriting.
    """
    graph = read_graph(path).graph
    nodes = {node.name: node for node in graph.node}
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    feeds = {value.name: feeds[value.name] for value in graph.input if value.name in feeds}
    return sum(_macs(run, nodes.get(run.name), shapes) for run in profile(path, feeds, optimise=False))


def _macs(run: NodeRun, node: onnx.NodeProto | None, weights: Mapping[str, Shape]) -> int:
    if run.op in _PRODUCTS:
        return math.prod(run.outputs[0][1]) * _inner(run, node)
    counter = _COUNTERS.get(run.op)
    return 0 if counter is None or node is None else counter(run, node, weights)


def _attributes(node: onnx.NodeProto | None) -> dict[str, Any]:
    return {} if node is None else {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def _inner(run: NodeRun, node: onnx.NodeProto | None) -> int:
    shape = run.inputs[0][1]
    return shape[-2] if _attributes(node).get("transA") else shape[-1]


def _fused_attention(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    """com.microsoft Attention and QAttention: x (b, L, H) times weights (H, q + k + v), scores, and what they mix."""
    rows, length, hidden = run.inputs[0][1]
    wide = weights[node.input[1]][1]
    return rows * length * hidden * wide + _mixing(rows, length, length, run.outputs[0][1][-1])


def _attention(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    """MultiHeadAttention on (b, L, D), and ai.onnx Attention also on (b, heads, L, d)."""
    query, key = run.inputs[0][1], run.inputs[1][1]
    width = query[-1] * (query[1] if len(query) == 4 else 1)
    return _mixing(query[0], query[-2], key[-2], width)


def _mixing(rows: int, queries: int, keys: int, width: int) -> int:
    return 2 * rows * queries * keys * width


def _einsum(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    equation = _attributes(node)["equation"].decode().replace(" ", "").partition("->")[0]
    given: Sequence[Shape] = [shape for _, shape in run.inputs]
    sizes = {
        letter: size
        for letters, shape in zip(equation.split(","), given, strict=False)
        for letter, size in zip(letters, shape, strict=False)
    }
    return math.prod(sizes.values())


def _conv(run: NodeRun, node: onnx.NodeProto, weights: Mapping[str, Shape]) -> int:
    return math.prod(run.outputs[0][1]) * math.prod(weights[node.input[1]][1:])


_COUNTERS: dict[str, Callable[[NodeRun, onnx.NodeProto, Mapping[str, Shape]], int]] = {
    "Attention": lambda run, node, weights: (_fused_attention if node.domain == "com.microsoft" else _attention)(run, node, weights),
    "QAttention": _fused_attention,
    "MultiHeadAttention": _attention,
    "Einsum": _einsum,
    "Conv": _conv,
}
