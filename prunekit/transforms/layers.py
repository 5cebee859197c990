"""Removal of whole blocks, and update of everything that records their number."""

from __future__ import annotations

from typing import final

from torch import nn

from prunekit.arch.view import ModelView, find
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan, kept_blocks
from prunekit.transforms.base import Transform
from prunekit.transforms.stubs import PassAttention
from prunekit.transforms.surgery import put


def configs(model: nn.Module) -> list[object]:
    """Return all distinct config objects of a model; a task head and its body may hold copies."""
    distinct = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    return list(distinct.values())


@final
class DropLayers(Transform):
    """Removal of all blocks but those of `plan.layers` below the highest layer read."""

    def concerns(self, plan: Plan) -> bool:
        """Return whether any block is removed."""
        return len(kept_blocks(plan)) < plan.source.layers

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Check that the family can lose these blocks; some can only lose their topmost ones."""
        kept = kept_blocks(plan)
        view.check("layers")
        if kept != tuple(range(len(kept))):
            view.check("inner layers")
        if not kept and plan.readout is None:
            raise UnsupportedError("A model without blocks needs a readout.")

    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Cut the list of blocks, renumber them, and cut per-block lists of the config."""
        kept = kept_blocks(plan)
        spec = view.spec
        if not spec.shared_blocks:
            blocks = view.blocks
            remaining = [blocks[old] for old in kept]
            put(view.body, spec.blocks, nn.ModuleList(remaining or ([PassAttention()] if spec.needs_block else [])))
            for new, old in enumerate(kept):
                for module in blocks[old].modules():
                    for attribute in ("layer_idx", "layer_id"):
                        if vars(module).get(attribute) == old:
                            setattr(module, attribute, new)
        for config in configs(view.model):
            layer_types = getattr(config, "layer_types", None)
            if layer_types is not None:
                setattr(config, "layer_types", [layer_types[old] for old in kept])  # noqa: B010
            setattr(config, "num_hidden_layers", len(kept))  # noqa: B010
        for path, attribute in spec.depth_sizes:
            setattr(find(view.body, path), attribute, len(kept))
        if spec.final_norm and plan.readout is not None and plan.readout.top < plan.source.layers:
            # Only the last state of the dense model passes this norm; the last state of the slim one is an inner state.
            put(view.body, spec.final_norm, nn.Identity())
        return view.model

    def ensures(self, model: nn.Module, view: ModelView, plan: Plan) -> None:
        """Check that the config and the list agree."""
        assert view.config.num_hidden_layers == len(kept_blocks(plan))
        assert view.spec.shared_blocks or view.spec.needs_block or len(view.blocks) == len(kept_blocks(plan))
