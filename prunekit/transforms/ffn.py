"""Drops FFN neurons, or whole FFN blocks, in whose place an affine map may stand (Sridhar & Sarah, 2020)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan, ffn_units, kept_blocks
from prunekit.transforms.surgery import remove, replace
from prunekit.transforms.units import BlockUnits, record
from prunekit.validation.indices import Indices


class DropFFN(BlockUnits):
    """Keeps the neurons of `plan.ffn`, and puts the affine maps of `plan.affine`."""

    role = "ffn"

    def part(self, view: ModelView) -> SubBlock:
        """The FFN of a block."""
        return view.spec.ffn

    def named(self, plan: Plan) -> Mapping[int, Indices]:
        """An affine map leaves no neurons."""
        return ffn_units(plan)

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Blocks that share weights become affine maps together."""
        super().requires(view, plan)
        if view.spec.shared_blocks and plan.affine and not set(kept_blocks(plan)) <= set(plan.affine):
            raise UnsupportedError(f"{plan.source.model_type} model, affine: {view.spec.shared_blocks}.")

    def empty(self, view: ModelView, block: nn.Module, plan: Plan, number: int) -> None:
        """Remove the FFN, or put an affine map of its input in its place."""
        if number in (plan.affine or ()):
            # In families that normalise what a sub-block reads, the norm behind attention is the one in front of the FFN.
            replace(block, view.spec.ffn, norm=view.spec.attention.sum)
        else:
            remove(block, view.spec.ffn)

    def outside(self, view: ModelView, kept: Mapping[int, Indices]) -> None:
        """The config has one FFN width for all blocks; it is recorded if there is one."""
        widths = {len(units) for units in kept.values()}
        if len(widths) == 1 and 0 not in widths:
            record(view, view.spec.ffn_key, widths.pop())
