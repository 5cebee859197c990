"""Rules that move a selection along one axis of a node's output to the node's inputs.

A rule gets a node, the axis of its output (counted from 0), and the graph; it returns {input: axis along which the same selection
is made there}, inputs that stay as they are left out, or None if the selection must stay behind the node. Rules hold for any
selection of indices, so they do not depend on the indices.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from prunekit.exporters.passes.base import TracedGraph
from prunekit.exporters.passes.probe import Dim

Moves = dict[int, int]
Rule = Callable[[ir.Node, int, TracedGraph], Moves | None]

# fmt: off
ELEMENTWISE = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "And", "Or", "Not", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Where", "Abs", "Neg", "Sqrt", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Gelu", "Sin", "Cos", "Reciprocal",
    "Cast", "Identity", "Clip", "Sign", "Softplus", "HardSigmoid", "IsNaN", "Floor", "Ceil", "Round",
))
# fmt: on


def moves(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    """Return the selections on a node's inputs for a selection along an axis of its output; None if there is no rule."""
    if node.domain not in ("", "ai.onnx"):
        return None
    rule = _elementwise if node.op_type in ELEMENTWISE else _RULES.get(node.op_type)
    if rule is None or traced.dims(node.outputs[0]) is None:
        return None
    return rule(node, axis, traced)


def _rank(traced: TracedGraph, value: ir.Value | None) -> int | None:
    dims = traced.dims(value)
    return None if dims is None else len(dims)


def attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    stored = node.attributes.get(name)
    return default if stored is None else stored.as_int()


def _broadcast(node: ir.Node, axis: int, traced: TracedGraph, inputs: list[int], drop: int = 0) -> Moves | None:
    """Return the moves to inputs whose axes, but for the last `drop`, are aligned with those of the output from the right."""
    output_dims = traced.dims(node.outputs[0])
    assert output_dims is not None
    moved: Moves = {}
    for at in inputs:
        dims = traced.dims(node.inputs[at])
        if dims is None:
            return None
        aligned = axis - (len(output_dims) - len(dims))
        # The axis is missing or broadcast: the input is the same for any selection.
        if aligned < 0 or dims[aligned] == 1:
            continue
        if dims[aligned] != output_dims[axis] or aligned >= len(dims) - drop:
            return None
        moved[at] = aligned
    return moved


