"""A residual sum and the norm behind it as one operator."""

from __future__ import annotations

import onnx_ir as ir

from prunekit.exporters.passes.base import CONTRIB, GraphPass, Traced
from prunekit.exporters.passes.commute import attribute
from prunekit.exporters.passes.match import other_input, producer


class FuseSkipLayerNorm(GraphPass):
    """LayerNormalization(a + b), or (a + bias + b), is SkipLayerNormalization; whoever else reads the sum gets it from there."""

    name = "SkipLayerNormalization fused"

    def call(self, traced: Traced) -> int:
        """The number of norms."""
        fused = 0
        for norm in traced.nodes("LayerNormalization"):
            add = producer(norm.inputs[0], "Add")
            if add is None or len(norm.inputs) < 3 or norm.inputs[2] is None or any(value.uses() for value in norm.outputs[1:]):
                continue
            dims = traced.dims(norm.inputs[0])
            if dims is None or len(dims) != 3 or attribute(norm, "axis", -1) not in (-1, 2):
                continue
            # Both summands whole: onnxruntime repeats neither.
            if any(traced.dims(value) != dims or traced.constant(value) is not None for value in add.inputs):
                continue
            self._fuse(traced, norm, add)
            fused += 1
        return fused

    @staticmethod
    def _fuse(traced: Traced, norm: ir.Node, add: ir.Node) -> None:
        total = add.outputs[0]
        first, second = add.inputs
        bias: ir.Value | None = None
        for value in (first, second):
            inner = producer(value, "Add")
            if inner is None or value is None or len(value.uses()) != 1:
                continue
            vector = next((each for each in inner.inputs if traced.constant(each) is not None and len(traced.dims(each) or ()) == 1), None)
            if vector is not None:
                first, second, bias = other_input(inner, vector), other_input(add, value), vector
                break
        epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
        shared = len(total.uses()) > 1 or total.is_graph_output()
        inputs = [first, second, norm.inputs[1], norm.inputs[2], *([] if bias is None else [bias])]
        outputs = traced.add_nodes(norm, "SkipLayerNormalization", inputs, 4 if shared else 1, CONTRIB, epsilon=epsilon)
        traced.replace(norm.outputs[0], outputs[0])
        if shared:
            for node, at in total.uses():
                if node is not norm:
                    node.replace_input_with(at, outputs[3])
