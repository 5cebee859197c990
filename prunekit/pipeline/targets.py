"""Budgets as goals of the structure search: of what shares are taken, and what a unit costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from prunekit import __version__
from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.budget import Budget, Unit
from prunekit.exporters.onnx import export_onnx
from prunekit.pipeline.latency_table import Timed, latency_table
from prunekit.pipeline.records import Inputs, Neurons, space_of
from prunekit.pipeline.vocabulary import seen_tokens
from prunekit.plan import Plan, ReadoutPlan
from prunekit.pruning.costs import Bytes, Cost, Goal, Latency, Macs, Params, head_width
from prunekit.pruning.iterative import Shrinker
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.timing import latency_of_files
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import set_readout

STRUCTURE = (Unit.MODEL, Unit.PARAMS, Unit.MACS, Unit.LATENCY, Unit.BYTES)
#: A measured interval has a lower end, which must hold too: this much faster is aimed at.
_MARGIN = 0.03
_ROUNDS = 4
_AGAIN = 2
#: How far off, as measured over predicted, the table is taken to be at most.
_TRUST = (0.85, 1.3)
#: What a file that ships says of its plan, for its size.
_METADATA = {"prunekit": __version__, "plan": "0" * 64}
#: How far below its aim a measured time may be before what was cut too much is given back.
_SLACK = 0.03


def structure_budgets(recipe: Recipe) -> tuple[Budget, ...]:
    """The budgets that heads and FFN neurons are chosen by."""
    return tuple(budget for budget in recipe.budgets if budget.unit in STRUCTURE)


def deployed_dense(inputs: Inputs, neurons: Neurons | None) -> nn.Module:
    """The dense model as it would be deployed: with its own head, or with the probe on all neurons."""
    if neurons is None or inputs.own_head:
        return inputs.loaded.model
    source = inputs.view.source
    everything = {layer: tuple(range(source.hidden)) for layer in range(source.layers + 1)}
    dense = apply(inputs.loaded.model, Plan(source=source, readout=ReadoutPlan(pooling=inputs.pooling, neurons=everything)))
    set_readout(dense, *neurons.oracle)
    return dense


def timed_of(recipe: Recipe, inputs: Inputs, base: Plan, neurons: Neurons | None) -> Timed:
    """What is timed for a latency table."""
    return Timed(
        inputs.loaded.model,
        deployed_dense(inputs, neurons),
        base,
        inputs.view.inputs,
        space_of(inputs.loaded.config, inputs.loaded.tokenizer),
        # Train may hold fragments, as that of SST-2 does; what is measured at the end is whole sentences.
        inputs.encoded["validation"].lengths,
        recipe.threads,
    )


def goals_of(recipe: Recipe, inputs: Inputs, base: Plan, neurons: Neurons | None, scratch: Path, stage: Stages) -> tuple[Goal, ...]:
    """The goals of a recipe's budgets; of time, one for each batch size that was named."""
    lengths = inputs.encoded["train"].lengths
    start = count(inputs.view, lengths)
    found: list[Goal] = []
    for budget in structure_budgets(recipe):
        asked = budget.option
        if budget.unit is Unit.LATENCY:
            for batch in recipe.batches:
                goal = latency_goal(recipe, inputs, base, neurons, batch, stage)
                found.append(Goal(goal.cost, budget.amount * (1 - _MARGIN), 1.0, asked))
            continue
        if budget.unit is Unit.BYTES:
            cost: Cost = _bytes(inputs, neurons, recipe, start.params_layers, scratch, stage)
            found.append(Goal(cost, budget.amount, cost.of(inputs.view), asked))
            continue
        cost = Macs(lengths) if budget.unit is Unit.MACS else Params()
        full = float(start.macs if budget.unit is Unit.MACS else start.params_layers)
        found.append(Goal(cost, budget.amount * full, full, asked))
    return tuple(found)


def latency_goal(recipe: Recipe, inputs: Inputs, base: Plan, neurons: Neurons | None, batch: int, stage: Stages) -> Goal:
    """All of the dense model's time, at one batch size."""
    with stage(f"latency table, batch {batch}", unit="files"):
        table = latency_table(timed_of(recipe, inputs, base, neurons), batch, progress=stage.step)
    return Goal(Latency(table, head_width(inputs.view)), 1.0, 1.0, "--keep '100% latency'")


