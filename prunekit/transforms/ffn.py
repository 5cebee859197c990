"""Drops FFN neurons, or whole FFN blocks."""

from __future__ import annotations

from collections.abc import Mapping

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView
from prunekit.plan import Indices
from prunekit.transforms.units import BlockUnits, record


class DropFFN(BlockUnits):
    """Keeps the neurons of `plan.ffn`."""

    role = "ffn"

    def part(self, view: ModelView) -> SubBlock:
        """The FFN of a block."""
        return view.spec.ffn

    def outside(self, view: ModelView, kept: Mapping[int, Indices]) -> None:
        """The config has one FFN width for all blocks; it is recorded if there is one."""
        widths = {len(units) for units in kept.values()}
        if len(widths) == 1 and 0 not in widths:
            record(view, view.spec.ffn_key, widths.pop())
