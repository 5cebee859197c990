"""What every graph pass has in common: requires -> call -> ensures, on a graph whose shapes were seen and not inferred."""

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


class Traced:
    """A graph, and what its values were when it ran on the probes.

    Parameters
    ----------
    model : ir.Model
    probes : sequence of Probe
        What was seen in runs of different batch sizes and lengths; values that a pass has added are not in them.
    max_length : int
        Longest row that the graph must take.
    run : int
        Of the pass, in the names of new values.

    Attributes
    ----------
    graph : ir.Graph
    signature : list of str
        Names of the inputs and outputs.
    """

    def __init__(self, model: ir.Model, probes: Sequence[Probe], max_length: int, run: int = 0) -> None:
        self.model, self.graph, self.probes, self.max_length = model, model.graph, tuple(probes), max_length
        self.signature = _signature(model)
        self._made, self._run = 0, run

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Each axis of a value: a size, "batch", "length", or None for another; None for a value that was not seen."""
        if value is None:
            return None
        if value.const_value is not None:
            return tuple(int(size) for size in value.const_value.shape)  # type: ignore[arg-type]  # sizes of a constant are numbers
        seen = [probe.shapes.get(value.name or "") for probe in self.probes]
        shapes = [shape for shape in seen if shape is not None]
        if len(shapes) < len(seen) or len({len(shape) for shape in shapes}) != 1:
            return None
        return tuple(form_of(sizes, self.probes) for sizes in zip(*shapes, strict=True))

    def constant(self, value: ir.Value | None) -> NDArray[Any] | None:
        """The array of an initializer, None for any other value."""
        return None if value is None or value.const_value is None else value.const_value.numpy()

    def new_name(self, like: str) -> str:
        """A name that no value has."""
        self._made += 1
        return f"/prunekit/{like.removeprefix('/prunekit/')}_{self._run}_{self._made}"

    def add_constant(self, array: NDArray[Any], like: str) -> ir.Value:
        """A new initializer whose name begins as another's."""
        name = self.new_name(like)
        tensor = ir.tensor(np.array(array, order="C"), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def add_node(self, before: ir.Node, op: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """A new node with one output, placed before another."""
        node = ir.node(op, inputs, attributes)
        node.name = self.new_name(op)
        node.outputs[0].name = f"{node.name}_output_0"
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every reader of a value, the graph's outputs among them, read another that is the same; it takes over the name."""
        name, new.shape, new.type = old.name, old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=old.is_graph_output())
        old.name, new.name = f"{name}_before", name

    def reshape_to(self, node: ir.Node, sizes: Sequence[int]) -> None:
        """Give a Reshape a constant shape in which 0 says that an axis stays."""
        node.replace_input_with(1, self.add_constant(np.array(sizes, dtype=np.int64), "/prunekit/shape"))
        node.attributes.pop("allowzero", None)

    def nodes(self, *ops: str) -> Iterator[ir.Node]:
        """The graph's nodes of these kinds, in order; the graph may be changed meanwhile."""
        for node in [*self.graph]:
            if node.op_type in ops and node.graph is not None:
                yield node


def form_of(sizes: Sequence[int], probes: Sequence[Probe]) -> Dim:
    """What one number, seen in every probe, is."""
    if len(set(sizes)) == 1:
        return int(sizes[0])
    if all(size == probe.rows for size, probe in zip(sizes, probes, strict=True)):
        return "batch"
    if all(size == probe.length for size, probe in zip(sizes, probes, strict=True)):
        return "length"
    return None


class GraphPass(Contract[[Traced], int]):
    """One change of a graph that leaves what it computes as it was; called, it gives the number of places changed.

    Attributes
    ----------
    name : str
        How the report calls it.
    looks : bool
        Whether the pass reads what was seen in the probes.
    reshapes : bool
        Whether values that stay have another shape or content afterwards, so that one must look again.
    """

    name: str
    looks: bool = True
    reshapes: bool = False

    def requires(self, traced: Traced) -> None:
        """Nothing: a pass leaves alone what it does not know."""

    @abstractmethod
    def call(self, traced: Traced) -> int:
        """Change the graph in place; the number of places changed."""

    def ensures(self, result: int, traced: Traced) -> None:
        """Every value that is read must be there before it is read; what the file takes and gives must be what it was."""
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
