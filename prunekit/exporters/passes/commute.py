"""Which operators a choice along one axis of their output may be moved in front of, and what must then be chosen of each input.

A rule gets a node, the axis of its output (counted from 0), and the graph; it gives {input: axis along which the same choice is
made there}, inputs that stay as they are left out, or None if the choice must stay behind the node. Rules hold for any choice of
indices, so they say nothing of which.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from prunekit.exporters.passes.base import Traced
from prunekit.exporters.passes.probe import Dim

Moves = dict[int, int]
Rule = Callable[[ir.Node, int, Traced], Moves | None]

# fmt: off
ELEMENTWISE = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "And", "Or", "Not", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Where", "Abs", "Neg", "Sqrt", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Gelu", "Sin", "Cos", "Reciprocal",
    "Cast", "Identity", "Clip", "Sign", "Softplus", "HardSigmoid", "IsNaN", "Floor", "Ceil", "Round",
))
# fmt: on


def moves(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    """What must be chosen of a node's inputs for a choice along an axis of its output; None if there is no rule."""
    if node.domain not in ("", "ai.onnx"):
        return None
    rule = _elementwise if node.op_type in ELEMENTWISE else _RULES.get(node.op_type)
    if rule is None or traced.dims(node.outputs[0]) is None:
        return None
    return rule(node, axis, traced)


def _rank(traced: Traced, value: ir.Value | None) -> int | None:
    dims = traced.dims(value)
    return None if dims is None else len(dims)


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def _broadcast(node: ir.Node, axis: int, traced: Traced, inputs: list[int], drop: int = 0) -> Moves | None:
    """Inputs whose axes, but for the last `drop`, are aligned with those of the output from the right."""
    outer = traced.dims(node.outputs[0])
    assert outer is not None
    found: Moves = {}
    for at in inputs:
        dims = traced.dims(node.inputs[at])
        if dims is None:
            return None
        place = axis - (len(outer) - len(dims))
        # Too few axes, or one that is repeated: the same whatever is chosen.
        if place < 0 or dims[place] == 1:
            continue
        if dims[place] != outer[axis] or place >= len(dims) - drop:
            return None
        found[at] = place
    return found


def _elementwise(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    return _broadcast(node, axis, traced, [at for at, value in enumerate(node.inputs) if value is not None])


def _matmul(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    left, right, rank = (_rank(traced, value) for value in (*node.inputs[:2], node.outputs[0]))
    if left is None or right is None or rank is None or min(left, right) < 2:
        return None
    if axis == rank - 1:
        return {1: right - 1}
    if axis == rank - 2:
        return {0: left - 2}
    return _broadcast(node, axis, traced, [0, 1], drop=2)


def _gemm(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    found = {0: int(attribute(node, "transA", 0) != 0)} if axis == 0 else {1: int(attribute(node, "transB", 0) == 0)}
    if len(node.inputs) == 3 and node.inputs[2] is not None:
        bias = _broadcast(node, axis, traced, [2])
        if bias is None:
            return None
        found.update(bias)
    return found


def _normalization(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank = _rank(traced, node.inputs[0])
    if rank is None or axis >= attribute(node, "axis", -1) % rank or any(value.uses() for value in node.outputs[1:]):
        return None
    return {0: axis}


def _along(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    """Works along one axis, each other index for itself."""
    rank = _rank(traced, node.inputs[0])
    return None if rank is None or attribute(node, "axis", -1) % rank == axis else {0: axis}


def _reduce(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank, axes = _rank(traced, node.inputs[0]), traced.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None and "axes" in node.attributes:
        given = [*node.attributes["axes"].as_ints()]
    else:
        given = [] if axes is None else [int(number) for number in axes]
    if rank is None or not given:
        return None
    reduced = {number % rank for number in given}
    left = [*range(rank)] if attribute(node, "keepdims", 1) else [number for number in range(rank) if number not in reduced]
    return None if left[axis] in reduced else {0: left[axis]}


def _transpose(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank = _rank(traced, node.inputs[0])
    perm = node.attributes.get("perm")
    if rank is None:
        return None
    return {0: int(perm.as_ints()[axis]) if perm is not None else rank - 1 - axis}


def _unsqueeze(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank, axes = _rank(traced, node.outputs[0]), traced.constant(node.inputs[1])
    if rank is None or axes is None:
        return None
    new = {int(number) % rank for number in axes.ravel()}
    return {} if axis in new else {0: axis - sum(number < axis for number in new)}


def _squeeze(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank, axes = _rank(traced, node.inputs[0]), traced.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if rank is None or axes is None:
        return None
    gone = {int(number) % rank for number in axes.ravel()}
    return {0: [number for number in range(rank) if number not in gone][axis]}


def _reshape(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    """The axis must be one of the input, too, with as many elements before it."""
    given, wanted = traced.dims(node.inputs[0]), traced.dims(node.outputs[0])
    if given is None or wanted is None or wanted[axis] is None:
        return None
    for at, size in enumerate(given):
        if size == wanted[axis] and _sizes_before(traced, node.inputs[0], at) == _sizes_before(traced, node.outputs[0], axis):
            sizes = [1 if place == axis else form for place, form in enumerate(wanted)]
            return {0: at} if new_shape(given, sizes, at, axis) is not None else None
    return None


def new_shape(given: tuple[Dim, ...], wanted: list[Dim], before: int, axis: int) -> list[int] | None:
    """The constant shape of a Reshape after a choice along an axis (`before` in the input), `wanted[axis]` being the number chosen."""
    found = []
    for at, form in enumerate(wanted):
        if isinstance(form, int):
            found.append(form)
        else:
            found.append(0 if at < len(given) and given[at] == form and at != before else -1)
    return found if found.count(-1) <= 1 else None


def _sizes_before(traced: Traced, value: ir.Value | None, axis: int) -> list[int]:
    """In each probe, the product of the sizes in front of an axis."""
    found = []
    for probe in traced.probes:
        product = 1
        for size in probe.shapes[value.name or ""][:axis] if value is not None else ():
            product *= size
        found.append(product)
    return found


def _concat(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank = _rank(traced, node.outputs[0])
    if rank is None or attribute(node, "axis", 0) % rank == axis:
        return None
    return dict.fromkeys(range(len(node.inputs)), axis)


def _split(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank = _rank(traced, node.inputs[0])
    return None if rank is None or attribute(node, "axis", 0) % rank == axis else {0: axis}


def _gather(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    data, index = _rank(traced, node.inputs[0]), _rank(traced, node.inputs[1])
    if data is None or index is None:
        return None
    along = attribute(node, "axis", 0) % data
    if axis < along:
        return {0: axis}
    return {1: axis - along} if axis < along + index else {0: axis - index + 1}


def _gather_elements(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    data, index = traced.dims(node.inputs[0]), traced.dims(node.inputs[1])
    if data is None or index is None:
        return None
    if attribute(node, "axis", 0) % len(data) == axis:
        return {1: axis}
    return {0: axis, 1: axis} if data[axis] == index[axis] else None


def _slice(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
    rank, axes = _rank(traced, node.inputs[0]), traced.constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if rank is None or axes is None or axis in {int(number) % rank for number in axes}:
        return None
    return {0: axis}


def _einsum(node: ir.Node, axis: int, traced: Traced) -> Moves | None:
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
    "Reshape": _reshape,
    "Concat": _concat,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Slice": _slice,
    "Einsum": _einsum,
}
