"""Schedule of the cuts during a training: their steps, and the budget of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
