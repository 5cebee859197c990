"""The models that are exported and compared."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.plan import Plan, ReadoutPlan
from prunekit.plan_ops import slim_source
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.shrinking import Choice
from prunekit.stages.choose import STRUCTURE, shrunk
from prunekit.stages.neurons import fit_slim
from prunekit.stages.recovery import recovered
from prunekit.stages.text import slim_text
from prunekit.stages.values import Decided, Inputs, Models
from prunekit.transforms.apply import apply
from prunekit.transforms.readout import set_readout
from prunekit.transforms.solution import summary
from prunekit.transforms.vocabulary import drop_tokens


def build_models(recipe: Recipe, inputs: Inputs, decided: Decided, out: Path, scratch: Path, stage: Stages) -> Models:
    """The dense model, the slim one, and structure baselines where structure was chosen."""
    plan, neurons = decided.plan, decided.neurons
    dense: nn.Module = inputs.loaded.model
    source = inputs.view.source
    if neurons is not None and not inputs.own_head:
        everything = {layer: tuple(range(source.hidden)) for layer in range(source.layers + 1)}
        dense = apply(dense, Plan(source=source, readout=ReadoutPlan(pooling=inputs.pooling, neurons=everything)))
        set_readout(dense, *neurons.oracle)

    def read(model: nn.Module) -> nn.Module:
        if decided.stale and neurons is not None:
            view = ModelView.of(model)
            # A config need not say how wide the residual stream has become; the plan does.
            view.source = slim_source(plan.model_copy(update={"vocabulary": None}))
            set_readout(model, *fit_slim(inputs, view, plan, scratch, stage))
        return model

    baselines: dict[str, nn.Module] = {}
    if recipe.plan is None and any(budget.unit in STRUCTURE for budget in recipe.budgets):
        choices: tuple[Choice, ...] = ("random", "magnitude")
        for name in choices:
            with stage(f"shrink, {name}"):
                cut = shrunk(recipe, inputs, decided.reader, decided.before, name, stage)
            baselines[name] = drop_tokens(read(cut.model), plan)
    slim = read(decided.model)
    notes = summary(decided.solutions)
    if recipe.recover is not None:
        found = recovered(recipe, inputs, dense, slim, plan, out, stage)
        slim, notes = found.model, (*notes, str(found), *(("random and magnitude were not trained",) if baselines else ()))
    slim = drop_tokens(slim, plan)
    lengths = inputs.encoded["train"].lengths
    counts = {"dense": count(inputs.view, lengths), "slim": count(slim, lengths)}
    return Models(dense, slim, plan, baselines, counts, slim_text(recipe, inputs, plan), notes)
