"""Search for the smallest model within a largest drop: down a fixed grid of sizes until one is not shown to be within it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunekit.data.batches import Encoded
from prunekit.errors import BudgetError, StatisticsError
from prunekit.exporters.onnx import export_onnx
from prunekit.pipeline.dense import dense_file
from prunekit.pipeline.drop import Drop, relative_drop
from prunekit.pipeline.neurons import fit_slim
from prunekit.pipeline.records import Neurons, Outputs, Run, space_of
from prunekit.plan import Plan
from prunekit.pruning.costs import Goal
from prunekit.pruning.iterative import IterativePruner
from prunekit.runtime.scores import outputs_of_file
from prunekit.tasks import Task
from prunekit.transforms.readout_head import set_readout

#: Ratio of each size to the one before.
_STEP = 0.8


class NoneHoldsError(BudgetError):
    """A largest drop that not even the mildest candidate keeps to; `nearest` is that candidate, None where there is none."""

    def __init__(self, message: str, nearest: IterativePruner | None) -> None:
        super().__init__(message)
        self.nearest = nearest

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.nearest)


class Evaluator:
    """Evaluation of candidates on held-out rows, as the files that would ship, against the dense file.

    Parameters
    ----------
    run : Run
    neurons : Neurons or None
        None where the model keeps its own head.
    held : str
        The split of these rows.
    """

    def __init__(self, run: Run, neurons: Neurons | None, held: str = "validation") -> None:
        self.run, self.neurons, self.held = run, neurons, held
        self.space = space_of(run.inputs.loaded.config, run.inputs.loaded.tokenizer)
        self.dense = dense_file(run, neurons).path
        self._reference = self._answers(self.dense)

    def export(self, model: nn.Module, name: str) -> Path:
        """Export a model to a file in the scratch directory."""
        return export_onnx(model, self.run.scratch / f"{name}.onnx", inputs=self.run.inputs.view.inputs, space=self.space).path

    def _answers(self, path: Path) -> Outputs:
        task, encoded, threads = self.run.inputs.data.task, self.run.inputs.encoded, self.run.recipe.threads
        return answers_of(
            task, path, encoded[self.held], thresholds_of(task, path, encoded["validation"], threads=threads), threads=threads
        )

    def read(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Refit the classifier of a candidate to its neurons, and return the candidate."""
        if self.neurons is not None:
            set_readout(model, *fit_slim(self.run, model, plan))
        return model

    def drop(self, path: Path) -> Drop:
        """Return the drop of a file from the dense one."""
        held = self.run.inputs.encoded[self.held]
        return relative_drop(self.run.inputs.data.task, self._reference, self._answers(path), held.every_label, held.every_start)


def thresholds_of(task: Task, path: Path, validation: Encoded, *, threads: int) -> NDArray[np.float64] | None:
    """Return the thresholds that validation chooses for a file; None where a task has none."""
    return task.thresholds(outputs_of_file(path, validation, threads=threads), validation.labels) if task.many else None


def answers_of(task: Task, path: Path, held: Encoded, cut: NDArray[np.float64] | None, *, threads: int) -> Outputs:
    """Return the outputs of a file on every word of a split, less its thresholds."""
    outputs = outputs_of_file(path, held, threads=threads)
    return held.every(outputs if cut is None else task.tuned(outputs, held.labels, cut))


@dataclass(frozen=True)
class Tried:
    """A candidate: the share of the cost that it keeps, and its drop, or why that is unknown."""

    share: float
    drop: Drop | None
    broken: str = ""

    def __str__(self) -> str:
        if self.drop is None:
            return f"{self.share:.1%} of the params counts as failing: {self.broken}"
        bound = f"up to {self.drop.upper:.2%} with 95% confidence, {self.drop.rows:,} rows"
        return f"{self.share:.1%} of the params loses {self.drop.value:.2%} ({bound})"


def sizes(least: float) -> tuple[float, ...]:
    """Return the shares that are tried, each 0.8 of the one before, down to the smallest that can be reached."""
    shares, share = [], _STEP
    while share > least:
        shares.append(share)
        share *= _STEP
    return tuple(shares)


def smallest(
    start: IterativePruner,
    full: Goal,
    lose: Callable[[IterativePruner], Drop],
    max_drop: float,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[IterativePruner, tuple[Tried, ...]]:
    """Return the smallest candidate whose drop, at its one-sided 95% upper bound, is within a largest one, and all that were tried.

    Sizes are tested in a fixed order, from mild to severe, each pruned from the one before, and the first that fails is the last:
    then one that does not keep to the bound is taken in 5% of the draws of the rows at most, however many are tested
    (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test"). A size that is tried after a failure would void that.

    Parameters
    ----------
    start : IterativePruner
        At the dense model; it is left as it is.
    full : Goal
        Of which shares are taken.
    lose : callable
        Returns the drop of a candidate on the rows that bound the largest drop.
    max_drop : float
        A share.
    progress : callable, optional
        Called with (candidates judged, candidates expected).

    Raises
    ------
    NoneHoldsError
        If even the mildest candidate loses more; it says by how much.
    StatisticsError
        If no candidate can be refitted or judged at all.
    """
    tried: list[Tried] = []
    grid = sizes(start.least(full.cost) / full.full)

    def step(source: IterativePruner, share: float) -> tuple[IterativePruner, bool]:
        candidate = source.fork()
        try:
            candidate.step([full.at(share)])
            result = Tried(full.cost.of(candidate.view) / full.full, lose(candidate))
        except StatisticsError as error:
            # A candidate that cannot be refitted, or whose outputs are NaN, is no evidence about milder ones.
            result = Tried(share, None, str(error))
        tried.append(result)
        if progress is not None:
            progress(len(tried), len(grid))
        return candidate, result.drop is not None and result.drop.upper <= max_drop

    accepted = candidate = start
    for share in grid:
        candidate, holds = step(accepted, share)
        if not holds:
            break
        accepted = candidate
    if accepted is start:
        judged = [(trial.drop.upper, str(trial)) for trial in tried if trial.drop is not None]
        if tried and not judged:
            raise StatisticsError(f"No candidate of the search for --max-drop {max_drop:.2%} can be used; the last: {tried[-1]}")
        nearest = min(judged)[1] if judged else "nothing can be removed from this model"
        message = f"--max-drop {max_drop:.2%} cannot be met by a smaller model; the nearest: {nearest}. Allow a larger drop."
        raise NoneHoldsError(message, candidate if judged else None)
    return accepted, tuple(tried)
