"""What FFN neurons and heads have in common: units of a block, which may lose all of them."""

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
    """Keeps units of each block; a block that keeps none loses the whole sub-block, but for its output bias."""

    role: ClassVar[Role]

    @abstractmethod
    def part(self, view: ModelView) -> SubBlock:
        """The sub-block that holds the units."""

    def empty(self, view: ModelView, block: nn.Module, plan: Plan, number: int) -> None:
        """Take the whole sub-block out of block `number` of the dense model."""
        remove(block, self.part(view))

    @abstractmethod
    def outside(self, view: ModelView, kept: Mapping[int, Indices]) -> None:
        """Cut what these units own outside the blocks, and record uniform sizes in the config."""

    def named(self, plan: Plan) -> Mapping[int, Indices]:
        """{block: units kept} of the blocks that the plan names."""
        found: Mapping[int, Indices] = getattr(plan, self.role)
        return found

    def kept(self, view: ModelView, plan: Plan) -> dict[int, Indices]:
        """{block: units kept} for every block that exists after the plan, always explicit."""
        named = self.named(plan)
        return {block: named[block] if block in named else tuple(range(view.units(self.role, block))) for block in kept_blocks(plan)}

    def concerns(self, plan: Plan) -> bool:
        """Whether any block that exists loses units."""
        named, every = self.named(plan), getattr(plan.source, self.role)
        return any(block in named and len(named[block]) < every for block in kept_blocks(plan))

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Families whose blocks share weights must keep the same units everywhere."""
        view.check(self.role)
        view.roles()
        if view.spec.shared_blocks and len(set(self.kept(view, plan).values())) > 1:
            raise UnsupportedError(f"{plan.source.model_type} model, {self.role}: {view.spec.shared_blocks}.")

    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Slice, or remove, block by block."""
        kept = self.kept(view, plan)
        # Shared blocks are stored once; `requires` saw that all of them keep the same.
        for block, (number, indices) in zip(view.blocks, kept.items(), strict=False):
            units = view.units(self.role, number)
            if units and not indices:
                self.empty(view, block, plan, number)
            elif len(indices) < units:
                slice_units(view, block, self.role, indices, units)
        self.outside(view, kept)
        return view.model

    def ensures(self, model: nn.Module, view: ModelView, plan: Plan) -> None:
        """No projection is left with an empty axis: runtimes cannot export those."""
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
