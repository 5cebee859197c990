"""Schedule of the cuts during a training: their steps, and the budget of each."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import TrainerControl
from transformers.trainer_callback import DefaultFlowCallback

from prunekit.budget import Budget
from prunekit.errors import ParameterError

Curve = Literal["cubic", "linear"]


@dataclass(frozen=True)
class Schedule:
    """Cuts at equal intervals, along a curve from the dense model to the budget.

    Attributes
    ----------
    curve : {"cubic", "linear"}
        How the share falls from 1 to its end (cubic: Zhu & Gupta 2017, quickly at first).
    start, end : float
        Shares of the training, 0 <= start < end <= 1, between which units are removed.
    steps : int
        Number of cuts.
    """

    curve: Curve
    start: float
    end: float
    steps: int

    def check(self, of: str) -> None:
        """Raise ParameterError where the shares do not follow each other; `of` names whose parameters they are."""
        if not 0 <= self.start < self.end <= 1:
            raise ParameterError("start", of, "a share of the training below 'end', both in [0, 1]", (self.start, self.end))

    def due(self, total: int) -> dict[int, int]:
        """Return {step of a training of `total` steps after which units are removed: number of the cut, from 1}."""
        shares = [self.start + (self.end - self.start) * (step + 1) / self.steps for step in range(self.steps)]
        return {max(1, round(share * total)): step + 1 for step, share in enumerate(shares)}

    def budgets(self, final: Sequence[Budget], step: int) -> list[Budget]:
        """Return the budgets that hold after cut `step`, from 1."""
        remaining = 1 - step / self.steps
        share = remaining**3 if self.curve == "cubic" else remaining
        return [Budget(budget.unit, budget.amount + (1 - budget.amount) * share) for budget in final]


def check_judged(args: Any, state: Any, last: int) -> None:
    """Raise ParameterError where a Trainer that gives its best model back evaluates at no step from the last cut on.

    Parameters
    ----------
    args : TrainingArguments
    state : TrainerState
        When training begins.
    last : int
        Step of the last cut.
    """
    if not args.load_best_model_at_end or args.eval_strategy == "no":
        return
    must = f"such that a checkpoint is judged from the last cut of a PruneCallback on, at step {last} of {state.max_steps}"
    if args.eval_strategy == "epoch":
        # The end of the last epoch is judged, unless the delay, in epochs, is longer.
        if args.eval_delay > state.num_train_epochs:
            raise ParameterError("eval_delay", "TrainingArguments", must, f"{args.eval_delay} epochs of {state.num_train_epochs}")
        return
    every, flow = int(state.eval_steps), DefaultFlowCallback()
    # Whether the last step is judged, whatever its number, depends on the version of transformers.
    for step in {every * -(-max(last, math.ceil(args.eval_delay)) // every), state.max_steps}:
        then = copy.copy(state)
        then.global_step = step
        if last <= step <= state.max_steps and flow.on_step_end(args, then, TrainerControl()).should_evaluate:
            return
    raise ParameterError("eval_steps", "TrainingArguments", must, f"{every}, from step {args.eval_delay} on")


def shortfall(args: Any, state: Any, last: int, kept: str) -> str:
    """Return why a trained model is not the one that was asked for; empty where it is.

    Parameters
    ----------
    args : TrainingArguments
    state : TrainerState
        When training ends.
    last : int
        Step of the last cut.
    kept : str
        What the model keeps, and what it was to keep.
    """
    now = state.global_step
    if now < last:
        return f"Training ended at step {now}, before the last cut of PruneCallback at step {last}: {kept}."
    if args.load_best_model_at_end and state.best_metric is None:
        return (
            f"Training ended with no checkpoint judged after the last cut of PruneCallback: the model is that of step {now}, not the best."
        )
    return ""
