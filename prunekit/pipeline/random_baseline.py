"""The baseline of a structure that was given and not chosen: as much of each kind, drawn at random and refitted likewise."""

from __future__ import annotations

import numpy as np
from torch import nn

from prunekit.arch.view import UNITS
from prunekit.pipeline.apply import solve
from prunekit.pipeline.decide import calibration_of
from prunekit.pipeline.records import Decided, Run
from prunekit.plan import Plan, kept_blocks
from prunekit.transforms.apply import completed

#: Draws after which a structure is taken for the only one of its size.
_ATTEMPTS = 20


def drawn_plan(run: Run, decided: Decided, draw: int) -> Plan | None:
    """Return a plan of as many blocks, of the same widths in another order, and of other heads and FFN neurons; None where there is none.

    There is none where a budget asks for more than is named, where dimensions or a readout are named, where training freezes blocks by
    their numbers, and for models whose blocks share weights or were pruned before.
    """
    plan, view, recipe = decided.plan, run.inputs.view, run.recipe
    alike = view.spec.shared_blocks or getattr(view.config, UNITS, None) is not None
    if recipe.budgets or recipe.freeze is not None or alike or any((plan.hidden, plan.components, plan.readout)):
        return None
    for attempt in range(_ATTEMPTS):
        other = completed(view, _shuffled(plan, np.random.default_rng((recipe.seed, draw, attempt))))
        if (other.layers, other.heads, other.ffn, other.affine) != (plan.layers, plan.heads, plan.ffn, plan.affine):
            return other
    return None


def _shuffled(plan: Plan, generator: np.random.Generator) -> Plan:
    source, kept = plan.source, kept_blocks(plan)

    def draw(count: int, of: int) -> tuple[int, ...]:
        return tuple(sorted(generator.choice(of, count, replace=False).tolist()))

    blocks = draw(len(kept), source.layers)
    # {block drawn: block of the plan whose width it gets}
    heads, ffn = (dict(zip(blocks, generator.permutation(kept).tolist(), strict=True)) for _ in range(2))
    affine = None if plan.affine is None else tuple(block for block in blocks if ffn[block] in plan.affine)
    return Plan(
        source=source,
        layers=None if plan.layers is None else blocks,
        heads={block: draw(len(plan.heads[of]), source.heads) for block, of in heads.items() if of in plan.heads},
        ffn={block: draw(len(plan.ffn[of]), source.ffn) for block, of in ffn.items() if of in plan.ffn},
        affine=affine,
    )


def solved_at_random(run: Run, plan: Plan, title: str) -> nn.Module:
    """Return the model that such a plan makes, refitted on the rows on which the slim model was."""
    rows = calibration_of(run.recipe, run.inputs)
    with run.stage(f"solve, {title}"):
        return solve(run.inputs.loaded.model, plan, rows, seed=run.recipe.seed).model
