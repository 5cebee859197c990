"""Gelu, with the bias in front of it, as one operator."""

from __future__ import annotations

import math

import onnx_ir as ir

from prunekit.exporters.passes.base import CONTRIB, GraphPass, Traced
from prunekit.exporters.passes.match import only_reader, other_input, scaled


class FuseGelu(GraphPass):
    """x / 2 * (1 + erf(x / sqrt(2))), in any order of its factors, is Gelu; of a sum with a vector, BiasGelu."""

    name = "Gelu fused"
    looks = False

    def call(self, traced: Traced) -> int:
        """The number of Gelus."""
        fused = 0
        for erf in traced.nodes("Erf"):
            found = _match(traced, erf)
            if found is None:
                continue
            value, last = found
            add = value.producer()
            bias = None if add is None or add.op_type != "Add" else next((each for each in add.inputs if _vector(traced, each)), None)
            # The sum is read by the two branches of the Gelu alone.
            if add is not None and bias is not None and len(value.uses()) == 2:
                new = traced.add_node(last, "BiasGelu", [other_input(add, bias), bias], CONTRIB)
            else:
                new = traced.add_node(last, "Gelu", [value], CONTRIB)
            traced.replace(last.outputs[0], new)
            fused += 1
        return fused


def _vector(traced: Traced, value: ir.Value | None) -> bool:
    dims = traced.dims(value)
    return traced.constant(value) is not None and dims is not None and len(dims) == 1


def _match(traced: Traced, erf: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """The argument and the last node of a Gelu around an Erf."""
    into, factor = scaled(traced, erf.inputs[0])
    plus = only_reader(erf.outputs[0], "Add")
    if into is None or plus is None or not math.isclose(factor, math.sqrt(0.5), rel_tol=1e-5):
        return None
    one = traced.constant(other_input(plus, erf.outputs[0]))
    if one is None or one.size != 1 or float(one.reshape(())) != 1:
        return None
    # x, or x / 2, times the bracket; then times a half if that is still to come.
    product = only_reader(plus.outputs[0], "Mul")
    if product is None:
        return None
    other, half = scaled(traced, other_input(product, plus.outputs[0]))
    if other is into and math.isclose(half, 0.5):
        return into, product
    last = only_reader(product.outputs[0], "Mul", "Div")
    if other is not into or half != 1 or last is None:
        return None
    value, half = scaled(traced, last.outputs[0])
    return (into, last) if value is product.outputs[0] and math.isclose(half, 0.5) else None