def _elementwise(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    return _broadcast(node, axis, traced, [at for at, value in enumerate(node.inputs) if value is not None])


def _matmul(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    left, right, rank = (_rank(traced, value) for value in (*node.inputs[:2], node.outputs[0]))
    if left is None or right is None or rank is None or min(left, right) < 2:
        return None
    if axis == rank - 1:
        return {1: right - 1}
    if axis == rank - 2:
        return {0: left - 2}
    return _broadcast(node, axis, traced, [0, 1], drop=2)


def _gemm(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    moved = {0: int(attribute(node, "transA", 0) != 0)} if axis == 0 else {1: int(attribute(node, "transB", 0) == 0)}
    if len(node.inputs) == 3 and node.inputs[2] is not None:
        bias = _broadcast(node, axis, traced, [2])
        if bias is None:
            return None
        moved.update(bias)
    return moved


def _normalization(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank = _rank(traced, node.inputs[0])
    if rank is None or axis >= attribute(node, "axis", -1) % rank or any(value.uses() for value in node.outputs[1:]):
        return None
    return {0: axis}


def _along(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    """Move a selection past an operator that works along one axis, independently for each index of the others."""
    rank = _rank(traced, node.inputs[0])
    return None if rank is None or attribute(node, "axis", -1) % rank == axis else {0: axis}


def _reduce(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank, axes = _rank(traced, node.inputs[0]), traced.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None and "axes" in node.attributes:
        numbers = [*node.attributes["axes"].as_ints()]
    else:
        numbers = [] if axes is None else [int(number) for number in axes]
    if rank is None or not numbers:
        return None
    reduced = {number % rank for number in numbers}
    kept = [*range(rank)] if attribute(node, "keepdims", 1) else [number for number in range(rank) if number not in reduced]
    return None if kept[axis] in reduced else {0: kept[axis]}


def _transpose(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank = _rank(traced, node.inputs[0])
    perm = node.attributes.get("perm")
    if rank is None:
        return None
    return {0: int(perm.as_ints()[axis]) if perm is not None else rank - 1 - axis}


def _unsqueeze(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank, axes = _rank(traced, node.outputs[0]), traced.constant(node.inputs[1])
    if rank is None or axes is None:
        return None
    new = {int(number) % rank for number in axes.ravel()}
    return {} if axis in new else {0: axis - sum(number < axis for number in new)}


def _squeeze(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank, axes = _rank(traced, node.inputs[0]), traced.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if rank is None or axes is None:
        return None
    removed = {int(number) % rank for number in axes.ravel()}
    return {0: [number for number in range(rank) if number not in removed][axis]}


def _flatten(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    """Move a selection past a Flatten that joins an axis with others of size 1 alone."""
    source, cut = traced.dims(node.inputs[0]), attribute(node, "axis", 1)
    if source is None:
        return None
    joined = range(len(source))[:cut] if axis == 0 else range(len(source))[cut:]
    kept = [at for at in joined if source[at] != 1]
    return {0: kept[0]} if len(kept) == 1 else None


def _reshape(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    """Move a selection past a Reshape that keeps the axis, with as many elements before it."""
    source, target = traced.dims(node.inputs[0]), traced.dims(node.outputs[0])
    if source is None or target is None or target[axis] is None:
        return None
    for at, size in enumerate(source):
        if size == target[axis] and _sizes_before(traced, node.inputs[0], at) == _sizes_before(traced, node.outputs[0], axis):
            sizes = [1 if place == axis else form for place, form in enumerate(target)]
            return {0: at} if new_shape(source, sizes, at) is not None else None
    return None


def new_shape(given: tuple[Dim, ...], wanted: list[Dim], before: int) -> list[int] | None:
    """Return the shape of a Reshape after a selection along an axis (`before` in the input), for which `wanted` has the number selected."""
    shape = []
    for at, form in enumerate(wanted):
        if isinstance(form, int):
            shape.append(form)
        else:
            shape.append(0 if at < len(given) and given[at] == form and at != before else -1)
    return shape if shape.count(-1) <= 1 else None


def _sizes_before(traced: TracedGraph, value: ir.Value | None, axis: int) -> list[int]:
    """Return the product of the sizes in front of an axis, for each probe."""
    products = []
    for probe in traced.probes:
        product = 1
        for size in probe.shapes[value.name or ""][:axis] if value is not None else ():
            product *= size
        products.append(product)
    return products


def _concat(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank = _rank(traced, node.outputs[0])
    if rank is None or attribute(node, "axis", 0) % rank == axis:
        return None
    return dict.fromkeys(range(len(node.inputs)), axis)


def _split(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank = _rank(traced, node.inputs[0])
    return None if rank is None or attribute(node, "axis", 0) % rank == axis else {0: axis}


def _gather(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    data, index = _rank(traced, node.inputs[0]), _rank(traced, node.inputs[1])
    if data is None or index is None:
        return None
    along = attribute(node, "axis", 0) % data
    if axis < along:
        return {0: axis}
    return {1: axis - along} if axis < along + index else {0: axis - index + 1}


def _gather_elements(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    data, index = traced.dims(node.inputs[0]), traced.dims(node.inputs[1])
    if data is None or index is None:
        return None
    if attribute(node, "axis", 0) % len(data) == axis:
        return {1: axis}
    return {0: axis, 1: axis} if data[axis] == index[axis] else None


def _slice(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    rank, axes = _rank(traced, node.inputs[0]), traced.constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if rank is None or axes is None or axis in {int(number) % rank for number in axes}:
        return None
    return {0: axis}


def _einsum(node: ir.Node, axis: int, traced: TracedGraph) -> Moves | None:
    equation = node.attributes["equation"].as_string().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        return None
    letter, inputs = result[axis], terms.split(",")
    if any(term.count(letter) > 1 for term in inputs):
        return None
    return {at: term.index(letter) for at, term in enumerate(inputs) if letter in term}


_RULES: dict[str, Rule] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "LayerNormalization": _normalization,
    "SimplifiedLayerNormalization": _normalization,
    "RMSNormalization": _normalization,
    "Softmax": _along,
    "LogSoftmax": _along,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"), _reduce),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Concat": _concat,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Slice": _slice,
    "Einsum": _einsum,
}
