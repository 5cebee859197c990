"""Choice of what is kept: under the budgets, or by a given plan."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from prunekit import __version__
from prunekit.arch.count import count
from prunekit.arch.view import DENSE, ModelView, Reader
from prunekit.pipeline.apply import solve
from prunekit.pipeline.drop import Drop
from prunekit.pipeline.early import blocks_asked
from prunekit.pipeline.inputs import calibration
from prunekit.pipeline.max_drop import Evaluator, NoneHoldsError, smallest
from prunekit.pipeline.neurons import given_neurons, keeps_head, read_neurons, reads_neurons, stored_neurons
from prunekit.pipeline.pruned import standing
from prunekit.pipeline.records import Cut, Decided, Inputs, Neurons, Run
from prunekit.pipeline.targets import goals_of, structure_budgets, verify
from prunekit.pipeline.unmet_output import UnmetError
from prunekit.pipeline.vocabulary import seen_tokens
from prunekit.plan import Plan, ReadoutPlan, kept_blocks
from prunekit.pruning.costs import Goal, Params
from prunekit.pruning.iterative import Criterion, IterativePruner, Origin, Shape, Shrunk
from prunekit.pruning.shrink import prune_to_targets
from prunekit.recipe import Recipe
from prunekit.refit.records import Solution
from prunekit.stats.record import Statistics
from prunekit.transforms.apply import apply, check_fit, check_units, completed, note_sizes, take_solved
from prunekit.transforms.layers import configs
from prunekit.transforms.readout_head import ReadoutModel, set_readout

#: Most bytes of moments that are kept for the other models that start alike while one is cut.
_SHARED = 2**30


class _Reading(NamedTuple):
    """Blocks and neurons that are left before heads and FFN neurons are chosen: `reader`, made by the plan `before` from a `cut` model."""

    cut: Cut
    neurons: Neurons | None
    before: Plan
    reader: nn.Module
    notes: tuple[str, ...] = ()


class _Structure(NamedTuple):
    """Heads and FFN neurons that are left: the model, its plan, and how they were chosen, as in `Decided`."""

    model: nn.Module
    plan: Plan
    solutions: tuple[Solution, ...] = ()
    start: IterativePruner | None = None
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()


def decide(run: Run, statistics: Statistics | None = None) -> Decided:
    """Choose blocks, neurons, heads and FFN neurons, and tokens, in this order, each on what the one before leaves.

    With the statistics of an analysis, neurons are chosen on these; there are then no outputs on the test split.
    """
    reading = _read(run) if statistics is None else _read_stored(run, statistics)
    goals = goals_of(run, reading.before, reading.neurons)
    if goals:
        structure = _prune(run, reading, goals)
        chosen = statistics is None and reading.neurons is not None
        if chosen and (note := keeps_head(run, structure.model, structure.plan)) is not None:
            reading = _reading(run, _cut(run, reads=False), None)._replace(notes=(*reading.notes, note))
            goals = goals_of(run, reading.before, None)
            structure = _prune(run, reading, goals)
    elif run.recipe.searches:
        structure = _search(run, reading)
    else:
        structure = _keep_structure(run, reading)
    before, plan = reading.before, structure.plan
    if run.recipe.vocabulary == "data":
        plan = Plan.model_validate({**dict(plan), "vocabulary": seen_tokens(run.inputs)})
    plan = plan.model_copy(update={"provenance": _provenance(run.recipe, run.inputs, statistics)})
    # Goals may be met without any head or FFN neuron being removed.
    goals = () if (plan.heads, plan.ffn) == (before.heads, before.ffn) else structure.goals
    return Decided(
        plan=plan,
        model=structure.model,
        reader=reading.reader,
        before=before,
        neurons=reading.neurons,
        stale=bool(goals),
        solutions=(*reading.cut.solutions, *structure.solutions),
        goals=goals,
        notes=(*reading.notes, *structure.notes),
        start=structure.start,
        cut=reading.cut,
    )


def _read(run: Run) -> _Reading:
    """Remove the blocks that were named, and choose the neurons that are read on what is left."""
    reads, notes = reads_neurons(run)
    cut = _cut(run, reads=reads)
    return _reading(run, cut, read_neurons(run, cut) if reads else None)._replace(notes=notes)


def _read_stored(run: Run, statistics: Statistics) -> _Reading:
    """Choose the neurons that are read on the statistics of an analysis."""
    return _reading(run, Cut(run.inputs.loaded.model), stored_neurons(run, statistics))


def _reading(run: Run, cut: Cut, neurons: Neurons | None) -> _Reading:
    initial = standing(run.inputs.view)
    readout = None if neurons is None else ReadoutPlan(pooling=run.inputs.pooling, neurons=dict(neurons.neurons))
    before = (cut.plan or initial).model_copy(update={"readout": readout or initial.readout})
    return _Reading(cut, neurons, before, cut.model if neurons is None else _reader(run.inputs, cut, before, neurons))


def _prune(run: Run, reading: _Reading, goals: tuple[Goal, ...]) -> _Structure:
    """Remove heads and FFN neurons until the budgets hold."""
    with run.stage("shrink", unit="steps"):
        start = iterative_pruner(run.recipe, run.inputs, reading.reader)
        start.check_reach(goals)
        work = _forked(start)
        check = verify(run, reading.neurons, goals)
        prune_to_targets(work, goals, tighten=check, trained=run.recipe.effort is not None, progress=run.stage.step)
        if check is not None and work.trace:
            check.settle(work)
        shrunk = merge_plans(run.inputs, reading.before, work)
    return _Structure(shrunk.model, shrunk.plan, shrunk.solutions, start, goals)


def _search(run: Run, reading: _Reading) -> _Structure:
    """Remove as many heads and FFN neurons as the largest drop allows; the size reached is the goal of the baselines."""
    assert run.recipe.max_drop is not None
    start = iterative_pruner(run.recipe, run.inputs, reading.reader)
    full = Goal(Params(), float(start.start.params_layers), float(start.start.params_layers), "--max-drop")
    evaluator = Evaluator(run, reading.neurons, run.inputs.held)

    def lose(candidate: IterativePruner) -> Drop:
        shrunk = merge_plans(run.inputs, reading.before, candidate)
        return evaluator.drop(evaluator.export(evaluator.read(shrunk.model, shrunk.plan), "candidate"))

    with run.stage("search", unit="candidates"):
        try:
            best, tried = smallest(start, full, lose, run.recipe.max_drop, progress=run.stage.step)
        except NoneHoldsError as error:
            if error.nearest is None:
                raise
            reached = merge_plans(run.inputs, reading.before, error.nearest).plan.model_copy(
                update={"provenance": _provenance(run.recipe, run.inputs, None)}
            )
            raise UnmetError(str(error), reached) from None
    goal = full.at(full.cost.of(best.view) / full.full)
    shrunk = merge_plans(run.inputs, reading.before, best)
    return _Structure(shrunk.model, shrunk.plan, shrunk.solutions, start, (goal,), tuple(f"search: {candidate}" for candidate in tried))


def _keep_structure(run: Run, reading: _Reading) -> _Structure:
    """Leave all heads and FFN neurons; the model is a copy where others start from the reader, or where that is the caller's."""
    if reading.reader is run.inputs.loaded.model:
        model = apply(reading.reader, reading.before)
    else:
        # A frontier starts from the reader, which what is done to the model must not change.
        model = copy.deepcopy(reading.reader) if run.recipe.frontier else reading.reader
    return _Structure(model, reading.before)


