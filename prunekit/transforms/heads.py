"""Drops attention heads (key/value groups, where attention is grouped), or whole attention blocks."""

from __future__ import annotations

from collections.abc import Mapping

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan
from prunekit.transforms.surgery import scale_sizes, slice_role
from prunekit.transforms.units import BlockUnits, record
from prunekit.validation.indices import Indices


class DropHeads(BlockUnits):
    """Keeps the heads of `plan.heads`."""

    role = "heads"

    def part(self, view: ModelView) -> SubBlock:
        """The attention of a block."""
        return view.spec.attention

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Some families need the same heads in every block that keeps any."""
        super().requires(view, plan)
        if view.spec.equal_heads and len({units for units in self.kept(view, plan).values() if units}) > 1:
            raise UnsupportedError(f"{plan.source.model_type} model, heads: {view.spec.equal_heads}.")

    def outside(self, view: ModelView, kept: Mapping[int, Indices]) -> None:
        """Cut tables that are heads wide; record the number of heads if the head size does not follow from it."""
        units, sets = view.source.heads, {indices for indices in kept.values() if indices}
        if view.spec.equal_heads and sets:
            (indices,) = sets
            # Blocks without attention read no table; the others had equally many heads before.
            had = max(view.units(self.role, block) for block in kept)
            slice_role(view.body, view.spec.outer, self.role, indices, had)
            scale_sizes(view.body, view.spec.outer_head_sizes, len(indices), had)
        widths = {len(indices) for indices in kept.values()}
        if view.spec.free_head_dim and getattr(view.config, "head_dim", None) and len(widths) == 1 and 0 not in widths:
            width = widths.pop()
            record(view, "num_attention_heads", view.config.num_attention_heads * width // units)
            record(view, "num_key_value_heads", width)
