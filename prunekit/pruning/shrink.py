"""Pruning of a model to a budget of parameters, multiply-accumulates, time or bytes, without training.

Each step measures sensitivities (`stats.sensitivity`), prices every head and FFN neuron (`pruning.allocation`), removes
the cheapest (`transforms.cut`) and refits the rest (`refit.refit`). A large reduction takes several steps, because the
importance of a unit depends on which others have been removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.arch.count import Counts
from prunekit.arch.live import check_weights
from prunekit.budget import Budget, Unit
from prunekit.errors import ParameterError
from prunekit.pruning.costs import Goal, Macs, Params
from prunekit.pruning.iterative import Criterion, IterativePruner, Origin, Shape, Shrunk, Tighten
from prunekit.refit.refit import Damping
from prunekit.validation.arguments import NotEmpty, Seed, Within, checked
from prunekit.validation.limits import POSITIONS, WIDTH

Progress = Callable[[int, int], None]

#: Smallest share of its input that a step leaves. More steps do not pay off: every refit adds noise.
_STEP_SHARE = 0.35
#: Share below which the number of steps does not increase.
LEAST = 1e-3


@checked("shrink")
def shrink(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    budgets: Annotated[Sequence[Budget | Goal], NotEmpty()],
    *,
    lengths: NDArray[np.integer] | None = None,
    start: Counts | None = None,
    criterion: Criterion = "cost",
    uniform: bool = False,
    multiple_of: Annotated[int, Within(1, WIDTH)] = 1,
    damping: Damping | None = None,
    seed: Seed = 0,
    tighten: Tighten | None = None,
    progress: Progress | None = None,
) -> Shrunk:
    """Choose and remove heads and FFN neurons until every budget holds, and refit the rest.

    Parameters
    ----------
    model : PreTrainedModel or ReadoutModel
        Dense model with or without a head, or one that reads selected neurons; it is not changed.
    batches : sequence of dict
        Tokenised calibration rows, labels not needed: `input_ids`, `attention_mask` and the other inputs of the model.
    budgets : sequence of Budget or Goal
        Budgets of parameters of the layers (`Unit.PARAMS`) or multiply-accumulates (`Unit.MACS`); goals of any cost.
    lengths : ndarray of int, optional
        Real lengths of the data's rows, for MACs; default: those of the calibration rows.
    start : Counts, optional
        Counts that shares refer to; default: those of `model`. They differ where the model has already lost blocks.
    criterion : {"cost", "random", "magnitude"}
        Criterion for units: the cost of their removal, or, as baselines that are refitted likewise, chance or the
        smallest projection weights.
    uniform : bool
        Whether every block keeps equally many FFN neurons, so that stock classes load the result; heads are removed only
        where the family's config can express it, and equally many in every block.
    multiple_of : int
        FFN widths are multiples of this.
    damping : Damping, optional
        Damping of the least-squares solutions.
    seed : int
    tighten : callable, optional
        As in `IterativePruner.step`, for the last step.
    progress : callable, optional
        Called with (steps done, steps in all).

    Raises
    ------
    ParameterError
        If a budget counts something else, or `multiple_of` does not fit the model.
    ModelError
        If weights are not those that the config describes, or hold NaN.
    BudgetError
        If a budget cannot be met even without all removable heads and FFN neurons.
    StatisticsError
        If the calibration rows are degenerate, or there are none.
    """
    check_weights(model)
    if lengths is not None:
        _check_lengths(lengths)
    origin, shape = Origin(lengths, start), Shape(uniform, multiple_of)
    pruner = IterativePruner(model, batches, origin=origin, shape=shape, criterion=criterion, damping=damping, seed=seed)
    goals = [goal if isinstance(goal, Goal) else goal_of(goal, pruner.start, pruner.lengths) for goal in budgets]
    pruner.check_reach(goals)
    prune_to_targets(pruner, goals, tighten=tighten, progress=progress)
    return pruner.result()


def _check_lengths(lengths: NDArray[np.integer]) -> None:
    whole = lengths.ndim == 1 and lengths.dtype.kind in "iu" and len(lengths) > 0
    if not whole or not 1 <= lengths.min() <= lengths.max() <= POSITIONS:
        must = f"one whole number from 1 to {POSITIONS:,} for each row"
        raise ParameterError("lengths", "shrink", must, f"{lengths.dtype} of shape {lengths.shape}")


def prune_to_targets(
    work: IterativePruner, goals: Sequence[Goal], *, tighten: Tighten | None = None, trained: bool = False, progress: Progress | None = None
) -> None:
    """Prune iteratively to the goals, in the fewest steps that do no harm; in none if there is nothing to remove, or no need to.

    If the model is `trained` afterwards, all steps but the last are cheap ones (`IterativePruner.trim`).
    """
    if not work.removable or (work.fits and all(goal.met(work.view) for goal in goals)):
        return
    smallest = max(min(goal.share for goal in goals), LEAST)
    # The criteria of the baselines do not depend on what has been removed.
    total = steps_to(smallest) if work.criterion == "cost" else 1
    for step in range(1, total + 1):
        intermediate = [goal.at(max(goal.share, smallest ** (step / total))) for goal in goals]
        if trained and step < total:
            work.trim(intermediate)
        else:
            work.step(intermediate, tighten if step == total else None)
        if progress is not None:
            progress(step, total)


def steps_to(share: float) -> int:
    """Return the number of steps in which a share is reached."""
    return max(1, math.ceil(math.log(max(share, LEAST)) / math.log(_STEP_SHARE)))


def goal_of(budget: Budget, start: Counts, lengths: NDArray[np.integer]) -> Goal:
    """Return the goal of a budget of parameters or multiply-accumulates."""
    description = f"--keep {str(budget)!r}"
    if budget.unit is Unit.PARAMS:
        return Goal(Params(), budget.amount * start.params_layers, start.params_layers, description)
    if budget.unit is Unit.MACS:
        return Goal(Macs(lengths), budget.amount * start.macs, start.macs, description)
    raise ParameterError("budgets", "shrink", "shares of params or macs", str(budget))
