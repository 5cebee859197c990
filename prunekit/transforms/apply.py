"""`apply(model, plan)`: the slim model that a plan describes."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from prunekit.arch.view import Embedder, ModelView, Reader
from prunekit.errors import PlanError
from prunekit.plan import Plan
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
    return view.model


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
    record(view, DENSE, config.to_dict())
