"""What operators repeat by themselves is not repeated before."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from prunekit.exporters.passes.base import GraphPass, Traced
from prunekit.exporters.passes.probe import Dim

#: Operators that compute element by element and repeat their inputs where an axis has the size 1.
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "And", "Or", "Not", "Cast", "Where", "Equal", "Min", "Max"}


class DropRepeats(GraphPass):
    """An attention mask is one row for each text: no Expand makes a square of it, where the sum with the scores repeats it anyway."""

    name = "needless repeats dropped"
    reshapes = True

    def call(self, traced: Traced) -> int:
        """The number of Expand nodes, and of conjunctions with what is always true."""
        dropped = 0
        for node in traced.nodes("Expand", "And"):
            value = node.inputs[0] if node.op_type == "Expand" else _beside_true(traced, node)
            dims = traced.dims(value)
            if value is None or dims is None or not _can_be(traced, node.outputs[0], dims):
                continue
            node.outputs[0].replace_all_uses_with(value)
            dropped += 1
        return dropped


def _beside_true(traced: Traced, node: ir.Node) -> ir.Value | None:
    for value in node.inputs:
        array = traced.constant(value)
        if array is not None and array.all():
            return other_input(node, value)
    return None


def _can_be(traced: Traced, value: ir.Value, dims: tuple[Dim, ...]) -> bool:
    """Whether nobody would notice if a value had these axes, of size 1 where it is repeated now."""
    if dims == traced.dims(value):
        return not value.is_graph_output()
    if value.is_graph_output() or None in dims:
        return False
    for node, _ in value.uses():
        found = _picked(traced, node, value, dims) if node.op_type == "Gather" else _computed(traced, node, value, dims)
        if found is None:
            return False
        if found != traced.dims(node.outputs[0]) and not _can_be(traced, node.outputs[0], found):
            return False
    return True


def _computed(traced: Traced, node: ir.Node, value: ir.Value, dims: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """The axes of what a node that computes element by element would give if one of its inputs had these; None: it is not certain."""
    if node.op_type not in _ELEMENTWISE or node.domain:
        return None
    shapes = [dims if each is value else traced.dims(each) for each in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    return _broadcast(known) if len(known) == len(shapes) else None


def _picked(traced: Traced, node: ir.Node, value: ir.Value, dims: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """The same of a Gather of some entries, always the same, of an axis that is not repeated (the heads of a position bias)."""
    had, index, axis = traced.dims(value), traced.constant(node.inputs[1]), node.attributes.get_int("axis", 0)
    if node.domain or had is None or index is None or index.ndim != 1 or len(had) != len(dims) or had[axis] != dims[axis]:
        return None
    picked = list(dims)
    picked[axis] = len(index)
    return tuple(picked)


def _broadcast(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...] | None:
    """The axes of what is computed element by element from these; None where that is not certain."""
    rank = max(map(len, shapes))
    found: list[Dim] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        larger = {size for size in sizes if size != 1}
        if len(larger) > 1 or None in larger:
            return None
        found.append(larger.pop() if larger else 1)
    return tuple(found)


def other_input(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Of a node with two inputs, the one that is not `value`."""
    first, second = node.inputs
    return second if first is value else first
