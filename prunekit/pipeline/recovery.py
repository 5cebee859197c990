"""Training of the slim model, where a recipe asks for it."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from prunekit.budget import ABSOLUTE, Effort
from prunekit.pipeline.records import Inputs
from prunekit.pipeline.targets import STRUCTURE
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.heap import trim
from prunekit.validation.scratch import locked

if TYPE_CHECKING:
    from prunekit.training.distill import Recovered

#: Fields of a recipe that training does not depend on. It depends on the largest drop: its rows are set aside from validation.
_INDEPENDENT = {"threads", "plan"}


def checkpoint_place(recipe: Recipe, plan: Plan, out: Path) -> Path:
    """Return the directory of a run's checkpoints: beside the artefact, under a name that only the same run has."""
    settings = recipe.model_dump(mode="json", exclude_none=True, exclude=_INDEPENDENT)
    token = hashlib.sha256(json.dumps([plan.digest, settings], sort_keys=True).encode()).hexdigest()[:12]
    return out.resolve().parent / f".{out.resolve().name}.recover-{token}"


def clear_checkpoints(out: Path) -> None:
    """Remove the checkpoints beside an artefact, of whichever recipe, but for those of a run that goes on."""
    out = out.resolve()
    for folder in out.parent.glob(f".{glob.escape(out.name)}.recover-{'[0-9a-f]' * 12}"):
        from prunekit.training.checkpoints import KEY  # the Trainer takes a second to import

        try:
            lock = locked(folder) if (folder / KEY).is_file() else None
        except OSError:
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


#: Most passes over train of "auto" where no dense model teaches, and rows that are seen in any case, where train is small: labels
#: are soon memorised, and a decayed learning rate is worth more than passes at a high one.
LABEL_PASSES, LABEL_ROWS = 3, 25_600


#: Bytes in which answers of the dense model are kept, those of two copies of its weights included; and the fewest that are left for them.
_ANSWERS, _FEWEST = 2**31, 2**29


def answer_memory(dense: nn.Module) -> int:
    """Return the bytes for answers of the dense model: a large model, whose training takes more memory, leaves less for them."""
    weights = sum(each.numel() * each.element_size() for each in dense.parameters())
    return max(_FEWEST, _ANSWERS - 2 * weights)


def bounded(effort: Effort, inputs: Inputs) -> Effort:
    """Return `effort`, with the passes of "auto" bounded where only labels teach."""
    if effort.passes is None or inputs.own_head:
        return effort
    return replace(effort, passes=min(effort.passes, max(LABEL_PASSES, LABEL_ROWS / len(inputs.encoded["train"]))))


def effort_of(recipe: Recipe, plan: Plan) -> Effort | None:
    """Return how long the slim model is trained; "auto" trains none that has lost neither layers nor heads nor FFN neurons."""
    cut = plan.layers is not None or plan.hidden is not None or plan.affine or plan.heads or plan.ffn
    # A file or a time that is small enough as it is gives nothing to recover from.
    budgeted = any(budget.unit in STRUCTURE and budget.unit not in ABSOLUTE for budget in recipe.budgets)
    return None if recipe.recover == "auto" and not cut and not budgeted else recipe.effort


@dataclass(frozen=True, eq=False)
class Training:
    """Training of the models of a run: distillation from the dense one if that has a head for the task, else on the labels."""

    recipe: Recipe
    effort: Effort
    inputs: Inputs
    dense: nn.Module
    stage: Stages

    def slim(self, model: nn.Module, plan: Plan, out: Path) -> Recovered:
        """Train the slim model, still with all tokens; an interrupted run resumes where it was."""
        # The Trainer takes a second to import.
        from prunekit.training.checkpoints import complete_checkpoint

        place = checkpoint_place(self.recipe, plan, out)
        try:
            return self._run(model, plan, "recover", self.recipe.seed, place)
        except BaseException as stopped:
            if complete_checkpoint(place) is not None:
                stopped.add_note("the same command again goes on from the last checkpoint of the training")
            raise

    def baseline(self, model: nn.Module, plan: Plan | None, name: str, draw: int = 0) -> nn.Module:
        """Train a model that the slim one is compared with; nothing is kept of an interrupted run."""
        return self._run(model, plan, f"recover {name}", self.recipe.seed + draw, None).model

    def _run(self, model: nn.Module, plan: Plan | None, title: str, seed: int, checkpoints: Path | None) -> Recovered:
        from prunekit.training.distill import recover

        recipe, inputs = self.recipe, self.inputs
        # What was cut and refitted is no longer in use.
        trim()
        with self.stage(f"{title}, {self.effort} at most", unit="%"):
            recovered = recover(
                model,
                self.dense if inputs.own_head else None,
                inputs.encoded["train"],
                effort=self.effort,
                plan=plan,
                validation=inputs.encoded["validation"],
                task=inputs.data.task.by_word if inputs.data.task.kind.traits.labelled else None,
                own_space=recipe.space == "own",
                freeze=recipe.freeze,
                seed=seed,
                memory=answer_memory(self.dense),
                checkpoints=checkpoints,
                progress=self.stage.step,
            )
        trim()
        return recovered
