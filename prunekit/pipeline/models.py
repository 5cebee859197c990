"""The models that are exported and compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from prunekit.arch.count import count
from prunekit.pipeline.decide import baseline, other_readout
from prunekit.pipeline.dense import deployed_dense
from prunekit.pipeline.neurons import CHOICE_ROWS, DRAWS, fit_slim
from prunekit.pipeline.random_baseline import drawn_plan, solved_at_random
from prunekit.pipeline.records import Decided, Models, Run
from prunekit.pipeline.recovery import Training, bounded, effort_of
from prunekit.pipeline.vocabulary import slim_text
from prunekit.plan import Plan
from prunekit.readout.baselines import numbered
from prunekit.refit.records import summary
from prunekit.report.base import BASELINES, Baseline
from prunekit.runtime.heap import trim
from prunekit.transforms.readout_head import set_readout
from prunekit.transforms.vocabulary import drop_tokens

#: A baseline, its name, its number among its draws, and the plan that it was made by.
Drawn = tuple[str, int, nn.Module, Plan]


def build_models(run: Run, decided: Decided, out: Path) -> Models:
    """Build the dense model, the slim one, also as it was before training, and structure baselines where structure was chosen."""
    plan, neurons = decided.plan, decided.neurons
    effort = effort_of(run.recipe, plan)
    most = None if effort is None else CHOICE_ROWS
    dense = deployed_dense(run.inputs, neurons)

    def read(model: nn.Module) -> nn.Module:
        if decided.stale and neurons is not None:
            set_readout(model, *fit_slim(run, model, plan, most=most))
        return model

    training = None if effort is None else Training(run.recipe, bounded(effort, run.inputs), run.inputs, dense, run.stage)
    baseline_training = training if run.recipe.baselines else None
    baselines: dict[str, nn.Module] = {}
    for name, draw, model, drawn in _drawn(run, decided, read, trained=effort is not None):
        title = numbered(name, draw)
        baselines[title] = drop_tokens(model if baseline_training is None else baseline_training.baseline(model, drawn, title, draw), plan)
    slim = read(decided.model)
    notes = (*decided.notes, *summary(decided.solutions))
    tuned = None
    if training is not None:
        if decided.start is not None and not run.recipe.frontier:
            # Training needs the memory.
            decided.start.forget()
        before = drop_tokens(copy.deepcopy(slim), plan)
        recovered = training.slim(slim, plan, out)
        slim, notes = recovered.model, (*notes, str(recovered))
        if baseline_training is None and (baselines or (neurons is not None and neurons.test.keys() & set(BASELINES))):
            one = baselines.keys() == {"random"} and neurons is None
            untrained = "random was not trained: it is" if one else "random and magnitude were not trained: they are"
            notes = (*notes, f"{untrained} compared with the slim model as it was before training")
        if baseline_training is not None and neurons is not None and not run.inputs.own_head:
            tuned = baseline_training.baseline(dense, None, "dense")
        baselines["untrained"] = before
    slim = drop_tokens(slim, plan)
    lengths = run.inputs.encoded["train"].lengths
    counts = {"dense": count(run.inputs.view, lengths), "slim": count(slim, lengths)}
    return Models(dense, slim, plan, baselines, counts, slim_text(run, plan), notes, tuned, baseline_training is not None)


def _drawn(run: Run, decided: Decided, read: Callable[[nn.Module], nn.Module], *, trained: bool) -> Iterator[Drawn]:
    """Yield models of the same size, or that read as many neurons, by other criteria; several of each where that is asked for.

    Where the structure was given, and not chosen, one that is drawn at random.
    """
    others = run.recipe.baselines and trained and decided.neurons is not None and bool(decided.neurons.others)
    if not decided.goals and not others:
        for draw in range(DRAWS if run.recipe.baselines else 1):
            other = drawn_plan(run, decided, draw)
            if other is not None:
                yield "random", draw, solved_at_random(run, other, numbered("random", draw)), other
        return
    for name in BASELINES:
        draws = DRAWS if run.recipe.baselines and (name == "random" or trained) else 1
        for draw in range(draws):
            # The magnitude criterion gives the same model each time: only its training differs.
            if draw == 0 or name == "random":
                model, plan = _cut(run, decided, name, draw, read)
            yield name, draw, model, plan


def _cut(run: Run, decided: Decided, name: Baseline, draw: int, read: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, Plan]:
    """Return one of them, as it is before training, and its plan."""
    title = numbered(name, draw)
    if not decided.goals:
        other = other_readout(run.inputs, decided, title)
        return other.model, other.plan
    # What was cut before is no longer in use.
    trim()
    with run.stage(f"shrink, {title}", unit="steps"):
        cut = baseline(run, decided, name, draw)
    return read(cut.model), cut.plan
