"""The models that are exported and compared."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.pipeline.decide import baseline
from prunekit.pipeline.neurons import CHOICE_ROWS, fit_slim
from prunekit.pipeline.records import Decided, Inputs, Models
from prunekit.pipeline.recovery import effort_of, recovered
from prunekit.pipeline.targets import deployed_dense
from prunekit.pipeline.vocabulary import slim_text
from prunekit.plan import slim_source
from prunekit.pruning.iterative import Choice
from prunekit.recipe import Recipe
from prunekit.refit.solution import summary
from prunekit.report.model import BASELINES
from prunekit.report.progress import Stages
from prunekit.transforms.readout_head import set_readout
from prunekit.transforms.vocabulary import drop_tokens


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

    baselines: dict[str, nn.Module] = {}
    if decided.goals:
        choices: tuple[Choice, ...] = ("random", "magnitude")
        for name in choices:
            with stage(f"shrink, {name}", unit="steps"):
                cut = baseline(inputs, decided, name, stage)
            baselines[name] = drop_tokens(read(cut), plan)
    slim = read(decided.model)
    notes = (*decided.notes, *summary(decided.solutions))
    if effort is not None:
        before = drop_tokens(copy.deepcopy(slim), plan)
        found = recovered(recipe, effort, inputs, dense, slim, plan, out, stage)
        slim, notes = found.model, (*notes, str(found))
        if baselines or (neurons is not None and neurons.test.keys() & set(BASELINES)):
            notes = (*notes, "random and magnitude were not trained: they are compared with the slim model as it was before training")
        baselines["untrained"] = before
    slim = drop_tokens(slim, plan)
    lengths = inputs.encoded["train"].lengths
    counts = {"dense": count(inputs.view, lengths), "slim": count(slim, lengths)}
    return Models(dense, slim, plan, baselines, counts, slim_text(recipe, inputs, plan), notes)
