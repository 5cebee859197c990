"""Base class of the graph passes: requires -> call -> ensures, on a graph whose shapes are observed and not inferred."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunekit.errors import ExportError
from prunekit.exporters.passes.probe import Dim, Probe
from prunekit.validation.contract import Contract


class TracedGraph:
    """A graph, and its values when it ran on the probes.

    Parameters
    ----------
    model : ir.Model
    probes : sequence of Probe
        Observations of runs with different batch sizes and lengths; values that a pass has added are not in them.
    max_length : int
        Longest row that the graph must take.
    run : int
        Number of the pass, for the names of new values.

    Attributes
    ----------
    graph : ir.Graph
    signature : list of str
        Names of the inputs and outputs.
    """

    def __init__(self, model: ir.Model, probes: Sequence[Probe], max_length: int, run: int = 0) -> None:
        self.model, self.graph, self.probes, self.max_length = model, model.graph, tuple(probes), max_length
        self.signature = _signature(model)
        self._new_names, self._run = 0, run

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Return each axis of a value: a size, "batch", "length", or None for another; None for a value that was not observed."""
        if value is None:
            return None
        if value.const_value is not None:
            return tuple(int(size) for size in value.const_value.shape)  # type: ignore[arg-type]  # sizes of a constant are numbers
        observed = [probe.shapes.get(value.name or "") for probe in self.probes]
        shapes = [shape for shape in observed if shape is not None]
        if len(shapes) < len(observed) or len({len(shape) for shape in shapes}) != 1:
            return None
        return tuple(form_of(sizes, self.probes) for sizes in zip(*shapes, strict=True))

    def constant(self, value: ir.Value | None) -> NDArray[Any] | None:
        """Return the array of an initializer, None for any other value."""
        return None if value is None or value.const_value is None else value.const_value.numpy()

    def new_name(self, like: str) -> str:
        """Return a name that no value has."""
        self._new_names += 1
        return f"/prunekit/{like.removeprefix('/prunekit/')}_{self._run}_{self._new_names}"

    def add_constant(self, array: NDArray[Any], like: str) -> ir.Value:
        """Add an initializer whose name begins like another's."""
        name = self.new_name(like)
        tensor = ir.tensor(np.array(array, order="C"), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def add_node(self, before: ir.Node, op: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """Add a node with one output before another, and return the output."""
        node = ir.node(op, inputs, attributes)
        node.name = self.new_name(op)
        node.outputs[0].name = f"{node.name}_output_0"
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Replace all uses of a value, graph outputs included, by an equal value, which takes over the name."""
        name, new.shape, new.type = old.name, old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=old.is_graph_output())
        old.name, new.name = f"{name}_before", name

    def reshape_to(self, node: ir.Node, sizes: Sequence[int]) -> None:
        """Give a Reshape a constant shape in which 0 keeps an axis."""
        node.replace_input_with(1, self.add_constant(np.array(sizes, dtype=np.int64), "/prunekit/shape"))
        node.attributes.pop("allowzero", None)

    def nodes(self, *ops: str) -> Iterator[ir.Node]:
        """Yield the graph's nodes of these kinds, in order; the graph may be changed during iteration."""
        for node in [*self.graph]:
            if node.op_type in ops and node.graph is not None:
                yield node


def form_of(sizes: Sequence[int], probes: Sequence[Probe]) -> Dim:
    """Return the form of a number observed in every probe: the number itself, "batch", "length", or None for another."""
    if len(set(sizes)) == 1:
        return int(sizes[0])
    if all(size == probe.rows for size, probe in zip(sizes, probes, strict=True)):
        return "batch"
    if all(size == probe.length for size, probe in zip(sizes, probes, strict=True)):
        return "length"
    return None


class GraphPass(Contract[[TracedGraph], int]):
    """A change of a graph that preserves what it computes; a call returns the number of changes.

    Attributes
    ----------
    name : str
        Name in the report.
    looks : bool
        Whether the pass reads the probes.
    reshapes : bool
        Whether values that stay have another shape or content afterwards, so that the graph must be probed again.
    """

    name: str
    looks: bool = True
    reshapes: bool = False

    def requires(self, traced: TracedGraph) -> None:
        """Require nothing: a pass leaves unknown operators unchanged."""

    @abstractmethod
    def call(self, traced: TracedGraph) -> int:
        """Change the graph in place and return the number of changes."""

    def ensures(self, result: int, traced: TracedGraph) -> None:
        """Check that every value is produced before it is read, and that the names of inputs and outputs are unchanged."""
        known = {id(value) for value in (*traced.graph.inputs, *traced.graph.initializers.values())}
        for node in traced.graph:
            for value in node.inputs:
                if value is not None and id(value) not in known:
                    raise ExportError(f"The graph pass {self.name!r} has left {value.name!r} without a producer before its reader.")
            known.update(id(value) for value in node.outputs)
        if _signature(traced.model) != traced.signature:
            raise ExportError(f"The graph pass {self.name!r} has changed the inputs or outputs of the file.")


def _signature(model: ir.Model) -> list[str | None]:
    return [value.name for value in (*model.graph.inputs, *model.graph.outputs)]