def refit_plan(run: Run, plan: Plan) -> Decided:
    """Carry out a given plan: cut, refit the weights, and fit the classifier that its readout needs."""
    plan = completed(run.inputs.view, plan)
    neurons = None if plan.readout is None else given_neurons(run, plan.readout)
    structure = Plan.model_validate({**dict(plan), "vocabulary": None})
    dense = run.inputs.loaded.model
    with run.stage("solve"):
        solved = solve(dense, structure, calibration_of(run.recipe, run.inputs), seed=run.recipe.seed)
    changed = any((plan.heads, plan.ffn, plan.affine, plan.hidden, plan.layers is not None))
    if neurons is not None:
        set_readout(solved.model, *neurons.probe)
    return Decided(
        plan=plan,
        model=solved.model,
        reader=solved.model,
        before=plan,
        neurons=neurons,
        stale=changed and neurons is not None,
        solutions=solved.solutions,
    )


def check_plan(view: ModelView, plan: Plan) -> None:
    """Raise PlanError or UnsupportedError, before any work is done, if a plan does not fit the model."""
    check_fit(view, plan)
    check_units(view, plan)
    for name, concerned in (("layers", plan.layers), ("hidden", plan.hidden), ("vocabulary", plan.vocabulary)):
        if concerned is not None:
            view.check(name)


def calibration_of(recipe: Recipe, inputs: Inputs) -> list[dict[str, Tensor]]:
    """Return the rows of train on which a run chooses heads and FFN neurons and refits."""
    return calibration(inputs.encoded["train"], recipe.seed, trained=recipe.effort is not None)


def iterative_pruner(recipe: Recipe, inputs: Inputs, reader: nn.Module) -> IterativePruner:
    """Return a pruner of heads and FFN neurons; shares are those of the dense model."""
    lengths = inputs.encoded["train"].lengths
    return IterativePruner(
        reader,
        calibration_of(recipe, inputs),
        origin=Origin(lengths, count(inputs.view, lengths)),
        shape=Shape(recipe.uniform, recipe.multiple_of),
        seed=recipe.seed,
    )


def _forked(start: IterativePruner, criterion: Criterion | None = None, draw: int = 0) -> IterativePruner:
    """Return a fork of a pruner at its start, which forgets large moments: the next fork measures them anew.

    They would be held beside the later ones of the fork, and while it is refitted.
    """
    work = start.fork(criterion, draw=draw)
    if start.moment_bytes > _SHARED:
        start.forget()
    return work


