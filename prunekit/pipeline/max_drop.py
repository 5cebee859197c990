"""The smallest model that keeps to a largest drop: down a fixed grid of sizes until one is not shown to keep to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded
from prunekit.errors import BudgetError, StatisticsError
from prunekit.exporters.onnx import export_onnx
from prunekit.pipeline.drop import Drop, relative_drop
from prunekit.pipeline.neurons import fit_slim
from prunekit.pipeline.records import Inputs, Neurons, Outputs, space_of
from prunekit.pipeline.targets import deployed_dense
from prunekit.plan import Plan, slim_source
from prunekit.pruning.costs import Goal
from prunekit.pruning.iterative import Shrinker
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.scores import outputs_of_file
from prunekit.tasks import Task
from prunekit.transforms.readout_head import set_readout

#: What each step keeps of the one before.
_STEP = 0.8


class NoneHoldsError(BudgetError):
    """Not even the mildest candidate keeps to the largest drop; `nearest` is that candidate, None where there is none."""

    def __init__(self, message: str, nearest: Shrinker | None) -> None:
        super().__init__(message)
        self.nearest = nearest


class Judge:
    """What a candidate answers on held-out rows, as the file that would ship, beside the dense file.

    Parameters
    ----------
    recipe : Recipe
    inputs : Inputs
    neurons : Neurons or None
        None where the model keeps its own head.
    scratch : path
    stage : Stages
    held : str
        The split that it answers.
    """

    def __init__(
        self, recipe: Recipe, inputs: Inputs, neurons: Neurons | None, scratch: Path, stage: Stages, held: str = "validation"
    ) -> None:
        self.held = held
        self.recipe, self.inputs, self.neurons, self.scratch, self.stage = recipe, inputs, neurons, scratch, stage
        self.space = space_of(inputs.loaded.config, inputs.loaded.tokenizer)
        self.dense = self.export(deployed_dense(inputs, neurons), "judge-dense")
        self._reference = self._answers(self.dense)

    def export(self, model: nn.Module, name: str) -> Path:
        """A model as a file in the scratch folder."""
        return export_onnx(model, self.scratch / f"{name}.onnx", inputs=self.inputs.view.inputs, space=self.space).path

    def _answers(self, path: Path) -> Outputs:
        task, encoded, threads = self.inputs.data.task, self.inputs.encoded, self.recipe.threads
        return answers_of(
            task, path, encoded[self.held], thresholds_of(task, path, encoded["validation"], threads=threads), threads=threads
        )

    def read(self, model: nn.Module, plan: Plan) -> nn.Module:
        """A candidate with its classifier fitted to what its neurons have become."""
        if self.neurons is not None:
            view = ModelView.of(model)
            view.source = slim_source(plan)
            set_readout(model, *fit_slim(self.inputs, view, plan, self.scratch, self.stage))
        return model

    def drop(self, path: Path) -> Drop:
        """How much a file loses."""
        held = self.inputs.encoded[self.held]
        return relative_drop(self.inputs.data.task, self._reference, self._answers(path), held.every_label, held.every_start)


def thresholds_of(task: Task, path: Path, validation: Encoded, *, threads: int) -> NDArray[np.float64] | None:
    """The thresholds that validation chooses for a file; None where a task has none."""
    return task.thresholds(outputs_of_file(path, validation, threads=threads), validation.labels) if task.many else None


def answers_of(task: Task, path: Path, held: Encoded, cut: NDArray[np.float64] | None, *, threads: int) -> Outputs:
    """What a file answers on every word of a split, less its thresholds."""
    found = outputs_of_file(path, held, threads=threads)
    return held.every(found if cut is None else task.tuned(found, held.labels, cut))


@dataclass(frozen=True)
class Tried:
    """A candidate: how much of the cost it keeps, and what it loses, or why that cannot be said."""

    share: float
    drop: Drop | None
    broken: str = ""

    def __str__(self) -> str:
        if self.drop is None:
            return f"{self.share:.1%} of the params counts as failing: {self.broken}"
        bound = f"up to {self.drop.upper:.2%} with 95% confidence, {self.drop.rows:,} rows"
        return f"{self.share:.1%} of the params loses {self.drop.value:.2%} ({bound})"


def sizes(least: float) -> tuple[float, ...]:
    """The shares that are tried, each 0.8 of the one before, down to the smallest that can be reached."""
    found, share = [], _STEP
    while share > least:
        found.append(share)
        share *= _STEP
    return tuple(found)


def smallest(
    start: Shrinker, full: Goal, lose: Callable[[Shrinker], Drop], max_drop: float, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Shrinker, tuple[Tried, ...]]:
    """The smallest candidate whose loss, at its one-sided 95% upper bound, is within a largest one.

    Sizes are tested in a fixed order, from mild to severe, each from where the one before has come to, and the first that fails is
    the last: then one that does not keep to the bound is taken in 5% of the draws of the rows at most, however many are tested
    (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test"). A size that is tried after a failure would void that.

    Parameters
    ----------
    start : Shrinker
        At the dense model; it is left as it is.
    full : Goal
        Of which shares are taken.
    lose : callable
        What a candidate loses on the rows that hold the largest drop.
    max_drop : float
        A share.
    progress : callable, optional
        Called with (candidates judged, candidates expected).

    Raises
    ------
    NoneHoldsError
        If even the mildest candidate loses more; it says by how much.
    StatisticsError
        If no candidate can be solved or judged at all.
    """
    tried: list[Tried] = []
    grid = sizes(start.least(full.cost) / full.full)

    def step(source: Shrinker, share: float) -> tuple[Shrinker, bool]:
        candidate = source.fork()
        try:
            candidate.step([full.at(share)])
            found = Tried(full.cost.of(candidate.view) / full.full, lose(candidate))
        except StatisticsError as error:
            # One that cannot be solved, or that answers NaN, says nothing of milder ones.
            found = Tried(share, None, str(error))
        tried.append(found)
        if progress is not None:
            progress(len(tried), len(grid))
        return candidate, found.drop is not None and found.drop.upper <= max_drop

    good = candidate = start
    for share in grid:
        candidate, holds = step(good, share)
        if not holds:
            break
        good = candidate
    if good is start:
        judged = [(one.drop.upper, str(one)) for one in tried if one.drop is not None]
        if tried and not judged:
            raise StatisticsError(f"No candidate of the search for --max-drop {max_drop:.2%} can be used; the last: {tried[-1]}")
        nearest = min(judged)[1] if judged else "nothing can be removed from this model"
        message = f"--max-drop {max_drop:.2%} cannot be met by a smaller model; the nearest: {nearest}. Allow a larger drop."
        raise NoneHoldsError(message, candidate if judged else None)
    return good, tuple(tried)
