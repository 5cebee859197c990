"""Base class for the removal of units of a block: FFN neurons and heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import nn

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan, kept_blocks
from prunekit.stats.blocks import Role
from prunekit.transforms.base import Transform
from prunekit.transforms.head_bias import pick_columns
from prunekit.transforms.layers import configs
from prunekit.transforms.surgery import remove, scale_sizes, slice_role
from prunekit.validation.indices import Indices


class BlockUnits(Transform):
    """Removal of units of each block; a block that keeps none loses the whole sub-block except its output bias."""

    role: ClassVar[Role]

    @abstractmethod
    def part(self, view: ModelView) -> SubBlock:
        """Return the sub-block that holds the units."""

    def empty(self, view: ModelView, block: nn.Module, plan: Plan, number: int) -> None:
        """Remove the whole sub-block from block `number` of the dense model."""
        remove(block, self.part(view))

    @abstractmethod
    def outside(self, view: ModelView, kept: Mapping[int, Indices]) -> None:
        """Cut the parameters of these units outside the blocks, and record uniform sizes in the config."""

    def named(self, plan: Plan) -> Mapping[int, Indices]:
        """Return {block: units kept} of the blocks that the plan names."""
        kept: Mapping[int, Indices] = getattr(plan, self.role)
        return kept

    def kept(self, view: ModelView, plan: Plan) -> dict[int, Indices]:
        """Return {block: units kept} for every block that exists after the plan, always explicit."""
        named = self.named(plan)
        return {block: named[block] if block in named else tuple(range(view.units(self.role, block))) for block in kept_blocks(plan)}

    def concerns(self, plan: Plan) -> bool:
        """Return whether any existing block loses units."""
        named, total = self.named(plan), getattr(plan.source, self.role)
        return any(block in named and len(named[block]) < total for block in kept_blocks(plan))

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Check that a family whose blocks share weights keeps the same units in all of them."""
        view.check(self.role)
        view.roles()
        if view.spec.shared_blocks and len(set(self.kept(view, plan).values())) > 1:
            raise UnsupportedError(f"{plan.source.model_type} model, {self.role}: {view.spec.shared_blocks}.")

    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Slice or remove the sub-blocks, block by block."""
        kept = self.kept(view, plan)
        # Shared blocks are stored once; `requires` checked that all of them keep the same units.
        for block, (number, indices) in zip(view.blocks, kept.items(), strict=False):
            units = view.units(self.role, number)
            if units and not indices:
                self.empty(view, block, plan, number)
            elif len(indices) < units:
                slice_units(view, block, self.role, indices, units)
        self.outside(view, kept)
        return view.model

    def ensures(self, model: nn.Module, view: ModelView, plan: Plan) -> None:
        """Check that no parameter has an empty axis, which cannot be exported."""
        assert all(parameter.numel() for parameter in view.blocks.parameters())


def slice_units(view: ModelView, block: nn.Module, role: Role, kept: Sequence[int], units: int) -> None:
    """Keep some, but not none, of the `units` that a block has."""
    slice_role(block, view.spec.block, role, kept, units)
    part = view.spec.attention if role == "heads" else view.spec.ffn
    scale_sizes(block, part.sizes, len(kept), units)
    if role == "heads":
        pick_columns(view, block, kept)


def record(view: ModelView, key: str, value: object) -> None:
    """Write a value into all configs of a model."""
    for config in configs(view.model):
        setattr(config, key, value)
