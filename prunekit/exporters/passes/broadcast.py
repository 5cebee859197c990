"""Pass that drops explicit repeats in front of operators that broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import onnx_ir as ir

from prunekit.exporters.passes.base import GraphPass, TracedGraph
from prunekit.exporters.passes.probe import Dim

#: Operators that compute element by element and broadcast axes of size 1.
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "And", "Or", "Not", "Cast", "Where", "Equal", "Min", "Max"}


@final
class DropRepeats(GraphPass):
    """Pass that drops needless Expands: an attention mask is one row for each text, and its sum with the scores broadcasts it."""

    name = "needless repeats dropped"
    reshapes = True

    def call(self, traced: TracedGraph) -> int:
        """Return the number of Expand nodes, and of conjunctions with a constant true, that were dropped."""
        dropped = 0
        for node in traced.nodes("Expand", "And"):
            value = node.inputs[0] if node.op_type == "Expand" else _beside_true(traced, node)
            dims = traced.dims(value)
            if value is None or dims is None or not _can_have(traced, node.outputs[0], dims):
                continue
            node.outputs[0].replace_all_uses_with(value)
            dropped += 1
        return dropped


def _beside_true(traced: TracedGraph, node: ir.Node) -> ir.Value | None:
    for value in node.inputs:
        array = traced.constant(value)
        if array is not None and array.all():
            return other_input(node, value)
    return None


def _can_have(traced: TracedGraph, value: ir.Value, dims: tuple[Dim, ...]) -> bool:
    """Return whether the graph's outputs stay the same if a value has these axes, of size 1 where it is repeated now."""
    if dims == traced.dims(value):
        return not value.is_graph_output()
    if value.is_graph_output() or None in dims:
        return False
    for node, _ in value.uses():
        result = _gathered_dims(traced, node, value, dims) if node.op_type == "Gather" else _elementwise_dims(traced, node, value, dims)
        if result is None:
            return False
        if result != traced.dims(node.outputs[0]) and not _can_have(traced, node.outputs[0], result):
            return False
    return True


def _elementwise_dims(traced: TracedGraph, node: ir.Node, value: ir.Value, dims: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """Return the axes of an elementwise node's output if its input `value` had the axes `dims`; None where that is not certain."""
    if node.op_type not in _ELEMENTWISE or node.domain:
        return None
    shapes = [dims if operand is value else traced.dims(operand) for operand in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    return _broadcast(known) if len(known) == len(shapes) else None


def _gathered_dims(traced: TracedGraph, node: ir.Node, value: ir.Value, dims: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """Return the same for a Gather of constant entries of an axis that is not repeated (the heads of a position bias)."""
    current, index, axis = traced.dims(value), traced.constant(node.inputs[1]), node.attributes.get_int("axis", 0)
    if node.domain or current is None or index is None or index.ndim != 1 or len(current) != len(dims) or current[axis] != dims[axis]:
        return None
    result = list(dims)
    result[axis] = len(index)
    return tuple(result)


def _broadcast(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...] | None:
    """Return the axes of an elementwise result from those of its inputs; None where that is not certain."""
    rank = max(map(len, shapes))
    dims: list[Dim] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        larger = {size for size in sizes if size != 1}
        if len(larger) > 1 or None in larger:
            return None
        dims.append(larger.pop() if larger else 1)
    return tuple(dims)


def other_input(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Return the input of a node with two inputs that is not `value`."""
    first, second = node.inputs
    return second if first is value else first
