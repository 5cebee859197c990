"""Pass that replaces transpositions which move axes of size 1 alone, as of a block with one head."""

from __future__ import annotations

from typing import final

import onnx_ir as ir

from prunekit.exporters.passes.base import GraphPass, TracedGraph
from prunekit.exporters.passes.fold import reshape_sizes
from prunekit.exporters.passes.probe import Dim


@final
class DropTransposes(GraphPass):
    """Pass that writes a Transpose which moves axes of size 1 past others as a Reshape, which copies nothing.

    In a block with one head these are the queries, the values and the output of attention; its keys keep a transposition of their
    last two axes, which onnxruntime does within the product.
    """

    name = "needless transposes dropped"

    def call(self, traced: TracedGraph) -> int:
        """Replace the transposes, and join each Reshape with the one that it reads."""
        dropped = 0
        for node in traced.nodes("Transpose"):
            source, output = node.inputs[0], node.outputs[0]
            dims, wanted = traced.dims(source), traced.dims(output)
            order = node.attributes.get_ints("perm", ())
            if source is None or dims is None or wanted is None or None in dims or output.is_graph_output():
                continue
            # Axes that hold more than one element, in their new order.
            moved = [axis for axis in order if dims[axis] != 1]
            swapped = moved[-2:] == sorted(moved[-2:], reverse=True) and 1 not in wanted[-2:]
            before = (*wanted[:-2], wanted[-1], wanted[-2]) if swapped else wanted
            if (sorted(moved) != ([*moved[:-2], moved[-1], moved[-2]] if swapped else moved)) or len(moved) == len(order):
                continue
            shaped = _reshaped(traced, node, source, before)
            if shaped is None:
                continue
            if swapped:
                axes = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
                shaped = traced.add_node(node, "Transpose", [shaped], perm=axes)
            traced.replace(output, shaped)
            dropped += 1
        for node in traced.nodes("Reshape"):
            _join(traced, node)
        return dropped


def _reshaped(traced: TracedGraph, node: ir.Node, source: ir.Value, wanted: tuple[Dim, ...]) -> ir.Value | None:
    """Insert a Reshape of `source` before a node and return its output; None where a constant shape cannot express it."""
    for value in (_before_reshape(source), source):
        sizes = None if value is None else reshape_sizes(traced.dims(value), wanted)
        if sizes is not None:
            shaped = traced.add_node(node, "Reshape", [value, source])
            maker = shaped.producer()
            assert maker is not None
            traced.reshape_to(maker, sizes)
            return shaped
    return None


def _join(traced: TracedGraph, node: ir.Node) -> None:
    """Let a Reshape of a Reshape read the input of the first."""
    value, wanted = _before_reshape(node.inputs[0]), traced.dims(node.outputs[0])
    sizes = None if value is None or wanted is None else reshape_sizes(traced.dims(value), wanted)
    if sizes is not None:
        node.replace_input_with(0, value)
        traced.reshape_to(node, sizes)


def _before_reshape(value: ir.Value | None) -> ir.Value | None:
    producer = None if value is None else value.producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "Reshape" and not producer.domain else None
