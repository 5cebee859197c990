"""Conversion of a float32 ONNX model to float16."""

from __future__ import annotations

import onnx

from prunekit.errors import ExportError
from prunekit.runtime.session import runtime
from prunekit.validation.escape import reason


def halve(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights and values to float16 by onnxruntime's own converter; the model passed in is not changed.

    Inputs and outputs keep their types. Where a processor has no kernel for float16, onnxruntime computes that node in float32.

    Parameters
    ----------
    proto : onnx.ModelProto
        In float32.

    Returns
    -------
    onnx.ModelProto
        Without shapes of intermediate values, which keep onnxruntime from fusing.

    Raises
    ------
    ExportError
        If there is nothing to convert, or the converter fails.
    DependencyError
        If onnxruntime is not installed.
    """
    runtime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in proto.graph.initializer):
        raise ExportError("The model has no weight in float32 that float16 could hold.")
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    angles = _keep_angles(copied.graph)
    converted: onnx.ModelProto
    try:
        converted = convert_float_to_float16(copied, keep_io_types=True, disable_shape_infer=True, node_block_list=angles)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"The model cannot be converted to float16: {reason(error, 300)}") from error
    del converted.graph.value_info[:]
    return converted


def _keep_angles(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that compute angles of positions, and cast their sines and cosines behind them.

    In float16 the product of a position and a frequency is off by as much as a turn: whole numbers end at 2,048, and frequencies are
    rounded. Models compute it in float32 whatever their own type.
    """
    makers = {name: node for node in graph.node for name in node.output}
    pending, found = [node for node in graph.node if node.op_type in ("Sin", "Cos")], set[str]()
    while pending:
        node = pending.pop()
        if node.op_type == "Shape" or not node.name or node.name in found:
            continue
        found.add(node.name)
        pending += [makers[name] for name in node.input if name in makers]
    nodes = []
    for node in graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        nodes.append(kept)
        if node.op_type in ("Sin", "Cos") and node.name in found:
            output = node.output[0]
            kept.output[0] = f"{output}_float"
            # The converter makes a cast to float16 of it.
            nodes.append(onnx.helper.make_node("Cast", [kept.output[0]], [output], to=onnx.TensorProto.FLOAT, name=f"{node.name}_cast"))
    del graph.node[:]
    graph.node.extend(nodes)
    # Between two nodes whose values have a stated type the converter would put casts to float16 and back.
    values = {name for node in graph.node if node.name in found for name in node.output}
    others = [value for value in graph.value_info if value.name not in values]
    del graph.value_info[:]
    graph.value_info.extend(others)
    return sorted(found)
