"""Passes that compute values only for the positions, or the neurons, that are read.

A Gather with constant indices is moved backwards as far as the operators allow. A value on its path is narrowed in place if all
of its readers read the same indices of it; where a reader reads more, the Gather is inserted there. So the last layer's queries,
scores, attention output and FFN are computed for the [CLS] token only, while its keys and values keep all positions; and a readout
of some dimensions takes those columns of the weights that produce them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, final

import numpy as np
import onnx_ir as ir

from prunekit.exporters.passes.base import GraphPass, TracedGraph
from prunekit.exporters.passes.commute import attribute, moves, new_shape

#: Operators whose work is saved; moving a Gather over others alone would gain nothing.
_WORK = {"MatMul", "Gemm", "Einsum"}


class Selection(NamedTuple):
    """The indices along an axis of a value that are read."""

    axis: int
    indices: tuple[int, ...]


class _Hoist(GraphPass):
    """Pass that moves the selection of every Gather over one kind of axis backwards."""

    reshapes = True

    @abstractmethod
    def seeds(self, node: ir.Node, traced: TracedGraph) -> Selection | None:
        """Return the selection that a Gather reads of its first input, if it is of the kind that is moved."""

    def stops(self, node: ir.Node, steps: Mapping[ir.Node, Mapping[int, int]], traced: TracedGraph) -> bool:
        """Return whether a node is not worth narrowing, given the steps of the nodes before it."""
        return False

    def call(self, traced: TracedGraph) -> int:
        """Return the number of matrix products that became smaller."""
        reads: dict[tuple[ir.Node, int], Selection] = {}
        narrow: dict[ir.Value, Selection] = {}
        steps: dict[ir.Node, dict[int, int]] = {}
        for node in reversed([*traced.graph]):
            seed = self.seeds(node, traced)
            if seed is not None:
                reads[node, 0] = seed
                continue
            selection = _common_selection(node, reads, traced)
            step = None if selection is None else moves(node, selection.axis, traced)
            if selection is None or step is None:
                continue
            narrow.update((value, selection) for value in node.outputs)
            steps[node] = step
            reads.update(((node, at), Selection(axis, selection.indices)) for at, axis in step.items())
        for node in [node for node in traced.graph if node in steps]:
            if self.stops(node, steps, traced):
                for at in steps.pop(node):
                    del reads[node, at]
                for value in node.outputs:
                    del narrow[value]
        if not any(node.op_type in _WORK for node in steps):
            return 0
        self._rewrite(traced, reads, narrow, steps)
        return sum(node.op_type in _WORK for node in steps)

    def _rewrite(
        self,
        traced: TracedGraph,
        reads: dict[tuple[ir.Node, int], Selection],
        narrow: dict[ir.Value, Selection],
        steps: dict[ir.Node, dict[int, int]],
    ) -> None:
        gathered: dict[tuple[ir.Value, Selection], ir.Value] = {}
        # Shapes are those before anything was changed.
        reshapes = {node: self._shape(node, narrow[node.outputs[0]], steps[node][0], traced) for node in steps if node.op_type == "Reshape"}
        for (node, at), selection in reads.items():
            value = node.inputs[at]
            assert value is not None
            if value in narrow:
                if node not in steps:
                    self._read_narrow(node, selection, traced)
            elif node in steps:
                if (value, selection) not in gathered:
                    gathered[value, selection] = self._gather(value, selection, traced)
                node.replace_input_with(at, gathered[value, selection])
        for node, shape in reshapes.items():
            traced.reshape_to(node, shape)

    @staticmethod
    def _shape(node: ir.Node, selection: Selection, before: int, traced: TracedGraph) -> list[int]:
        source, target = traced.dims(node.inputs[0]), traced.dims(node.outputs[0])
        assert source is not None
        assert target is not None
        sizes = [len(selection.indices) if at == selection.axis else form for at, form in enumerate(target)]
        shape = new_shape(source, sizes, before)
        assert shape is not None
        return shape

    @staticmethod
    def _read_narrow(node: ir.Node, selection: Selection, traced: TracedGraph) -> None:
        """Renumber a Gather of a value that holds nothing but what the Gather reads."""
        index = traced.constant(node.inputs[1])
        assert index is not None
        places = np.arange(len(selection.indices), dtype=np.int64).reshape(index.shape)
        node.replace_input_with(1, traced.add_constant(places, "/prunekit/indices"))

    @staticmethod
    def _gather(value: ir.Value, selection: Selection, traced: TracedGraph) -> ir.Value:
        array = traced.constant(value)
        if array is not None:
            return traced.add_constant(np.take(array, selection.indices, axis=selection.axis), value.name or "")
        indices = traced.add_constant(np.array(selection.indices, dtype=np.int64), "/prunekit/indices")
        producer = value.producer()
        node = ir.node("Gather", [value, indices], {"axis": selection.axis})
        node.outputs[0].name = node.name = traced.new_name("Gather")
        if producer is None:
            traced.graph.insert_before(traced.graph[0], node)
        else:
            traced.graph.insert_after(producer, node)
        return node.outputs[0]


def _common_selection(node: ir.Node, reads: dict[tuple[ir.Node, int], Selection], traced: TracedGraph) -> Selection | None:
    """Return the selection that all readers of all of a node's outputs share; None if there is no such selection."""
    selections: set[Selection | None] = set()
    for value in node.outputs:
        if value.is_graph_output():
            return None
        selections.update(reads.get((reader, at)) for reader, at in value.uses())
    return selections.pop() if len(selections) == 1 else None


def _constant_gather(node: ir.Node, traced: TracedGraph) -> tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]] | None:
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or traced.constant(node.inputs[0]) is not None:
        return None
    dims, index = traced.dims(node.inputs[0]), traced.constant(node.inputs[1])
    if dims is None or index is None or not index.size:
        return None
    return attribute(node, "axis", 0) % len(dims), index


@final
class HoistPosition(_Hoist):
    """Pass that omits positions that are not read, in the layer that is read at the [CLS] token only."""

    name = "matrix products for the positions read"

    def seeds(self, node: ir.Node, traced: TracedGraph) -> Selection | None:
        """Return the selection of a Gather along the length."""
        gather, dims = _constant_gather(node, traced), traced.dims(node.inputs[0]) if node.inputs else None
        if gather is None or dims is None or dims[gather[0]] != "length" or len(dims) < 3:
            return None
        return Selection(gather[0], tuple(int(number) for number in gather[1].ravel()))


@final
class HoistFeatures(_Hoist):
    """Pass that omits neurons that are not read: a readout takes its columns of the weights."""

    name = "matrix products for the neurons read"

    def seeds(self, node: ir.Node, traced: TracedGraph) -> Selection | None:
        """Return the selection of a Gather along the last axis."""
        gather, dims = _constant_gather(node, traced), traced.dims(node.inputs[0]) if node.inputs else None
        if gather is None or dims is None or gather[0] != len(dims) - 1 or not isinstance(dims[-1], int):
            return None
        size = dims[-1]
        return Selection(gather[0], tuple(int(number) % size for number in gather[1].ravel()))

    def stops(self, node: ir.Node, steps: Mapping[ir.Node, Mapping[int, int]], traced: TracedGraph) -> bool:
        """Return whether no weight becomes smaller: to pick columns of all tokens costs more than a product with all of them."""
        moved = [node.inputs[at] for at in steps[node]]
        if node.op_type in _WORK and any(traced.constant(value) is not None for value in moved):
            return False
        return not any(value is not None and value.producer() in steps for value in moved)
