"""Passes that compute constants once, drop needless casts and simplify shape arithmetic."""

from __future__ import annotations

from typing import final

import numpy as np
import onnx_ir as ir

from prunekit.exporters.passes.base import GraphPass, TracedGraph, form_of
from prunekit.exporters.passes.probe import Dim

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_LONGEST = 8  # elements of a shape


@final
class FoldConstants(GraphPass):
    """Pass that replaces nodes that read only constants by their values in the probes."""

    name = "constants folded"

    def call(self, traced: TracedGraph) -> int:
        """Fold small results only: a mask of all lengths is cheaper to compute than to store."""
        folded = 0
        observed = traced.probes[0].values
        for node in [*traced.graph]:
            if (
                node.op_type in _RANDOM
                or not node.inputs
                or len(node.outputs) != 1
                or any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.values())
            ):
                continue
            if any(value is not None and value.const_value is None for value in node.inputs):
                continue
            output = node.outputs[0]
            array = observed.get(output.name or "")
            if array is None or output.is_graph_output():
                continue
            output.replace_all_uses_with(traced.add_constant(array, "/prunekit/folded"))
            traced.graph.remove(node, safe=True)
            folded += 1
        return folded


@final
class DropCasts(GraphPass):
    """Pass that drops Casts to the type that their input has already."""

    name = "needless casts dropped"

    def call(self, traced: TracedGraph) -> int:
        """Return the number of casts dropped."""
        dropped = 0
        for node in traced.nodes("Cast"):
            value, output = node.inputs[0], node.outputs[0]
            dtype = None if value is None else traced.probes[0].dtypes.get(value.name or "")
            if value is None or dtype is None or output.is_graph_output():
                continue
            if ir.DataType.from_numpy(dtype) == node.attributes["to"].as_int():
                output.replace_all_uses_with(value)
                dropped += 1
        return dropped


@final
class DirectShapes(GraphPass):
    """Pass that replaces shape arithmetic by constants, and by reads of the input's own shape.

    The exporter reads the shape of each value where it needs one. That keeps values whose numbers are otherwise unused, such as
    the queries of all positions where one is enough. Only values that depend on shapes alone are replaced, and only if every
    element was a constant, the batch size or the length in all probes.
    """

    name = "shapes read directly"

    def call(self, traced: TracedGraph) -> int:
        """Give a Reshape a constant shape where 0 and -1 can express it; build any other such value from the input's shape."""
        formed = {value: described for value in _shape_values(traced) if (described := _forms(traced, value)) is not None}
        sizes: dict[tuple[Dim, int], ir.Value] = {}
        changed, first = 0, traced.graph[0]
        for value, (forms, rank) in formed.items():
            built: ir.Value | None = None
            for node, at in value.uses():
                if all(output in formed for output in node.outputs):
                    continue
                constant = reshape_sizes(traced.dims(node.inputs[0]), forms) if node.op_type == "Reshape" and at == 1 else None
                if constant is not None:
                    traced.reshape_to(node, constant)
                else:
                    built = built or _build(traced, forms, rank, sizes, first)
                    node.replace_input_with(at, built)
                changed += 1
        return changed


def _shape_values(traced: TracedGraph) -> list[ir.Value]:
    values: dict[ir.Value, None] = {}
    for node in traced.graph:
        variables = [value for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in ("Shape", "Size") or (variables and node.op_type not in _RANDOM and all(value in values for value in variables)):
            values.update(dict.fromkeys(node.outputs))
    return list(values)


def _forms(traced: TracedGraph, value: ir.Value) -> tuple[tuple[Dim, ...], int] | None:
    """Return the forms of the elements of a short vector of int64, and its rank; None for any other value."""
    arrays = [array for probe in traced.probes if (array := probe.values.get(value.name or "")) is not None]
    if len(arrays) < len(traced.probes) or len({array.shape for array in arrays}) > 1:
        return None
    if arrays[0].dtype != np.int64 or arrays[0].ndim > 1 or arrays[0].size > _LONGEST:
        return None
    forms = tuple(
        form_of([int(number) for number in numbers], traced.probes) for numbers in zip(*(array.ravel() for array in arrays), strict=True)
    )
    return None if None in forms else (forms, arrays[0].ndim)


def _build(traced: TracedGraph, forms: tuple[Dim, ...], rank: int, sizes: dict[tuple[Dim, int], ir.Value], first: ir.Node) -> ir.Value:
    """Build the same numbers from the shape of the first input, before all other nodes."""
    numbers = [form for form in forms if isinstance(form, int)]
    if len(numbers) == len(forms):
        return traced.add_constant(np.array(numbers, dtype=np.int64).reshape((-1,) if rank else ()), "/prunekit/shape")
    for form in forms:
        if (form, rank) in sizes:
            continue
        if isinstance(form, int):
            sizes[form, rank] = traced.add_constant(np.array([form], dtype=np.int64), "/prunekit/size")
            continue
        if (None, 0) not in sizes:
            sizes[None, 0] = traced.add_node(first, "Shape", [traced.graph.inputs[0]])
        at = np.array(0 if form == "batch" else 1, dtype=np.int64).reshape((1,) if rank else ())
        sizes[form, rank] = traced.add_node(first, "Gather", [sizes[None, 0], traced.add_constant(at, "/prunekit/axis")], axis=0)
    if len(forms) == 1:
        return sizes[forms[0], rank]
    return traced.add_node(first, "Concat", [sizes[form, rank] for form in forms], axis=0)


def reshape_sizes(given: tuple[Dim, ...] | None, wanted: tuple[Dim, ...]) -> list[int] | None:
    """Return the constant shape for a Reshape: 0 where an axis stays, -1 for one other that is not constant; None if there are more."""
    sizes = [
        form if isinstance(form, int) else 0 if given is not None and at < len(given) and given[at] == form else -1
        for at, form in enumerate(wanted)
    ]
    return sizes if sizes.count(-1) <= 1 else None
