"""`apply(model, plan)`: the slim model that a plan describes."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from prunekit.arch.view import UNITS, Embedder, ModelView, Reader
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

#: Config key under which a slim model remembers the config of the dense one, so that it can be rebuilt.
DENSE = "dense_config"

# The residual stream is narrowed before sub-blocks are taken out: what stands in their place has no roles any more.
ORDER: tuple[Transform, ...] = (DropLayers(), DropHidden(), DropHeads(), DropFFN(), DropVocabulary(), ReadComponents())


def check_fit(view: ModelView, plan: Plan) -> None:
    """Raise PlanError, naming the first difference, if the plan was made for a model of another shape."""
    for name, ours in view.source:
        theirs = getattr(plan.source, name)
        if ours != theirs:
            raise PlanError(f"The plan was made for a model with {name} = {theirs}; this one has {name} = {ours}.")


def check_units(view: ModelView, plan: Plan) -> None:
    """Raise PlanError if a plan keeps units that a model has lost before."""
    for role, named in (("heads", plan.heads), ("ffn", plan.ffn)):
        for block, units in named.items():
            left = view.units(role, block)
            if units and units[-1] >= left:
                raise PlanError(f"The plan keeps {role} {units[-1]} of block {block}; of those the model was left {left} before.")


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Cut a copy of a model down to what a plan keeps.

    Parameters
    ----------
    model : PreTrainedModel
        Dense model of a supported family, with or without a task head; it is left as it is. It may live on the meta
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
        If the family cannot express what the plan asks.
    """
    dense = ModelView.of(model)
    if getattr(dense.config, DENSE, None) is not None:
        raise PlanError("The model is pruned already; compose the plans (prunekit.plan.compose) and apply them to the dense model.")
    check_fit(dense, plan)
    check_units(dense, plan)
    view = ModelView.of(copy.deepcopy(model))
    _remember(view)
    readout = Readout()
    if readout.concerns(plan):
        view = ModelView.of(readout(view, plan))
    wanted = [transform for transform in ORDER if transform.concerns(plan)]
    for transform in wanted:
        transform.requires(view, plan)
    for transform in wanted:
        transform.carry_out(view, plan)
    if hasattr(view.config, UNITS):
        remember_units(view, completed(dense, plan))
    return view.model


def completed(view: ModelView, plan: Plan) -> Plan:
    """A plan that names, beside what another one does, what its model has lost before: it makes the same of the shape's whole model.

    A model that was pruned before is numbered as one with all units that its config speaks of, of which it has the first.
    """
    left = getattr(view.config, UNITS, None)
    if left is None:
        return plan
    ours = {role: {block: tuple(range(units)) for block, units in enumerate(left[role])} for role in ("heads", "ffn")}
    affine = tuple(sorted({*(plan.affine or ()), *(block for block in left["affine"] if not plan.ffn.get(block))}))
    heads = {**{block: units for block, units in ours["heads"].items() if len(units) < view.source.heads}, **plan.heads}
    ffn = {**{block: units for block, units in ours["ffn"].items() if len(units) < view.source.ffn}, **plan.ffn}
    ffn = {block: units for block, units in ffn.items() if block not in affine}
    return Plan.model_validate({**dict(plan), "heads": heads, "ffn": ffn, "affine": affine or None})


def remember_units(view: ModelView, plan: Plan) -> None:
    """Note in a model's config which units a plan has left it, for whoever prunes it again."""
    blocks, named = kept_blocks(plan), {"heads": plan.heads, "ffn": ffn_units(plan)}
    left: dict[str, list[int]] = {
        role: [len(units[block]) if block in units else getattr(plan.source, role) for block in blocks] for role, units in named.items()
    }
    record(view, UNITS, {**left, "affine": [place for place, block in enumerate(blocks) if block in (plan.affine or ())]})


def note_sizes(view: ModelView, plan: Plan) -> None:
    """Record what a plan leaves in the config of a model that was cut unit by unit, as `apply` does."""
    for transform in (DropHeads(), DropFFN()):
        transform.outside(view, transform.kept(view, plan))


def settled(model: nn.Module, plan: Plan, solved: nn.Module) -> nn.Module:
    """The plan applied to the dense model, so that config and sizes are what the plan alone makes them, with solved weights."""
    if isinstance(model, Reader):
        return solved
    made = apply(model, plan)
    weights = solved.state_dict()
    own = {name: tensor if tensor.shape != weights[name].shape else weights[name] for name, tensor in made.state_dict().items()}
    made.load_state_dict(own)
    return made


def _remember(view: ModelView) -> None:
    config: Any = view.config
    if not config.architectures:
        record(view, "architectures", [type(view.body if isinstance(view.model, Embedder) else view.model).__name__])
    record(view, DENSE, {name: value for name, value in config.to_dict().items() if name != UNITS})
