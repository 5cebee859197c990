"""Small steps along a graph that the fusions share."""

from __future__ import annotations

import onnx_ir as ir

from prunekit.exporters.passes.base import Traced


def only_reader(value: ir.Value, *ops: str) -> ir.Node | None:
    """The one node that reads a value, if it is of these kinds, reads it once, and nobody else does."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = next(iter(uses)).node
    return node if node.op_type in ops else None


def other_input(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Of a node with two inputs, the one that is not `value`."""
    first, second = node.inputs
    return second if first is value else first


def producer(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that makes a value, if it is of these kinds."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in ops else None


def scaled(traced: Traced, value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """A value without the constant factors in front of it, and their product."""
    factor = 1.0
    while (node := producer(value, "Mul", "Div")) is not None:
        for at, sign in ((1, 1), (0, 1)) if node.op_type == "Mul" else ((1, -1),):
            number = traced.constant(node.inputs[at])
            if number is not None and number.size == 1:
                factor *= float(number.reshape(())) ** sign
                value = node.inputs[1 - at]
                break
        else:
            break
    return value, factor


def perm_of(node: ir.Node) -> list[int]:
    """The axes of a Transpose; empty if it does not name them."""
    perm = node.attributes.get("perm")
    return [] if perm is None else list(perm.as_ints())
