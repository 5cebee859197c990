"""The models that are exported and compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.pipeline.decide import baseline, other_readout
from prunekit.pipeline.neurons import CHOICE_ROWS, DRAWS, fit_slim
from prunekit.pipeline.records import Decided, Inputs, Models
from prunekit.pipeline.recovery import Training, bounded, effort_of
from prunekit.pipeline.targets import deployed_dense
from prunekit.pipeline.vocabulary import slim_text
from prunekit.plan import Plan, slim_source
from prunekit.readout.baselines import numbered
from prunekit.recipe import Recipe
from prunekit.refit.solution import summary
from prunekit.report.base import BASELINES, Baseline
from prunekit.report.progress import Stages
from prunekit.transforms.readout_head import set_readout
from prunekit.transforms.vocabulary import drop_tokens

#: A baseline, its name, its number among its draws, and the plan that it was made by.
Drawn = tuple[str, int, nn.Module, Plan]


def build_models(recipe: Recipe, inputs: Inputs, decided: Decided, out: Path, scratch: Path, stage: Stages) -> Models:
    """The dense model, the slim one, as it was before training too, and structure baselines where structure was chosen."""
    plan, neurons = decided.plan, decided.neurons
    effort = effort_of(recipe, plan)
    most = None if effort is None else CHOICE_ROWS
    dense = deployed_dense(inputs, neurons)

    def read(model: nn.Module) -> nn.Module:
        if decided.stale and neurons is not None:
            view = ModelView.of(model)
            # A config need not say how wide the residual stream has become; the plan does.
            view.source = slim_source(plan.model_copy(update={"vocabulary": None}))
            set_readout(model, *fit_slim(inputs, view, plan, scratch, stage, most=most))
        return model

    training = None if effort is None else Training(recipe, bounded(effort, inputs), inputs, dense, stage)
    alike = training if recipe.baselines else None
    baselines: dict[str, nn.Module] = {}
    for name, draw, model, drawn in _drawn(recipe, inputs, decided, read, stage, trained=effort is not None):
        each = numbered(name, draw)
        baselines[each] = drop_tokens(model if alike is None else alike.baseline(model, drawn, each, draw), plan)
    slim = read(decided.model)
    notes = (*decided.notes, *summary(decided.solutions))
    tuned = None
    if training is not None:
        before = drop_tokens(copy.deepcopy(slim), plan)
        found = training.slim(slim, plan, out)
        slim, notes = found.model, (*notes, str(found))
        if alike is None and (baselines or (neurons is not None and neurons.test.keys() & set(BASELINES))):
            notes = (*notes, "random and magnitude were not trained: they are compared with the slim model as it was before training")
        if alike is not None and neurons is not None and not inputs.own_head:
            tuned = alike.baseline(dense, None, "dense")
        baselines["untrained"] = before
    slim = drop_tokens(slim, plan)
    lengths = inputs.encoded["train"].lengths
    counts = {"dense": count(inputs.view, lengths), "slim": count(slim, lengths)}
    return Models(dense, slim, plan, baselines, counts, slim_text(recipe, inputs, plan), notes, tuned, alike is not None)


def _drawn(
    recipe: Recipe,
    inputs: Inputs,
    decided: Decided,
    read: Callable[[nn.Module], nn.Module],
    stage: Stages,
    *,
    trained: bool,
) -> Iterator[Drawn]:
    """Models of the same size, or that read as many neurons, by other choices; several of each where that is asked for."""
    others = recipe.baselines and trained and decided.neurons is not None and bool(decided.neurons.others)
    if not decided.goals and not others:
        return
    for name in BASELINES:
        draws = DRAWS if recipe.baselines and (name == "random" or trained) else 1
        for draw in range(draws):
            # What is largest is the same each time: only its training differs.
            if draw == 0 or name == "random":
                model, plan = _cut(inputs, decided, name, draw, read, stage)
            yield name, draw, model, plan


def _cut(
    inputs: Inputs, decided: Decided, name: Baseline, draw: int, read: Callable[[nn.Module], nn.Module], stage: Stages
) -> tuple[nn.Module, Plan]:
    """One of them, as it is before training."""
    each = numbered(name, draw)
    if not decided.goals:
        other = other_readout(inputs, decided, each)
        return other.model, other.plan
    with stage(f"shrink, {each}", unit="steps"):
        cut = baseline(inputs, decided, name, draw, stage)
    return read(cut.model), cut.plan
