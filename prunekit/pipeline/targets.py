"""Budgets as goals of the structure search: the references of shares, and the costs of units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prunekit import __version__
from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.budget import Budget, Unit
from prunekit.exporters.onnx import export_onnx
from prunekit.pipeline import file_size
from prunekit.pipeline.dense import dense_file, deployed_dense
from prunekit.pipeline.latency_table import Timed, latency_table
from prunekit.pipeline.records import Neurons, Run, space_of
from prunekit.plan import Plan
from prunekit.pruning.costs import Bytes, Cost, Goal, Latency, Macs, Params, head_width
from prunekit.pruning.iterative import IterativePruner
from prunekit.recipe import Recipe
from prunekit.runtime.timing import latency_of_files

STRUCTURE = (Unit.MODEL, Unit.PARAMS, Unit.MACS, Unit.LATENCY, Unit.BYTES, Unit.P95)
#: Margin of goals of time: the lower end of a measured interval must meet the budget too.
_MARGIN = 0.03
#: Margin of goals of milliseconds, which no other file's time on the same machine is held against; test's rows may be longer, too.
_P95_MARGIN = 0.1
_ROUNDS = 4
_SETTLE_ROUNDS = 2
#: Bounds of measured over predicted time within which the table is corrected.
_TRUST = (0.85, 1.3)
#: Metadata of a file that ships, for its size.
_METADATA = {"prunekit": __version__, "plan": "0" * 64}
#: Share by which a measured time may be below its goal before units that were cut in excess are restored.
_SLACK = 0.03


def structure_budgets(recipe: Recipe) -> tuple[Budget, ...]:
    """Return the budgets by which heads and FFN neurons are chosen."""
    return tuple(budget for budget in recipe.budgets if budget.unit in STRUCTURE)


def timed_of(run: Run, base: Plan, neurons: Neurons | None) -> Timed:
    """Return the models and settings of a latency table."""
    inputs = run.inputs
    return Timed(
        inputs.loaded.model,
        deployed_dense(inputs, neurons),
        base,
        inputs.view.inputs,
        space_of(inputs.loaded.config, inputs.loaded.tokenizer),
        # Train may hold fragments, as that of SST-2 does; the final measurement is on whole sentences.
        inputs.encoded["validation"].lengths,
        run.recipe.threads,
        lambda: dense_file(run, neurons).path,
    )


def goals_of(run: Run, base: Plan, neurons: Neurons | None) -> tuple[Goal, ...]:
    """Return the goals of a recipe's budgets; of time, one for each batch size that was named."""
    lengths = run.inputs.encoded["train"].lengths
    start = count(run.inputs.view, lengths)
    goals: list[Goal] = []
    for budget in structure_budgets(run.recipe):
        option = budget.option
        if budget.unit is Unit.LATENCY:
            for batch in run.recipe.batches:
                goal = latency_goal(run, base, neurons, batch)
                goals.append(Goal(goal.cost, budget.amount * (1 - _MARGIN), 1.0, option))
            continue
        if budget.unit is Unit.P95:
            goal = latency_goal(run, base, neurons, 1)
            dense = _dense_p95(run, neurons)
            asked = f"{option}, where the dense file takes {dense * 1e3:.3g} ms,"
            goals.append(Goal(goal.cost, budget.amount * (1 - _P95_MARGIN) / dense, 1.0, asked))
            continue
        if budget.unit is Unit.BYTES:
            cost: Cost = file_size.cost_of(run, neurons, budget)
            goals.append(Goal(cost, file_size.limit_of(run.recipe, run.inputs, budget), cost.of(run.inputs.view), option))
            continue
        cost = Macs(lengths) if budget.unit is Unit.MACS else Params()
        full = float(start.macs if budget.unit is Unit.MACS else start.params_layers)
        goals.append(Goal(cost, budget.amount * full, full, option))
    return tuple(goals)


