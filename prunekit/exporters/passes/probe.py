"""What the values of a graph are when it runs: shapes are observed at several batch sizes and lengths instead of being inferred."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from prunekit.measure.session import runtime

#: Of the probes; no two numbers coincide, nor do their ratios.
ROWS, LENGTHS = (3, 5, 2), (11, 7, 13)
_SMALL = 65_536  # elements of a value that is remembered, and of a constant that may be folded

Dim = int | Literal["batch", "length"] | None


@dataclass(frozen=True, eq=False)
class Probe:
    """One run.

    Attributes
    ----------
    rows, length : int
    shapes : mapping
        {value: its shape}.
    values : mapping
        {value: array} of the small ones.
    """

    rows: int
    length: int
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, NDArray[Any]]


def probe(model: ir.Model, feeds: Sequence[Mapping[str, NDArray[np.int64]]], save: Any) -> tuple[Probe, ...]:
    """Run a graph, without any of onnxruntime's own optimisations, and look at every value.

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
    with tempfile.TemporaryDirectory(prefix="prunekit-probe-") as folder:
        save(proto, Path(folder) / "probe.onnx")
        session = ort.InferenceSession(str(Path(folder) / "probe.onnx"), options, providers=["CPUExecutionProvider"])
    known = [value.name for value in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}
    found = []
    for feed in feeds:
        rows, length = next(iter(feed.values())).shape
        arrays = dict(zip(known, session.run(known, {name: feed[name] for name in feed if name in taken}), strict=True))
        arrays.update(feed)
        found.append(
            Probe(
                rows,
                length,
                {name: tuple(array.shape) for name, array in arrays.items()},
                {name: array for name, array in arrays.items() if array.size <= _SMALL},
            )
        )
    return tuple(found)
