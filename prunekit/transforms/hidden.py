"""Removal of dimensions of the residual stream."""

from __future__ import annotations

from typing import final

from torch import nn

from prunekit.arch.view import ModelView, find
from prunekit.plan import Plan
from prunekit.transforms.base import Transform
from prunekit.transforms.surgery import slice_role
from prunekit.transforms.units import record


@final
class DropHidden(Transform):
    """Removal of all dimensions but those of `plan.hidden` from every parameter that reads or writes the residual stream.

    Norms are then computed over the dimensions kept.
    """

    def concerns(self, plan: Plan) -> bool:
        """Return whether a dimension is removed."""
        return plan.hidden is not None and len(plan.hidden) < plan.source.hidden

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Check that every parameter is described, those of the task head too."""
        view.check("hidden")
        view.roles()

    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Slice the parameters by role, and update the recorded widths."""
        assert plan.hidden is not None
        slice_role(view.model, view.roles(), "hidden", plan.hidden, plan.source.hidden)
        for path, attribute in view.spec.hidden_sizes:
            for block in view.blocks:
                module = find(block, path)
                if attribute in vars(module):
                    setattr(module, attribute, len(plan.hidden))
        if view.spec.free_head_dim and getattr(view.config, "head_dim", None) and len(plan.hidden) % view.config.num_attention_heads == 0:
            # Otherwise the config would derive a wrong head size from it, or fail to load.
            record(view, "hidden_size", len(plan.hidden))
        return view.model

    def ensures(self, model: nn.Module, view: ModelView, plan: Plan) -> None:
        """Check that every hidden axis has the new width."""
        assert plan.hidden is not None
        for name, axes in view.roles().items():
            for dim, axis in enumerate(axes):
                assert axis is None or axis.role != "hidden" or find(model, name).shape[dim] == len(plan.hidden), name
