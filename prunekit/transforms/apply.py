"""`apply(model, plan)`: build the slim model that a plan describes."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from prunekit.arch.view import DENSE, UNITS, Embedder, ModelView, Reader
from prunekit.errors import PlanError
from prunekit.plan import Plan, ffn_units, kept_blocks
from prunekit.transforms.base import Transform
from prunekit.transforms.components import ReadComponents
from prunekit.transforms.ffn import DropFFN
from prunekit.transforms.heads import DropHeads
from prunekit.transforms.hidden import DropHidden
from prunekit.transforms.layers import DropLayers
from prunekit.transforms.readout_head import Readout
from prunekit.transforms.units import record
from prunekit.transforms.vocabulary import DropVocabulary

# The residual stream is narrowed before sub-blocks are removed, since the stubs in their place have no roles.
ORDER: tuple[Transform, ...] = (DropLayers(), DropHidden(), DropHeads(), DropFFN(), DropVocabulary(), ReadComponents())


def check_fit(view: ModelView, plan: Plan) -> None:
    """Raise PlanError, naming the first difference, if the plan was made for a model of another shape."""
    for name, ours in view.source:
        theirs = getattr(plan.source, name)
        if ours != theirs:
            raise PlanError(f"The plan was made for a model with {name} = {theirs}; this one has {name} = {ours}.")


def check_uncut(view: ModelView) -> None:
    """Raise PlanError if a plan has been applied to the model."""
    if getattr(view.config, DENSE, None) is not None:
        raise PlanError("The model is pruned already; compose the plans (prunekit.plan.compose) and apply them to the dense model.")


def check_units(view: ModelView, plan: Plan) -> None:
    """Raise PlanError if a plan keeps units that an already pruned model does not have."""
    for role, named in (("heads", plan.heads), ("ffn", plan.ffn)):
        for block, units in named.items():
            remaining = view.units(role, block)
            if units and units[-1] >= remaining:
                raise PlanError(f"The plan keeps {role} {units[-1]} of block {block}; of those the model was left {remaining} before.")


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Cut a copy of a model down to what a plan keeps.

    Parameters
    ----------
    model : PreTrainedModel
        Dense model of a supported family, with or without a task head; it is not modified. It may be on the meta
        device.
    plan : Plan
        Made for a model of the same shape.

    Returns
    -------
    nn.Module
        The same class of model; a `ReadoutModel` if the plan has a readout.

    Raises
    ------
    PlanError
        If the plan does not fit the model.
    UnsupportedError
        If the family cannot express what the plan requires.
    """
    dense = ModelView.of(model)
    check_uncut(dense)
    check_fit(dense, plan)
    check_units(dense, plan)
    view = ModelView.of(copy.deepcopy(model))
    _record_dense_config(view)
    readout = Readout()
    if readout.concerns(plan):
        view = ModelView.of(readout(view, plan))
    transforms = [transform for transform in ORDER if transform.concerns(plan)]
    for transform in transforms:
        transform.requires(view, plan)
    for transform in transforms:
        transform.carry_out(view, plan)
    if hasattr(view.config, UNITS):
        remember_units(view, completed(dense, plan))
    return view.model


def completed(view: ModelView, plan: Plan) -> Plan:
    """Return a plan extended by the units that its model has already lost, equivalent on a model of the full shape.

    An already pruned model is numbered as one with all units in the sizes of its config, of which it has the first.
    """
    recorded = getattr(view.config, UNITS, None)
    if recorded is None:
        return plan
    remaining = {role: {block: tuple(range(units)) for block, units in enumerate(recorded[role])} for role in ("heads", "ffn")}
    affine = tuple(sorted({*(plan.affine or ()), *(block for block in recorded["affine"] if not plan.ffn.get(block))}))
    heads = {**{block: units for block, units in remaining["heads"].items() if len(units) < view.source.heads}, **plan.heads}
    ffn = {**{block: units for block, units in remaining["ffn"].items() if len(units) < view.source.ffn}, **plan.ffn}
    ffn = {block: units for block, units in ffn.items() if block not in affine}
    return Plan.model_validate({**dict(plan), "heads": heads, "ffn": ffn, "affine": affine or None})


def remember_units(view: ModelView, plan: Plan) -> None:
    """Record in the config of a model the number of units that a plan leaves, for a later pruning."""
    blocks, named = kept_blocks(plan), {"heads": plan.heads, "ffn": ffn_units(plan)}
    sizes: dict[str, list[int]] = {
        role: [len(units[block]) if block in units else getattr(plan.source, role) for block in blocks] for role, units in named.items()
    }
    record(view, UNITS, {**sizes, "affine": [position for position, block in enumerate(blocks) if block in (plan.affine or ())]})


def note_sizes(view: ModelView, plan: Plan) -> None:
    """Record the sizes that a plan leaves in the config of a model that was cut unit by unit, as `apply` does."""
    for transform in (DropHeads(), DropFFN()):
        transform.outside(view, transform.kept(view, plan))


def settled(model: nn.Module, plan: Plan, solved: nn.Module) -> nn.Module:
    """Return the plan applied to the dense model, so that config and sizes follow from the plan alone, with refitted weights."""
    if isinstance(model, Reader):
        return solved
    slim = apply(model, plan)
    take_solved(slim, solved)
    return slim


def take_solved(made: nn.Module, solved: nn.Module) -> None:
    """Load into a model made by `apply` the weights of one whose blocks were cut and refitted one by one.

    Weights outside the blocks are not refitted. A table with one column per head is narrower if all blocks are cut at once, and is kept.
    """
    weights = solved.state_dict()
    made.load_state_dict(
        {name: weights[name] if tensor.shape == weights[name].shape else tensor for name, tensor in made.state_dict().items()}
    )


def _record_dense_config(view: ModelView) -> None:
    config: Any = view.config
    model = view.body if isinstance(view.model, Embedder) else view.model
    # A body's config names the language model that it was loaded from, which has other modules.
    if not config.architectures or model is view.body:
        record(view, "architectures", [type(model).__name__])
    record(view, DENSE, {name: value for name, value in config.to_dict().items() if name != UNITS})
