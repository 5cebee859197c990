"""Removal of attention heads (key/value groups, for grouped-query attention), or of whole attention blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView
from prunekit.transforms.head_bias import narrow_table
from prunekit.transforms.units import BlockUnits, record
from prunekit.validation.indices import Indices


@final
class DropHeads(BlockUnits):
    """Removal of all heads but those of `plan.heads`."""

    role = "heads"

    def part(self, view: ModelView) -> SubBlock:
        """Return the attention of a block."""
        return view.spec.attention

    def outside(self, view: ModelView, kept: Mapping[int, Indices]) -> None:
        """Cut the table with one column per head; record the number of heads if the head size does not depend on it."""
        narrow_table(view)
        units, widths = view.source.heads, {len(indices) for indices in kept.values()}
        if view.spec.free_head_dim and getattr(view.config, "head_dim", None) and len(widths) == 1 and 0 not in widths:
            width = widths.pop()
            record(view, "num_attention_heads", view.config.num_attention_heads * width // units)
            record(view, "num_key_value_heads", width)