def baseline(run: Run, decided: Decided, criterion: Criterion, draw: int) -> Shrunk:
    """Return a model that meets the same goals by units of another criterion."""
    assert decided.start is not None
    work = _forked(decided.start, criterion, draw)
    prune_to_targets(work, decided.goals, progress=run.stage.step)
    return merge_plans(run.inputs, decided.before, work)


def other_readout(inputs: Inputs, decided: Decided, name: str) -> Shrunk:
    """Return a model that reads as many neurons as were chosen, but others."""
    assert decided.neurons is not None
    assert decided.cut is not None
    neurons, probe = decided.neurons.others[name]
    plan = decided.before.model_copy(update={"readout": ReadoutPlan(pooling=inputs.pooling, neurons=dict(neurons))})
    return Shrunk(_reader(inputs, decided.cut, plan, replace(decided.neurons, probe=probe)), plan)


def merge_plans(inputs: Inputs, before: Plan, work: IterativePruner) -> Shrunk:
    """Return what a pruner has reached, with its whole plan: that of `before`, with the heads and FFN neurons left."""
    shrunk, blocks = work.result(), kept_blocks(before)
    heads, ffn = ({blocks[block]: units for block, units in kept.items()} for kept in (shrunk.plan.heads, shrunk.plan.ffn))
    named = {"heads": {**before.heads, **heads}, "ffn": {**before.ffn, **ffn}}
    plan = Plan.model_validate({**dict(before), **named})
    if before == Plan(source=before.source):
        return replace(shrunk, plan=plan)
    if isinstance(inputs.loaded.model, Reader):
        note_sizes(ModelView.of(shrunk.model), plan)
        return replace(shrunk, plan=plan)
    # The pruner treated its model as a dense one: the config must become that of the whole plan.
    model = apply(inputs.loaded.model, plan)
    take_solved(model, shrunk.model)
    return replace(shrunk, model=model, plan=plan)


def _cut(run: Run, *, reads: bool) -> Cut:
    """Remove the blocks that were not named and the sub-blocks that were, and refit those above them."""
    source, dense = run.inputs.view.source, run.inputs.loaded.model
    named = named_plan(run.recipe, run.inputs)
    if named is None:
        return Cut(dense)
    plan, structure = named, False
    if reads:
        everything = tuple(range(source.hidden))
        neurons = {layer: everything for layer in (0, *(block + 1 for block in kept_blocks(named)))}
        plan = plan.model_copy(update={"readout": ReadoutPlan(pooling=run.inputs.pooling, neurons=neurons)})
    else:
        structure = bool(structure_budgets(run.recipe))
    check_plan(run.inputs.view, plan)
    with run.stage("layers"):
        solved = solve(dense, plan, calibration_of(run.recipe, run.inputs), seed=run.recipe.seed)
    if structure:
        forget_dense(solved.model)
    return Cut(solved.model, named, solved.solutions)


def forget_dense(model: nn.Module) -> None:
    """Mark a model that was cut as dense, so that heads and FFN neurons can be removed from it."""
    for config in configs(model):
        setattr(config, DENSE, None)


def named_plan(recipe: Recipe, inputs: Inputs) -> Plan | None:
    """Return the blocks and sub-blocks that a recipe names, as a plan; None where it names none."""
    kept = blocks_asked(recipe, inputs.view.num_layers)
    dropped = {kind: dict.fromkeys(blocks, ()) for kind, blocks in recipe.dropped.items()}
    if len(kept) == inputs.view.num_layers and not dropped:
        return None
    heads, ffn = dropped.get("attention", {}), dropped.get("ffn", {})
    named = Plan(
        source=inputs.view.source,
        layers=kept if len(kept) < inputs.view.num_layers else None,
        heads=heads,
        ffn={} if recipe.affine else ffn,
        affine=tuple(ffn) if recipe.affine else None,
    )
    return completed(inputs.view, named)


def _reader(inputs: Inputs, cut: Cut, plan: Plan, neurons: Neurons) -> nn.Module:
    """Return a copy of the model with the classifier on the neurons chosen."""
    model = apply(inputs.loaded.model, plan)
    assert isinstance(model, ReadoutModel)
    if cut.plan is not None:
        # The blocks of the cut model are refitted; both models number their blocks from 0.
        weights = ModelView.of(cut.model).body.state_dict()
        model.body.load_state_dict({name: weights[name] for name in model.body.state_dict()})
    set_readout(model, *neurons.probe)
    return model


def _provenance(recipe: Recipe, inputs: Inputs, statistics: Statistics | None) -> dict[str, Any]:
    stored = {} if statistics is None else {"statistics": {"rows": statistics.moments.count, "kept": len(statistics.train.labels)}}
    return {
        "prunekit": __version__,
        "model": inputs.loaded.name,
        "data": inputs.data.provenance,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        **stored,
    }
