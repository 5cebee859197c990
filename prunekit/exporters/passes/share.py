"""What is computed twice, stored twice or not read is there once, or not at all."""

from __future__ import annotations

from onnx_ir.passes import common

from prunekit.exporters.passes.base import GraphPass, Traced


class LiftConstants(GraphPass):
    """Constants are initializers, so that one rule reads them."""

    name = "constants lifted"
    looks = False

    def call(self, traced: Traced) -> int:
        """Constant nodes, of any size."""
        before = len(traced.graph.initializers)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(traced.model)
        common.IdentityEliminationPass()(traced.model)
        return len(traced.graph.initializers) - before


class Share(GraphPass):
    """Equal weights are stored once, and equal values computed once."""

    name = "duplicates shared"
    looks = False

    def call(self, traced: Traced) -> int:
        """Initializers and nodes that went."""
        before = _size(traced)
        common.DeduplicateHashedInitializersPass()(traced.model)
        common.CommonSubexpressionEliminationPass()(traced.model)
        return before - _size(traced)


class Prune(GraphPass):
    """What nobody reads is dropped; the inputs stay, so that dense and slim files are fed alike."""

    name = "dead values dropped"
    looks = False

    def call(self, traced: Traced) -> int:
        """Initializers and nodes that went."""
        before = _size(traced)
        common.RemoveUnusedNodesPass()(traced.model)
        return before - _size(traced)


def _size(traced: Traced) -> int:
    return len([*traced.graph]) + len(traced.graph.initializers)
