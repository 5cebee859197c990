"""Masks of units of a model while it is trained, before they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.arch.view import ModelView, find
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan
from prunekit.stats.blocks import ROLES, Site
from prunekit.training.live import kept_units


class Masks:
    """Masks on the units of a model in training where they enter their output projections, as if they were cut.

    Raises
    ------
    UnsupportedError
        If the family's projections are not modules, so that no hook can be registered on them.
    """

    def __init__(self, view: ModelView, blocks: Sequence[int], before: Plan, after: Plan) -> None:
        self._handles = []
        for place in range(1 if view.spec.shared_blocks else view.num_layers):
            for role in ROLES:
                site = Site(place, role)
                before_units, after_units = (kept_units(plan, blocks[place], role) for plan in (before, after))
                if after_units == before_units:
                    continue
                module = find(view.blocks[place], site.part(view).output)
                if not isinstance(module, nn.Module):
                    raise UnsupportedError(f"{view.source.model_type} model: {role} cannot be masked; slice at every step (masks=False).")
                self._handles.append(
                    module.register_forward_pre_hook(_mask_hook([before_units.index(unit) for unit in after_units], len(before_units)))
                )

    def remove(self) -> None:
        """Remove all masks."""
        for handle in self._handles:
            handle.remove()


def _mask_hook(kept: Sequence[int], units: int) -> Any:
    mask = torch.zeros(units, 1)
    mask[list(kept)] = 1

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        grouped = args[0].reshape(*args[0].shape[:-1], units, -1)
        return ((grouped * mask.to(grouped)).flatten(-2), *args[1:])

    return hook
