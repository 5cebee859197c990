"""Training of what is left, where a recipe asks for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from prunekit.budget import Effort
from prunekit.pipeline.records import Inputs
from prunekit.pipeline.targets import STRUCTURE
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages

if TYPE_CHECKING:
    from prunekit.training.distill import Recovered

#: What of a recipe training does not depend on.
_APART = {"max_drop", "threads", "metric", "plan"}


def checkpoint_place(recipe: Recipe, plan: Plan, out: Path) -> Path:
    """Where a run leaves its checkpoints: beside the artefact, under a name that only the same run has."""
    said = recipe.model_dump(mode="json", exclude_none=True, exclude=_APART)
    token = hashlib.sha256(json.dumps([plan.digest, said], sort_keys=True).encode()).hexdigest()[:12]
    return out.resolve().parent / f".{out.resolve().name}.recover-{token}"


def effort_of(recipe: Recipe, plan: Plan) -> Effort | None:
    """How long the slim model is trained; "auto" trains none that has lost neither layers nor heads nor FFN neurons."""
    cut = plan.layers is not None or plan.hidden is not None or plan.affine or plan.heads or plan.ffn
    budgeted = any(budget.unit in STRUCTURE for budget in recipe.budgets)
    return None if recipe.recover == "auto" and not cut and not budgeted else recipe.effort


def recovered(
    recipe: Recipe, effort: Effort, inputs: Inputs, dense: nn.Module, slim: nn.Module, plan: Plan, out: Path, stage: Stages
) -> Recovered:
    """Train the slim model, still with all tokens: from the dense one if that has a head for the task, else on the labels."""
    # The Trainer takes a second to import, and needs an extra.
    from prunekit.training.checkpoints import complete_checkpoint
    from prunekit.training.distill import recover

    place = checkpoint_place(recipe, plan, out)
    with stage(f"recover, {effort} at most", unit="%"):
        try:
            return recover(
                slim,
                dense if inputs.own_head else None,
                inputs.encoded["train"],
                effort=effort,
                plan=plan,
                validation=inputs.encoded["validation"],
                task=inputs.data.task.by_word if inputs.data.task.kind.traits.labelled else None,
                own_space=recipe.space == "own",
                freeze=recipe.freeze,
                seed=recipe.seed,
                checkpoints=place,
                progress=stage.step,
            )
        except BaseException as stopped:
            if complete_checkpoint(place) is not None:
                stopped.add_note("the same command again goes on from the last checkpoint of the training")
            raise
