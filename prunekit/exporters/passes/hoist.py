"""What is read of a few positions, or of a few neurons, is computed for those alone.

A Gather with constant indices is carried backwards as far as the operators allow. What it meets on the way is narrowed in place
if all of its readers read the same places of it; where somebody reads more, the Gather is put there. So the last layer's queries,
scores, attention output and FFN are computed for the [CLS] token only, while its keys and values keep all positions; and a readout
of some dimensions takes those columns of the weights that produce them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from prunekit.exporters.passes.base import GraphPass, Traced
from prunekit.exporters.passes.commute import attribute, moves, new_shape

#: Operators whose work is saved; moving a Gather over others alone would gain nothing.
_WORK = {"MatMul", "Gemm", "Einsum"}


class Choice(NamedTuple):
    """These indices along this axis, and nothing else, are read."""

    axis: int
    indices: tuple[int, ...]


class _Hoist(GraphPass):
    """Carries the choice of every Gather over one kind of axis backwards."""

    reshapes = True

    def seeds(self, node: ir.Node, traced: Traced) -> Choice | None:
        """What a Gather reads of its first input, if it is of the kind that is moved."""
        raise NotImplementedError

    def call(self, traced: Traced) -> int:
        """The number of matrix products that became smaller."""
        reads: dict[tuple[ir.Node, int], Choice] = {}
        narrow: dict[ir.Value, Choice] = {}
        steps: dict[ir.Node, dict[int, int]] = {}
        for node in reversed([*traced.graph]):
            seed = self.seeds(node, traced)
            if seed is not None:
                reads[node, 0] = seed
                continue
            choice = _only(node, reads, traced)
            step = None if choice is None else moves(node, choice.axis, traced)
            if choice is None or step is None:
                continue
            narrow.update((value, choice) for value in node.outputs)
            steps[node] = step
            reads.update(((node, at), Choice(axis, choice.indices)) for at, axis in step.items())
        if not any(node.op_type in _WORK for node in steps):
            return 0
        self._rewrite(traced, reads, narrow, steps)
        return sum(node.op_type in _WORK for node in steps)

    def _rewrite(
        self,
        traced: Traced,
        reads: dict[tuple[ir.Node, int], Choice],
        narrow: dict[ir.Value, Choice],
        steps: dict[ir.Node, dict[int, int]],
    ) -> None:
        gathered: dict[tuple[ir.Value, Choice], ir.Value] = {}
        # Shapes are those before anything was changed.
        reshapes = {node: self._shape(node, narrow[node.outputs[0]], steps[node][0], traced) for node in steps if node.op_type == "Reshape"}
        for (node, at), choice in reads.items():
            value = node.inputs[at]
            assert value is not None
            if value in narrow:
                if node not in steps:
                    self._read_narrow(node, choice, traced)
            elif node in steps:
                if (value, choice) not in gathered:
                    gathered[value, choice] = self._gather(value, choice, traced)
                node.replace_input_with(at, gathered[value, choice])
        for node, shape in reshapes.items():
            traced.reshape_to(node, shape)

    @staticmethod
    def _shape(node: ir.Node, choice: Choice, before: int, traced: Traced) -> list[int]:
        given, wanted = traced.dims(node.inputs[0]), traced.dims(node.outputs[0])
        assert given is not None
        assert wanted is not None
        sizes = [len(choice.indices) if at == choice.axis else form for at, form in enumerate(wanted)]
        found = new_shape(given, sizes, before, choice.axis)
        assert found is not None
        return found

    @staticmethod
    def _read_narrow(node: ir.Node, choice: Choice, traced: Traced) -> None:
        """The Gather itself, of a value that holds nothing but what it reads."""
        index = traced.constant(node.inputs[1])
        assert index is not None
        places = np.arange(len(choice.indices), dtype=np.int64).reshape(index.shape)
        node.replace_input_with(1, traced.add_constant(places, "/prunekit/indices"))

    @staticmethod
    def _gather(value: ir.Value, choice: Choice, traced: Traced) -> ir.Value:
        array = traced.constant(value)
        if array is not None:
            return traced.add_constant(np.take(array, choice.indices, axis=choice.axis), value.name or "")
        indices = traced.add_constant(np.array(choice.indices, dtype=np.int64), "/prunekit/indices")
        producer = value.producer()
        node = ir.node("Gather", [value, indices], {"axis": choice.axis})
        node.outputs[0].name = node.name = traced.new_name("Gather")
        if producer is None:
            traced.graph.insert_before(traced.graph[0], node)
        else:
            traced.graph.insert_after(producer, node)
        return node.outputs[0]


def _only(node: ir.Node, reads: dict[tuple[ir.Node, int], Choice], traced: Traced) -> Choice | None:
    """The one choice that all readers of all of a node's outputs share."""
    choices: set[Choice | None] = set()
    for value in node.outputs:
        if value.is_graph_output():
            return None
        choices.update(reads.get((reader, at)) for reader, at in value.uses())
    return choices.pop() if len(choices) == 1 else None


def _constant_gather(node: ir.Node, traced: Traced) -> tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]] | None:
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or traced.constant(node.inputs[0]) is not None:
        return None
    dims, index = traced.dims(node.inputs[0]), traced.constant(node.inputs[1])
    if dims is None or index is None or not index.size:
        return None
    return attribute(node, "axis", 0) % len(dims), index


class HoistPosition(_Hoist):
    """Positions that are not read are not computed: the [CLS] token's layer."""

    name = "matrix products for the positions read"

    def seeds(self, node: ir.Node, traced: Traced) -> Choice | None:
        """A Gather along the length."""
        found, dims = _constant_gather(node, traced), traced.dims(node.inputs[0]) if node.inputs else None
        if found is None or dims is None or dims[found[0]] != "length" or len(dims) < 3:
            return None
        return Choice(found[0], tuple(int(number) for number in found[1].ravel()))


class HoistFeatures(_Hoist):
    """Neurons that are not read are not computed: a readout's columns of the weights."""

    name = "matrix products for the neurons read"

    def seeds(self, node: ir.Node, traced: Traced) -> Choice | None:
        """A Gather along the last axis."""
        found, dims = _constant_gather(node, traced), traced.dims(node.inputs[0]) if node.inputs else None
        if found is None or dims is None or found[0] != len(dims) - 1 or not isinstance(dims[-1], int):
            return None
        size = dims[-1]
        return Choice(found[0], tuple(int(number) % size for number in found[1].ravel()))
