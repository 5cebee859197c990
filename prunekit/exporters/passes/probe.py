"""Observation of the values of a graph when it runs: shapes are observed at several batch sizes and lengths instead of being inferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from prunekit.errors import ExportError
from prunekit.runtime.session import ort_errors, runtime
from prunekit.validation.escape import LINE, reason
from prunekit.validation.scratch import temporary

#: Rows and lengths of the probes; no two numbers coincide, nor do their ratios.
ROWS, LENGTHS = (3, 5, 2), (11, 7, 13)
_SMALL = 65_536  # largest number of elements of a value that is stored, and of a constant that may be folded

Dim = int | Literal["batch", "length"] | None


@dataclass(frozen=True, eq=False)
class Probe:
    """Observations of one run.

    Attributes
    ----------
    rows, length : int
    shapes : mapping
        {value: its shape}.
    dtypes : mapping
        {value: its type}.
    values : mapping
        {value: array} of the small ones.
    """

    rows: int
    length: int
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    values: Mapping[str, NDArray[Any]]


def probe(model: ir.Model, feeds: Sequence[Mapping[str, NDArray[np.int64]]], save: Any) -> tuple[Probe, ...]:
    """Run a graph, without any of onnxruntime's own optimisations, and record every value.

    Parameters
    ----------
    model : ir.Model
    feeds : sequence of mapping
        {input: int64 of shape (rows, length)}.
    save : callable
        Writes an `onnx.ModelProto` to a path.

    Raises
    ------
    DependencyError
        If onnxruntime is not installed.
    ExportError
        If the graph cannot be run.
    """
    ort = runtime()
    proto = ir.to_proto(model)
    outputs = {value.name for value in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in outputs]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        with temporary() as folder:
            save(proto, folder / "probe.onnx")
            session = ort.InferenceSession(str(folder / "probe.onnx"), options, providers=["CPUExecutionProvider"])
        return tuple(_run(session, feed) for feed in feeds)
    except ort_errors(ort) as error:
        raise ExportError(f"The graph cannot be run: {reason(error, LINE)}") from None


def _run(session: Any, feed: Mapping[str, NDArray[np.int64]]) -> Probe:
    names = [value.name for value in session.get_outputs()]
    inputs = {value.name for value in session.get_inputs()}
    rows, length = next(iter(feed.values())).shape
    outputs = session.run(names, {name: feed[name] for name in feed if name in inputs})
    arrays: dict[str, NDArray[Any]] = {**dict(zip(names, outputs, strict=True)), **feed}
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    dtypes = {name: array.dtype for name, array in arrays.items()}
    return Probe(rows, length, shapes, dtypes, {name: array for name, array in arrays.items() if array.size <= _SMALL})
