"""What is kept: chosen under the budgets, or named by a plan that is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunekit import __version__
from prunekit.arch.count import count
from prunekit.arch.view import ModelView, Reader
from prunekit.pipeline.apply import solve
from prunekit.pipeline.drop import Drop
from prunekit.pipeline.early import blocks_asked
from prunekit.pipeline.inputs import calibration
from prunekit.pipeline.max_drop import Judge, NoneHoldsError, smallest
from prunekit.pipeline.neurons import given_neurons, read_neurons, reads_neurons, stored_neurons
from prunekit.pipeline.pruned import standing
from prunekit.pipeline.records import Cut, Decided, Inputs, Neurons
from prunekit.pipeline.targets import deployed_dense, goals_of, structure_budgets, verify
from prunekit.pipeline.unmet import UnmetError
from prunekit.pipeline.vocabulary import seen_tokens
from prunekit.plan import Plan, ReadoutPlan, kept_blocks
from prunekit.pruning.costs import Goal, Params
from prunekit.pruning.iterative import Choice, Origin, Shape, Shrinker, Shrunk
from prunekit.pruning.shrink import descend
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.stats.record import Statistics
from prunekit.transforms.apply import DENSE, apply, check_fit, check_units, completed, note_sizes
from prunekit.transforms.layers import configs
from prunekit.transforms.readout_head import ReadoutModel, set_readout


def decide(recipe: Recipe, inputs: Inputs, scratch: Path, stage: Stages, statistics: Statistics | None = None) -> Decided:
    """Choose blocks, neurons, heads and FFN neurons, and tokens, in this order, each on what the one before leaves.

    With statistics, which an analysis left behind, neurons are chosen on these; nothing then answers on the test split.
    """
    held = standing(inputs.view)
    neurons: Neurons | None = None
    notes: tuple[str, ...] = ()
    if statistics is not None:
        cut, neurons = Cut(inputs.loaded.model), stored_neurons(recipe, inputs, statistics, scratch, stage)
    else:
        reads, notes = reads_neurons(recipe, inputs, scratch, stage)
        cut = _cut(recipe, inputs, stage, reads=reads)
        if reads:
            neurons = read_neurons(recipe, inputs, cut, scratch, stage)
    readout = None if neurons is None else ReadoutPlan(pooling=inputs.pooling, neurons=dict(neurons.neurons))
    before = plan = (cut.plan or held).model_copy(update={"readout": readout or held.readout})
    reader = cut.model if neurons is None else _reader(inputs, cut, before, neurons)
    solutions = cut.solutions
    start: Shrinker | None = None
    goals = goals_of(recipe, inputs, before, neurons, scratch, stage)
    if goals:
        with stage("shrink", unit="steps"):
            start = shrinker(recipe, inputs, reader)
            start.check_reach(goals)
            work = start.fork()
            check = verify(recipe, inputs, deployed_dense(inputs, neurons), goals, scratch)
            descend(work, goals, tighten=check, trained=recipe.effort is not None, progress=stage.step)
            if check is not None and work.trace:
                check.settle(work)
            found = whole(inputs, before, work)
        model, plan, solutions = found.model, found.plan, (*solutions, *found.solutions)
    elif recipe.searches:
        start = shrinker(recipe, inputs, reader)
        work, goals, searched = _searched(recipe, inputs, start, before, neurons, scratch, stage)
        notes = (*notes, *searched)
        found = whole(inputs, before, work)
        model, plan, solutions = found.model, found.plan, (*solutions, *found.solutions)
    else:
        model = apply(reader, plan) if reader is inputs.loaded.model else reader
    if recipe.vocabulary == "data":
        plan = Plan.model_validate({**dict(plan), "vocabulary": seen_tokens(inputs)})
    plan = plan.model_copy(update={"provenance": _provenance(recipe, inputs, statistics)})
    if (plan.heads, plan.ffn) == (held.heads, held.ffn):
        # The goals were met without them.
        goals = ()
    return Decided(plan, model, reader, before, neurons, bool(goals), solutions, goals, notes, start, cut)


def given(recipe: Recipe, inputs: Inputs, plan: Plan, scratch: Path, stage: Stages) -> Decided:
    """Carry out a plan that is given: cut, solve the weights anew, and fit the classifier that its readout needs."""
    plan = completed(inputs.view, plan)
    neurons = None if plan.readout is None else given_neurons(inputs, plan.readout, scratch, stage)
    structure = Plan.model_validate({**dict(plan), "vocabulary": None})
    dense = inputs.loaded.model
    with stage("solve"):
        solved = solve(dense, structure, _calibration(recipe, inputs), seed=recipe.seed)
    changed = any((plan.heads, plan.ffn, plan.affine, plan.hidden, plan.layers is not None))
    if neurons is not None:
        set_readout(solved.model, *neurons.probe)
    return Decided(plan, solved.model, solved.model, plan, neurons, changed and neurons is not None, solved.solutions)


def check_plan(view: ModelView, plan: Plan) -> None:
    """Raise PlanError or UnsupportedError, before any work is done, if a plan does not fit the model."""
    check_fit(view, plan)
    check_units(view, plan)
    for name, concerned in (("layers", plan.layers), ("hidden", plan.hidden), ("vocabulary", plan.vocabulary)):
        if concerned is not None:
            view.check(name)


def _calibration(recipe: Recipe, inputs: Inputs) -> list[dict[str, Tensor]]:
    return calibration(inputs.encoded["train"], recipe.seed, trained=recipe.effort is not None)


def shrinker(recipe: Recipe, inputs: Inputs, reader: nn.Module) -> Shrinker:
    """What removes heads and FFN neurons from a model; shares are those of the dense one."""
    lengths = inputs.encoded["train"].lengths
    return Shrinker(
        reader,
        _calibration(recipe, inputs),
        origin=Origin(lengths, count(inputs.view, lengths)),
        shape=Shape(recipe.uniform, recipe.multiple_of),
        seed=recipe.seed,
    )


def _searched(
    recipe: Recipe, inputs: Inputs, start: Shrinker, before: Plan, neurons: Neurons | None, scratch: Path, stage: Stages
) -> tuple[Shrinker, tuple[Goal, ...], tuple[str, ...]]:
    """The smallest model within the largest drop, its size as a goal for the baselines, and how it was found."""
    assert recipe.max_drop is not None
    full = Goal(Params(), float(start.start.params_layers), float(start.start.params_layers), "--max-drop")
    judge = Judge(recipe, inputs, neurons, scratch, stage, inputs.held)

    def lose(candidate: Shrinker) -> Drop:
        found = whole(inputs, before, candidate)
        return judge.drop(judge.export(judge.read(found.model, found.plan), "candidate"))

    with stage("search", unit="candidates"):
        try:
            found, tried = smallest(start, full, lose, recipe.max_drop, progress=stage.step)
        except NoneHoldsError as error:
            if error.nearest is None:
                raise
            reached = whole(inputs, before, error.nearest).plan.model_copy(update={"provenance": _provenance(recipe, inputs, None)})
            raise UnmetError(str(error), reached) from None
    held = full.at(full.cost.of(found.view) / full.full)
    return found, (held,), tuple(f"search: {candidate}" for candidate in tried)


def baseline(inputs: Inputs, decided: Decided, choice: Choice, draw: int, stage: Stages) -> Shrunk:
    """The same goals met by units that are chosen otherwise."""
    assert decided.start is not None
    work = decided.start.fork(choice, draw=draw)
    descend(work, decided.goals, progress=stage.step)
    return whole(inputs, decided.before, work)


def other_readout(inputs: Inputs, decided: Decided, name: str) -> Shrunk:
    """As many neurons read as were chosen, but others."""
    assert decided.neurons is not None
    assert decided.cut is not None
    neurons, probe = decided.neurons.others[name]
    plan = decided.before.model_copy(update={"readout": ReadoutPlan(pooling=inputs.pooling, neurons=dict(neurons))})
    return Shrunk(_reader(inputs, decided.cut, plan, replace(decided.neurons, probe=probe)), plan)


def whole(inputs: Inputs, before: Plan, work: Shrinker) -> Shrunk:
    """What a shrinker has reached, and its plan: what the one before has, and the heads and FFN neurons left."""
    found, blocks = work.result(), kept_blocks(before)
    heads, ffn = ({blocks[block]: units for block, units in kept.items()} for kept in (found.plan.heads, found.plan.ffn))
    named = {"heads": {**before.heads, **heads}, "ffn": {**before.ffn, **ffn}}
    plan = Plan.model_validate({**dict(before), **named})
    if before == Plan(source=before.source):
        return replace(found, plan=plan)
    if isinstance(inputs.loaded.model, Reader):
        note_sizes(ModelView.of(found.model), plan)
        return replace(found, plan=plan)
    # What was shrunk passed for a dense model: the config must be what the whole plan makes it.
    model = apply(inputs.loaded.model, plan)
    model.load_state_dict(found.model.state_dict())
    return replace(found, model=model, plan=plan)


def _cut(recipe: Recipe, inputs: Inputs, stage: Stages, *, reads: bool) -> Cut:
    """Remove the blocks that were not named and the sub-blocks that were, and solve those above them anew."""
    source, dense = inputs.view.source, inputs.loaded.model
    named = named_plan(recipe, inputs)
    if named is None:
        return Cut(dense)
    plan, structure = named, False
    if reads:
        everything = tuple(range(source.hidden))
        neurons = {layer: everything for layer in (0, *(block + 1 for block in kept_blocks(named)))}
        plan = plan.model_copy(update={"readout": ReadoutPlan(pooling=inputs.pooling, neurons=neurons)})
    else:
        structure = bool(structure_budgets(recipe))
    check_plan(inputs.view, plan)
    with stage("layers"):
        solved = solve(dense, plan, _calibration(recipe, inputs), seed=recipe.seed)
    if structure:
        forget_dense(solved.model)
    return Cut(solved.model, named, solved.solutions)


def forget_dense(model: nn.Module) -> None:
    """Let a model that was cut pass for a dense one, from which heads and FFN neurons are removed."""
    for config in configs(model):
        setattr(config, DENSE, None)


def named_plan(recipe: Recipe, inputs: Inputs) -> Plan | None:
    """The blocks and sub-blocks that a recipe names, as a plan; None where it names none."""
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
    """A copy of the model with the classifier on the neurons chosen."""
    model = apply(inputs.loaded.model, plan)
    assert isinstance(model, ReadoutModel)
    if cut.plan is not None:
        # The blocks of the cut model have been solved anew; both number theirs from 0.
        theirs = ModelView.of(cut.model).body.state_dict()
        model.body.load_state_dict({name: theirs[name] for name in model.body.state_dict()})
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
