"""Passes that lift constants, share duplicates and drop values that are not read."""

from __future__ import annotations

from typing import final

from onnx_ir.passes import common

from prunekit.exporters.passes.base import GraphPass, TracedGraph


@final
class LiftConstants(GraphPass):
    """Pass that turns constants into initializers, so that one rule reads them."""

    name = "constants lifted"
    looks = False

    def call(self, traced: TracedGraph) -> int:
        """Lift Constant nodes of any size and return their number."""
        before = len(traced.graph.initializers)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(traced.model)
        _drop_identities(traced)
        return len(traced.graph.initializers) - before


@final
class Share(GraphPass):
    """Pass that stores equal weights once, and computes equal values once."""

    name = "duplicates shared"
    looks = False

    def call(self, traced: TracedGraph) -> int:
        """Return the number of initializers and nodes removed."""
        before = _size(traced)
        common.DeduplicateHashedInitializersPass()(traced.model)
        common.CommonSubexpressionEliminationPass()(traced.model)
        return before - _size(traced)


@final
class Prune(GraphPass):
    """Pass that drops values that are not read; the inputs stay, so that dense and slim files take the same feeds."""

    name = "dead values dropped"
    looks = False

    def call(self, traced: TracedGraph) -> int:
        """Return the number of initializers and nodes removed."""
        before = _size(traced)
        common.RemoveUnusedNodesPass()(traced.model)
        return before - _size(traced)


def _drop_identities(traced: TracedGraph) -> None:
    # Of the main graph alone: a branch of an If must itself make what it gives, if only as an Identity of a value from outside.
    for node in traced.nodes("Identity"):
        given, copied = node.inputs[0], node.outputs[0]
        if given is None or (copied.is_graph_output() and (given.producer() is None or given.is_graph_output())):
            continue
        if copied.is_graph_output():
            traced.replace(copied, given)
        else:
            copied.replace_all_uses_with(given)
        traced.graph.remove(node, safe=True)


def _size(traced: TracedGraph) -> int:
    return len([*traced.graph]) + len(traced.graph.initializers)
