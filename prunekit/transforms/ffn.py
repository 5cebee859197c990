"""Removal of FFN neurons, or of whole FFN blocks, which an affine map may replace (Sridhar & Sarah, 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import nn

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan, ffn_units, kept_blocks
from prunekit.transforms.surgery import remove, replace
from prunekit.transforms.units import BlockUnits, record
from prunekit.validation.indices import Indices


@final
class DropFFN(BlockUnits):
    """Removal of all FFN neurons but those of `plan.ffn`, and insertion of the affine maps of `plan.affine`."""

    role = "ffn"

    def part(self, view: ModelView) -> SubBlock:
        """Return the FFN of a block."""
        return view.spec.ffn

    def named(self, plan: Plan) -> Mapping[int, Indices]:
        """Return {block: neurons kept}; an affine map leaves none."""
        return ffn_units(plan)

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Check that blocks with shared weights become affine maps together."""
        super().requires(view, plan)
        if view.spec.shared_blocks and plan.affine and not set(kept_blocks(plan)) <= set(plan.affine):
            raise UnsupportedError(f"{plan.source.model_type} model, affine: {view.spec.shared_blocks}.")

    def empty(self, view: ModelView, block: nn.Module, plan: Plan, number: int) -> None:
        """Remove the FFN, or replace it by an affine map of its input."""
        if number in (plan.affine or ()):
            # In pre-norm families the norm after attention is the one before the FFN.
            replace(block, view.spec.ffn, norm=view.spec.attention.sum)
        else:
            remove(block, view.spec.ffn)

    def outside(self, view: ModelView, kept: Mapping[int, Indices]) -> None:
        """Record the FFN width in the config if it is the same for all blocks."""
        widths = {len(units) for units in kept.values()}
        if len(widths) == 1 and 0 not in widths:
            record(view, view.spec.ffn_key, widths.pop())