def latency_goal(run: Run, base: Plan, neurons: Neurons | None, batch: int) -> Goal:
    """Return all of the dense model's time as a goal, at one batch size."""
    with run.stage(f"latency table, batch {batch}", unit="files"):
        table = latency_table(timed_of(run, base, neurons), batch, progress=run.stage.step)
    return Goal(Latency(table, head_width(run.inputs.view)), 1.0, 1.0, "--keep '100% latency'")


def _dense_p95(run: Run, neurons: Neurons | None) -> float:
    """Return the 95th percentile of the time of one row of validation in the dense file, in seconds."""
    with run.stage("latency, dense"):
        measured = latency_of_files(
            {"dense": dense_file(run, neurons).path},
            run.inputs.encoded["validation"],
            batch_sizes=(1,),
            threads=run.recipe.threads,
            max_seconds=8.0,
            seed=run.recipe.seed,
        )
    return measured[0].timing("dense").p95_ms / 1e3


@dataclass
class Verify:
    """Measurement of a cut model's file before its refit, which takes far longer, and correction of the prices."""

    run: Run
    neurons: Neurons | None
    goals: tuple[Goal, ...]
    rounds: int = 0

    def __call__(self, view: ModelView) -> tuple[Goal, ...] | None:
        """Return the goals that would meet the budgets if the table is off by as much as here; None where they are met."""
        self.rounds += 1
        return None if self.rounds > _ROUNDS else self._corrected(view, _MARGIN * 2 / 3, restore=self.rounds == 1)

    def settle(self, work: IterativePruner) -> None:
        """Measure a refitted model once more, and prune it further where it does not keep to the budgets themselves."""
        for _ in range(_SETTLE_ROUNDS):
            goals = self._corrected(work.view, _MARGIN, restore=False)
            if goals is None:
                return
            work.step(goals)

    def _corrected(self, view: ModelView, tolerance: float, *, restore: bool) -> tuple[Goal, ...] | None:
        inputs = self.run.inputs
        space = space_of(inputs.loaded.config, inputs.loaded.tokenizer)
        slim = export_onnx(view.model, self.run.scratch / "timed-slim.onnx", inputs=inputs.view.inputs, space=space, metadata=_METADATA)
        shares = self._shares(slim.path) if any(isinstance(goal.cost, Latency) for goal in self.goals) else {}
        goals, missed = [], False
        for goal in self.goals:
            cost = goal.cost
            if isinstance(cost, Bytes):
                # A slim graph may hold a few more nodes than the dense one.
                reached = file_size.size(slim, cost.dtype) - cost.gone
                overhead = reached - cost.of(view)
                missed = missed or reached > goal.limit
                goals.append(replace(goal, limit=goal.limit - max(overhead, 0.0)))
                continue
            if not isinstance(cost, Latency):
                goals.append(goal)
                continue
            share, predicted = shares[cost.table.batch], cost.of(view)
            # Another goal may bind: then there is nothing to restore; and units are restored only once.
            spare = restore and predicted > 0.98 * goal.limit and share < goal.limit * (1 - _SLACK)
            missed = missed or spare or share > goal.limit * (1 + tolerance)
            # A busy machine may give any ratio at all: the correction is bounded.
            goals.append(goal.at(goal.limit / min(max(share / predicted, _TRUST[0]), _TRUST[1])))
        return tuple(goals) if missed else None

    def _shares(self, slim: Path) -> dict[int, float]:
        """Return the time as a share of the dense file's at each batch size, at the slow end of the interval."""
        sizes = self.run.recipe.batches
        measured = latency_of_files(
            {"dense": dense_file(self.run, self.neurons).path, "slim": slim},
            self.run.inputs.encoded["validation"],
            batch_sizes=sizes,
            threads=self.run.recipe.threads,
            max_seconds=8.0,
            seed=self.run.recipe.seed,
        )
        return {size: 1 / comparison.ratio("slim").low for size, comparison in zip(sizes, measured, strict=True)}


def verify(run: Run, neurons: Neurons | None, goals: tuple[Goal, ...]) -> Verify | None:
    """Return a check of time and bytes, where a goal is one of them."""
    if not any(isinstance(goal.cost, (Bytes, Latency)) for goal in goals):
        return None
    return Verify(run, neurons, goals)
