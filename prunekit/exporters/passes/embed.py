"""The three embeddings and their norm as one operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunekit.exporters.passes.base import CONTRIB, GraphPass, Traced
from prunekit.exporters.passes.commute import attribute
from prunekit.exporters.passes.match import producer

_INT32 = int(ir.DataType.INT32)


class FuseEmbedLayerNorm(GraphPass):
    """LayerNormalization of the sum of looked-up words, positions counted from 0 and token types is EmbedLayerNormalization."""

    name = "EmbedLayerNormalization fused"

    def call(self, traced: Traced) -> int:
        """1, or 0 for another kind of embedding."""
        fused = 0
        for norm in traced.nodes("LayerNormalization"):
            looked = _lookups(norm.inputs[0])
            dims = traced.dims(norm.inputs[0])
            if looked is None or dims is None or dims[:2] != ("batch", "length") or len(dims) != 3 or len(norm.inputs) < 3:
                continue
            parts = self._parts(traced, looked)
            if parts is None:
                continue
            (words, ids), (positions, _), (types, kinds) = parts
            int32 = [None if value is None else traced.add_node(norm, "Cast", [value], to=_INT32) for value in (ids, kinds)]
            inputs = [int32[0], int32[1], words, positions, types, norm.inputs[1], norm.inputs[2]]
            epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
            made = traced.add_nodes(norm, "EmbedLayerNormalization", inputs, 2, CONTRIB, epsilon=epsilon)
            traced.replace(norm.outputs[0], made[0])
            fused += 1
        return fused

    @staticmethod
    def _parts(traced: Traced, looked: list[ir.Node]) -> list[tuple[ir.Value | None, ir.Value | None]] | None:
        """(table, index) of words, of positions and of token types, which may be missing."""
        words: tuple[ir.Value | None, ir.Value | None] | None = None
        positions, types = words, words
        for node in looked:
            table, index = node.inputs
            if traced.constant(table) is None or attribute(node, "axis", 0) != 0 or index is None:
                return None
            if _counts(traced, index):
                positions = table, index
            elif index.name == "input_ids":
                words = table, index
            elif index.is_graph_input():
                types = table, index
            else:
                return None
        if words is None or positions is None or len(looked) != (2 if types is None else 3):
            return None
        return [words, positions, types or (None, None)]


def _counts(traced: Traced, index: ir.Value) -> bool:
    """Whether an index is 0, 1, 2 .. in every row."""
    for probe in traced.probes:
        array = probe.values.get(index.name or "")
        if (
            array is None
            or array.shape[-1:] != (probe.length,)
            or not np.array_equal(np.broadcast_to(np.arange(probe.length), array.shape), array)
        ):
            return False
    return bool(traced.probes)


def _lookups(value: ir.Value | None) -> list[ir.Node] | None:
    """The Gathers whose sum a value is; None if something else is added."""
    node = producer(value, "Gather", "Add")
    if node is None or value is None or len(value.uses()) != 1:
        return None
    if node.op_type == "Gather":
        return [node]
    parts = [_lookups(each) for each in node.inputs]
    return None if any(part is None for part in parts) else [each for part in parts if part is not None for each in part]
