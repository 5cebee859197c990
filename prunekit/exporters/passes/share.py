"""Passes that lift constants, share duplicates and drop values that are not read."""

from __future__ import annotations

from onnx_ir.passes import common

from prunekit.exporters.passes.base import GraphPass, TracedGraph


class LiftConstants(GraphPass):
    """Pass that turns constants into initializers, so that one rule reads them."""

    name = "constants lifted"
    looks = False

    def call(self, traced: TracedGraph) -> int:
        """Lift Constant nodes of any size and return their number."""
        before = len(traced.graph.initializers)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(traced.model)
        common.IdentityEliminationPass()(traced.model)
        return len(traced.graph.initializers) - before


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


class Prune(GraphPass):
    """Pass that drops values that are not read; the inputs stay, so that dense and slim files take the same feeds."""

    name = "dead values dropped"
    looks = False

    def call(self, traced: TracedGraph) -> int:
        """Return the number of initializers and nodes removed."""
        before = _size(traced)
        common.RemoveUnusedNodesPass()(traced.model)
        return before - _size(traced)


def _size(traced: TracedGraph) -> int:
    return len([*traced.graph]) + len(traced.graph.initializers)
