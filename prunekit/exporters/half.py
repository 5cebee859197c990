"""A float32 ONNX model in float16."""

from __future__ import annotations

import onnx

from prunekit.errors import ExportError
from prunekit.runtime.session import runtime


def halve(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Turn weights and values into float16, by onnxruntime's own converter; the model given is left as it is.

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
        No onnxruntime.
    """
    runtime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in proto.graph.initializer):
        raise ExportError("The model has no weight in float32 that float16 could hold.")
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    converted: onnx.ModelProto
    try:
        converted = convert_float_to_float16(made, keep_io_types=True, disable_shape_infer=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"The model cannot be converted to float16: {' '.join(str(error).split())[:300]}") from error
    del converted.graph.value_info[:]
    return converted
