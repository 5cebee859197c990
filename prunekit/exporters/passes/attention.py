"""Scores, softmax and context of all heads as one operator, each with its own number of heads.

The number of heads is read off the shapes of the node itself, so that layers may differ. What is added to the scores, be it a mask
or a position bias, is handed over as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from prunekit.exporters.passes.base import CONTRIB, GraphPass, Traced
from prunekit.exporters.passes.match import only_reader, other_input, perm_of, producer, scaled

_HEADS_BACK = [0, 2, 1, 3]


@dataclass(frozen=True)
class _Heads:
    """One attention: (batch, heads, ..) factors, and the node that gives its (batch, length, width) result."""

    scores: ir.Node
    scale: float
    biases: tuple[ir.Value, ...]
    context: ir.Node
    last: ir.Node
    heads: int


class FuseAttention(GraphPass):
    """Softmax(scale * Q K' + bias) V is MultiHeadAttention; where Q, K and V are products of one value, it is Attention."""

    name = "Attention fused"

    def __init__(self, packed: bool = True) -> None:
        self._packed = packed

    def call(self, traced: Traced) -> int:
        """The number of attentions."""
        fused = 0
        for softmax in traced.nodes("Softmax"):
            found = _match(traced, softmax)
            bias = None if found is None else _bias(traced, found)
            if found is None or bias is False:
                continue
            query, key = (
                _flat(traced, value, found.heads, turned, found.last)
                for value, turned in zip(found.scores.inputs, (False, True), strict=True)
            )
            value = _flat(traced, found.context.inputs[1], found.heads, False, found.last)
            named = {"num_heads": found.heads, "scale": found.scale}
            packed = _packed(traced, [query, key, value]) if self._packed else None
            if packed is None:
                inputs = [query, key, value, None, None, *([bias] if isinstance(bias, ir.Value) else [])]
                new = traced.add_node(found.last, "MultiHeadAttention", inputs, CONTRIB, **named)
            else:
                source, weight, vector, sizes = packed
                inputs = [source, weight, vector, None, None, *([bias] if isinstance(bias, ir.Value) else [])]
                new = traced.add_node(found.last, "Attention", inputs, CONTRIB, qkv_hidden_sizes=sizes, **named)
            traced.replace(found.last.outputs[0], new)
            fused += 1
        return fused


def _match(traced: Traced, softmax: ir.Node) -> _Heads | None:
    found = _scores(traced, softmax.inputs[0])
    context = only_reader(softmax.outputs[0], "MatMul")
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    if found is None or context is None or context.inputs[0] is not softmax.outputs[0] or axis not in (-1, 3):
        return None
    back = only_reader(context.outputs[0], "Transpose")
    last = None if back is None or perm_of(back) != _HEADS_BACK else only_reader(back.outputs[0], "Reshape")
    dims, result = traced.dims(softmax.outputs[0]), traced.dims(context.outputs[0])
    wide = None if last is None else traced.dims(last.outputs[0])
    if last is None or dims is None or len(dims) != 4 or result is None or wide is None:
        return None
    heads, size = dims[1], result[3]
    if not isinstance(heads, int) or not isinstance(size, int) or wide != (dims[0], dims[2], heads * size):
        return None
    scores, scale, biases = found
    return _Heads(scores, scale, biases, context, last, heads)


def _scores(traced: Traced, value: ir.Value | None) -> tuple[ir.Node, float, tuple[ir.Value, ...]] | None:
    """The product of queries and keys below a value, its factor, and what is added to it."""
    inner, scale = scaled(traced, value)
    node = producer(inner, "MatMul", "Add")
    if node is None or inner is None or len(inner.uses()) != 1:
        return None
    if node.op_type == "MatMul":
        rank = [traced.dims(each) for each in node.inputs]
        return (node, scale, ()) if all(dims is not None and len(dims) == 4 for dims in rank) else None
    if scale != 1:
        return None
    for each in node.inputs:
        found, added = _scores(traced, each), other_input(node, each)
        if found is not None and added is not None:
            return found[0], found[1], (*found[2], added)
    return None


def _bias(traced: Traced, found: _Heads) -> ir.Value | bool | None:
    """One value of shape (batch or 1, heads or 1, queries, keys); None if nothing is added, False if it has another shape."""
    wanted = traced.dims(found.scores.outputs[0])
    assert wanted is not None
    shapes = [traced.dims(value) for value in found.biases]
    for dims in shapes:
        if dims is None or len(dims) != 4 or any(size not in (1, whole) for size, whole in zip(dims, wanted, strict=True)):
            return False
    # The operator repeats batches and heads, and nothing else; a mask of the keys alone may become whole by what is added to it.
    if shapes and not all(any(dims is not None and dims[at] == wanted[at] for dims in shapes) for at in (2, 3)):
        return False
    total: ir.Value | None = None
    for value in found.biases:
        total = value if total is None else traced.add_node(found.last, "Add", [total, value])
    return total


def _flat(traced: Traced, value: ir.Value | None, heads: int, turned: bool, before: ir.Node) -> ir.Value:
    """(batch, length, heads * size) of (batch, heads, length, size), or of (batch, heads, size, length) if `turned`."""
    assert value is not None
    dims = traced.dims(value)
    assert dims is not None
    back = [0, 3, 1, 2] if turned else _HEADS_BACK
    split = producer(value, "Transpose")
    steps = [0, 1, 2, 3]
    source: ir.Value | None = value
    while split is not None:
        steps = [perm_of(split)[at] for at in steps]
        source = split.inputs[0]
        # The transposes so far and the one that would undo the heads cancel out.
        whole = producer(source, "Reshape")
        if [steps[at] for at in back] == [0, 1, 2, 3] and whole is not None and len(traced.dims(whole.inputs[0]) or ()) == 3:
            width, order = traced.dims(whole.inputs[0]), traced.dims(source)
            assert width is not None
            assert order is not None
            if width[:2] == order[:2] and whole.inputs[0] is not None and order[2] == heads:
                return whole.inputs[0]
        split = producer(source, "Transpose")
    size = dims[2 if turned else 3]
    assert isinstance(size, int)
    rows = traced.add_node(before, "Transpose", [value], perm=back)
    return traced.add_node(before, "Reshape", [rows, traced.add_constant(np.array([0, 0, heads * size]), "/prunekit/shape")])


def _packed(traced: Traced, values: list[ir.Value]) -> tuple[ir.Value, ir.Value, ir.Value, list[int]] | None:
    """The value that all three are products of, their weights and biases side by side, and their widths."""
    sources, weights, biases = [], [], []
    for value in values:
        add = producer(value, "Add")
        if add is None or len(value.uses()) > 1:
            return None
        bias = next((array for each in add.inputs if (array := traced.constant(each)) is not None and array.ndim == 1), None)
        product = next((node for each in add.inputs if (node := producer(each, "MatMul")) is not None), None)
        weight = None if product is None else traced.constant(product.inputs[1])
        if bias is None or product is None or weight is None or weight.ndim != 2 or product.inputs[0] is None:
            return None
        sources.append(product.inputs[0])
        weights.append(weight)
        biases.append(bias)
    if any(source is not sources[0] for source in sources) or weights[0].shape != weights[1].shape:
        return None
    packed = traced.add_constant(np.concatenate(weights, axis=1), "/prunekit/qkv_weight")
    vector = traced.add_constant(np.concatenate(biases), "/prunekit/qkv_bias")
    return sources[0], packed, vector, [array.shape[1] for array in weights]
