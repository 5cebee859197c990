"""Loading of a model that prunekit has pruned already, so that it can be pruned further."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from prunekit.arch.embedding import EmbeddingModel
from prunekit.arch.load import LoadedModel, agree, load_tokenizer
from prunekit.arch.view import DENSE, UNITS, ModelView, Reader
from prunekit.budget import Unit
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.checkpoint import PLAN, load
from prunekit.exporters.heads import head_of
from prunekit.plan import Plan, ReadoutPlan
from prunekit.recipe import Recipe
from prunekit.transforms.apply import completed, remember_units
from prunekit.transforms.head_bias import remember_columns
from prunekit.transforms.layers import configs
from prunekit.transforms.readout_head import ReadoutModel
from prunekit.transforms.units import record


def load_pruned(folder: Path, name: str) -> LoadedModel:
    """Load a model whose layers differ in width, numbered as one with all units of its config, of which it has the first.

    Parameters
    ----------
    folder : Path
        A directory that prunekit wrote.
    name : str
        Name that the user has for it.

    Raises
    ------
    PlanError, ModelError
        As in `prunekit.load`; and for a model that has lost what cannot be numbered so.
    """
    plan, model = Plan.load(folder / PLAN), load(folder)
    view = ModelView.of(model.body if isinstance(model, EmbeddingModel) else model)
    _check_numbered(view, plan, name)
    for config in configs(view.model):
        delattr(config, DENSE)
    remember_columns(view)
    if isinstance(view.model, Reader):
        record(view, DENSE, view.config.to_dict())
    remember_units(view, plan)
    tokenizer = load_tokenizer(folder, name=name)
    agree(name, tokenizer, view.config, None, True)
    head, network = head_of(view.model), view.model
    assert isinstance(network, PreTrainedModel | Reader)
    return LoadedModel(network, tokenizer, view.config, head != "feature-extraction", head == "token-classification", name)


def _check_numbered(view: ModelView, plan: Plan, name: str) -> None:
    """Refuse losses that the plan records and the config does not: another model of the same config would have those parts."""
    readout = plan.readout
    inner = view.spec.final_norm and readout is not None and readout.top < plan.source.layers
    lost = {"hidden dimensions": plan.hidden, "dimensions of what its head reads": plan.components, "its last norm": inner or None}
    for part, removed in lost.items():
        if removed is not None:
            raise ModelError(f"The model {name!r} has lost {part} and is not pruned again. Prune the model that it came from further.")


def standing(view: ModelView) -> Plan:
    """Return the plan that keeps all a model has; it names what an earlier pruning removed, and what the classifier reads."""
    plan = completed(view, Plan(source=view.source))
    if not isinstance(view.model, ReadoutModel):
        return plan
    neurons = {layer: tuple(view.model.get_buffer(f"dims_{layer}").tolist()) for layer in view.model.layers}
    return plan.model_copy(update={"readout": ReadoutPlan(pooling=view.model.pooling, neurons=neurons)})


def check_levers(recipe: Recipe, loaded: LoadedModel, *, of: str) -> None:
    """Raise ParameterError for what a model that was pruned already cannot be asked: equal widths, or more of one with a readout."""
    units = getattr(loaded.config, UNITS, None)
    if recipe.uniform and units is not None and (units["affine"] or any(len(set(units.get(role, ()))) > 1 for role in ("heads", "ffn"))):
        raise ParameterError("uniform", of, "left out for a model whose layers already differ in width", recipe.uniform)
    if not isinstance(loaded.model, Reader):
        return
    levers = {
        "layers": recipe.layers is not None,
        "drop": bool(recipe.drop),
        "plan": recipe.plan is not None,
        "keep": any(budget.unit is Unit.NEURONS for budget in recipe.budgets),
    }
    for name, requested in levers.items():
        if requested:
            must = "left out for a model whose classifier reads chosen neurons: heads and FFN neurons alone go (--keep 50%)"
            raise ParameterError(name, of, must, getattr(recipe, name))
