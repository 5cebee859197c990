"""The smallest model that keeps to a largest drop: down in steps until one loses too much, then closer from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunekit.arch.view import ModelView
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
from prunekit.transforms.readout_head import set_readout

#: Shares tried one after the other, each from where the one before has come to.
DESCENT = (0.6, 0.36, 0.22, 0.13, 0.08)
_BISECTIONS = 2


class Judge:
    """What a candidate answers on the validation split, as the file that would ship, beside the dense file.

    Parameters
    ----------
    recipe : Recipe
    inputs : Inputs
    neurons : Neurons or None
        None where the model keeps its own head.
    scratch : path
    stage : Stages
    """

    def __init__(self, recipe: Recipe, inputs: Inputs, neurons: Neurons | None, scratch: Path, stage: Stages) -> None:
        self.recipe, self.inputs, self.neurons, self.scratch, self.stage = recipe, inputs, neurons, scratch, stage
        self.space = space_of(inputs.loaded.config, inputs.loaded.tokenizer)
        self.dense = self.export(deployed_dense(inputs, neurons), "judge-dense")
        self._reference = self._answers(self.dense)

    def export(self, model: nn.Module, name: str) -> Path:
        """A model as a file in the scratch folder."""
        return export_onnx(model, self.scratch / f"{name}.onnx", inputs=self.inputs.view.inputs, space=self.space).path

    def _answers(self, path: Path) -> Outputs:
        held = self.inputs.encoded["validation"]
        return held.every(outputs_of_file(path, held, threads=self.recipe.threads))

    def read(self, model: nn.Module, plan: Plan) -> nn.Module:
        """A candidate with its classifier fitted to what its neurons have become."""
        if self.neurons is not None:
            view = ModelView.of(model)
            view.source = slim_source(plan)
            set_readout(model, *fit_slim(self.inputs, view, plan, self.scratch, self.stage))
        return model

    def drop(self, path: Path) -> Drop:
        """How much a file loses on validation."""
        held = self.inputs.encoded["validation"]
        return relative_drop(
            self.inputs.data.task, self._reference, self._answers(path), held.every_label, held.every_start, seed=self.recipe.seed
        )


@dataclass(frozen=True)
class Tried:
    """A candidate: how much of the cost it keeps, and what it loses, or why that cannot be said."""

    share: float
    drop: Drop | None
    broken: str = ""

    def __str__(self) -> str:
        if self.drop is None:
            return f"{self.share:.1%} of the params counts as failing: {self.broken}"
        return f"{self.share:.1%} of the params loses {self.drop.value:.2%} (up to {self.drop.upper:.2%} within one standard error)"


def smallest(
    start: Shrinker, full: Goal, lose: Callable[[Shrinker], Drop], max_drop: float, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Shrinker, tuple[Tried, ...]]:
    """The smallest candidate whose loss, with its standard error, is within a bound.

    Parameters
    ----------
    start : Shrinker
        At the dense model; it is left as it is.
    full : Goal
        Of which shares are taken.
    lose : callable
        What a candidate loses on validation.
    max_drop : float
        A share.
    progress : callable, optional
        Called with (candidates judged, candidates expected).

    Raises
    ------
    BudgetError
        If even the mildest candidate loses more; it says by how much.
    StatisticsError
        If no candidate can be solved or judged at all.
    """
    tried: list[Tried] = []

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
            progress(len(tried), max(len(tried), _BISECTIONS + 2))
        return candidate, found.drop is not None and found.drop.upper <= max_drop

    good, kept, failed = start, 1.0, 0.0
    least = start.least(full.cost) / full.full
    for share in DESCENT:
        if share <= least:
            break
        candidate, holds = step(good, share)
        if not holds:
            failed = share
            break
        good, kept = candidate, share
    for _ in range(_BISECTIONS if failed else 0):
        middle = math.sqrt(kept * failed)
        candidate, holds = step(good, middle)
        if holds:
            good, kept = candidate, middle
        else:
            failed = middle
    if good is start:
        judged = [(one.drop.upper, str(one)) for one in tried if one.drop is not None]
        if tried and not judged:
            raise StatisticsError(f"No candidate of the search for --max-drop {max_drop:.2%} can be used; the last: {tried[-1]}")
        nearest = min(judged)[1] if judged else "nothing can be removed from this model"
        raise BudgetError(f"--max-drop {max_drop:.2%} cannot be met by a smaller model; the nearest: {nearest}. Allow a larger drop.")
    return good, tuple(tried)