def _bytes(inputs: Inputs, neurons: Neurons | None, recipe: Recipe, params_layers: int, scratch: Path, stage: Stages) -> Bytes:
    """What the file weighs: the dense file tells what is not in the layers, less the rows of the embedding that go."""
    each = 4.0
    with stage("export"):
        space = space_of(inputs.loaded.config, inputs.loaded.tokenizer)
        file = export_onnx(deployed_dense(inputs, neurons), scratch / "weighed.onnx", inputs=inputs.view.inputs, space=space)
    file.path.unlink()
    fixed = file.bytes - each * params_layers
    return Bytes(fixed=fixed - _embedding_lost(recipe, inputs), each_parameter=each)


def _embedding_lost(recipe: Recipe, inputs: Inputs) -> float:
    """Bytes of the rows of the embedding that go."""
    if recipe.vocabulary != "data":
        return 0.0
    lost = inputs.view.source.vocabulary - len(seen_tokens(inputs))
    table = next(parameter for parameter in inputs.view.body.parameters() if parameter.shape[0] == inputs.view.source.vocabulary)
    return 4.0 * lost * table.shape[1]


@dataclass
class Verify:
    """Measures a cut model's file before it is solved anew, which takes far longer, and corrects the prices where they were off."""

    recipe: Recipe
    inputs: Inputs
    dense: nn.Module
    goals: tuple[Goal, ...]
    scratch: Path
    gone: float
    rounds: int = 0

    def __call__(self, view: ModelView) -> tuple[Goal, ...] | None:
        """The goals that would meet the budgets if the table is off by as much as here; None where they are met."""
        self.rounds += 1
        return None if self.rounds > _ROUNDS else self._wanted(view, _MARGIN * 2 / 3, give_back=self.rounds == 1)

    def settle(self, work: Shrinker) -> None:
        """Measure a model that has been solved a second time, and cut it further where it does not keep to the budgets themselves."""
        for _ in range(_AGAIN):
            wanted = self._wanted(work.view, _MARGIN, give_back=False)
            if wanted is None:
                return
            work.step(wanted)

    def _wanted(self, view: ModelView, tolerance: float, *, give_back: bool) -> tuple[Goal, ...] | None:
        names, space = self.inputs.view.inputs, space_of(self.inputs.loaded.config, self.inputs.loaded.tokenizer)
        slim = export_onnx(view.model, self.scratch / "timed-slim.onnx", inputs=names, space=space, metadata=_METADATA)
        shares = self._shares(slim.path) if any(isinstance(goal.cost, Latency) for goal in self.goals) else {}
        wanted, off = [], False
        for goal in self.goals:
            cost = goal.cost
            if isinstance(cost, Bytes):
                # A slim graph may hold a few more nodes than the dense one.
                more = slim.bytes - (cost.of(view) + self.gone)
                off = off or slim.bytes - self.gone > goal.limit
                wanted.append(replace(goal, limit=goal.limit - max(more, 0.0)))
                continue
            if not isinstance(cost, Latency):
                wanted.append(goal)
                continue
            share, predicted = shares[cost.table.batch], cost.of(view)
            # What binds may be another goal: then there is nothing to give back; and what was given back is not given back again.
            spare = give_back and predicted > 0.98 * goal.limit and share < goal.limit * (1 - _SLACK)
            off = off or spare or share > goal.limit * (1 + tolerance)
            # A busy machine may give any ratio at all: the table is believed within bounds.
            wanted.append(goal.at(goal.limit / min(max(share / predicted, _TRUST[0]), _TRUST[1])))
        return tuple(wanted) if off else None

    def _shares(self, slim: Path) -> dict[int, float]:
        """Time as a share of the dense file's at each batch size, at the slow end of the interval."""
        names, space = self.inputs.view.inputs, space_of(self.inputs.loaded.config, self.inputs.loaded.tokenizer)
        dense = self.scratch / "timed-dense.onnx"
        if not dense.exists():
            export_onnx(self.dense, dense, inputs=names, space=space)
        sizes, encoded = self.recipe.batches, self.inputs.encoded["validation"]
        measured = latency_of_files(
            {"dense": dense, "slim": slim},
            encoded,
            batch_sizes=sizes,
            threads=self.recipe.threads,
            max_seconds=8.0,
            seed=self.recipe.seed,
        )
        return {size: 1 / found.ratio("slim").low for size, found in zip(sizes, measured, strict=True)}


def verify(recipe: Recipe, inputs: Inputs, dense: nn.Module, goals: tuple[Goal, ...], scratch: Path) -> Verify | None:
    """A check of time and bytes, where a goal is one of them."""
    if not any(isinstance(goal.cost, (Bytes, Latency)) for goal in goals):
        return None
    return Verify(recipe, inputs, dense, goals, scratch, _embedding_lost(recipe, inputs))
