"""Shrinks a model to a budget of parameters, multiply-accumulates, time or bytes, without training.

In a few steps: feel what the task feels (`stats.sensitivity`), price every head and FFN neuron (`pruning.allocation`),
cut the cheapest (`transforms.cut`), and solve what is left anew (`refit.refit`). A large cut is made in steps, because
what a unit is worth depends on what else is gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.arch.count import Counts
from prunekit.budget import Budget, Unit
from prunekit.errors import ParameterError
from prunekit.pruning.costs import Goal, Macs, Params
from prunekit.pruning.iterative import Choice, Origin, Shape, Shrinker, Shrunk, Tighten
from prunekit.refit.refit import Damping
from prunekit.validation.arguments import NotEmpty, Seed, Within, checked
from prunekit.validation.limits import WIDTH

Progress = Callable[[int, int], None]

#: Each step leaves no less than this share of what the step before left. More steps do not pay: every refit adds noise.
_STEP = 0.35
#: The share below which steps do not become more.
LEAST = 1e-3


@checked("shrink")
def shrink(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    budgets: Annotated[Sequence[Budget | Goal], NotEmpty()],
    *,
    lengths: NDArray[np.integer] | None = None,
    start: Counts | None = None,
    choice: Choice = "cost",
    uniform: bool = False,
    multiple_of: Annotated[int, Within(1, WIDTH)] = 1,
    damping: Damping | None = None,
    seed: Seed = 0,
    tighten: Tighten | None = None,
    progress: Progress | None = None,
) -> Shrunk:
    """Choose and remove heads and FFN neurons until every budget holds, and re-solve what stays.

    Parameters
    ----------
    model : PreTrainedModel or ReadoutModel
        Dense model with or without a head, or one that reads chosen neurons; it is left as it is.
    batches : sequence of dict
        Tokenised calibration rows, labels not needed: `input_ids`, `attention_mask` and what else the model reads.
    budgets : sequence of Budget or Goal
        Budgets of parameters of the layers (`Unit.PARAMS`) or multiply-accumulates (`Unit.MACS`); goals of any cost.
    lengths : ndarray of int, optional
        Real lengths of the data's rows, for MACs; default: those of the calibration rows.
    start : Counts, optional
        What shares are taken of; default: the model given. Another where the model has lost blocks already.
    choice : {"cost", "random", "magnitude"}
        How units are chosen: by what their removal costs, or, as baselines that are re-solved all the same, at random or
        by the smallest projection weights.
    uniform : bool
        Every block keeps equally many FFN neurons, so that stock classes load the result; heads go only where the
        family's config can say so, and equally many in every block.
    multiple_of : int
        FFN widths are multiples of this.
    damping : Damping, optional
        Of the least-squares solutions.
    seed : int
    tighten : callable, optional
        As in `Shrinker.step`, for the last step.
    progress : callable, optional
        Called with (steps done, steps in all).

    Raises
    ------
    ParameterError
        If a budget counts something else, or `multiple_of` does not fit the model.
    BudgetError
        If a budget cannot be met even with all heads and FFN neurons gone that may go.
    StatisticsError
        If the calibration rows are degenerate, or there are none.
    """
    origin, shape = Origin(lengths, start), Shape(uniform, multiple_of)
    work = Shrinker(model, batches, origin=origin, shape=shape, choice=choice, damping=damping, seed=seed)
    goals = [goal if isinstance(goal, Goal) else goal_of(goal, work.start, work.lengths) for goal in budgets]
    work.check_reach(goals)
    descend(work, goals, tighten=tighten, progress=progress)
    return work.result()


def descend(
    work: Shrinker, goals: Sequence[Goal], *, tighten: Tighten | None = None, trained: bool = False, progress: Progress | None = None
) -> None:
    """Go down to the goals in as few steps as do not hurt; none where there is nothing to remove, or no need to.

    Where the model is `trained` afterwards, all steps but the last are cheap ones (`Shrinker.trim`).
    """
    if not work.removable or (work.fits and all(goal.met(work.view) for goal in goals)):
        return
    smallest = max(min(goal.share for goal in goals), LEAST)
    # What the baselines choose does not depend on what else is gone.
    total = steps_to(smallest) if work.choice == "cost" else 1
    for step in range(1, total + 1):
        on_the_way = [goal.at(max(goal.share, smallest ** (step / total))) for goal in goals]
        if trained and step < total:
            work.trim(on_the_way)
        else:
            work.step(on_the_way, tighten if step == total else None)
        if progress is not None:
            progress(step, total)


def steps_to(share: float) -> int:
    """In how many steps a share is gone down to."""
    return max(1, math.ceil(math.log(max(share, LEAST)) / math.log(_STEP)))


def goal_of(budget: Budget, start: Counts, lengths: NDArray[np.integer]) -> Goal:
    """A budget of parameters or multiply-accumulates as a goal."""
    asked = f"--keep {str(budget)!r}"
    if budget.unit is Unit.PARAMS:
        return Goal(Params(), budget.amount * start.params_layers, start.params_layers, asked)
    if budget.unit is Unit.MACS:
        return Goal(Macs(lengths), budget.amount * start.macs, start.macs, asked)
    raise ParameterError("budgets", "shrink", "shares of params or macs", str(budget))
