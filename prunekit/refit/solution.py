"""What a refit did, for a report that says how its numbers came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Solution:
    """One least-squares solution.

    Attributes
    ----------
    where : str
        What was solved: "FFN of block 3".
    rows : int
        Calibration rows with a weight: tokens, or sentences where a head reads one token of each.
    inputs : int
        Unknowns for each output.
    damping : float
        Strength with which the solution is drawn to the weights that were there, in units of the inputs' mean variance.
    determined : bool
        Whether the rows alone determine it. They do not if there are fewer rows than inputs, or if inputs repeat each other;
        then it is the damping that decides.
    """

    where: str
    rows: int
    inputs: int
    damping: float
    determined: bool


def summary(solutions: Sequence[Solution]) -> tuple[str, ...]:
    """Sentences for a report; none if nothing was solved."""
    if not solutions:
        return ()
    rows = max(solution.rows for solution in solutions)
    dampings = ", ".join(f"{damping:g}" for damping in sorted({solution.damping for solution in solutions}))
    said = [
        f"weights were solved anew: {len(solutions)} least-squares solutions on up to {rows:,} calibration tokens, "
        f"damped by {dampings} of the mean variance of their inputs"
    ]
    open_ones = [solution for solution in solutions if not solution.determined]
    if open_ones:
        worst = max(open_ones, key=lambda solution: solution.inputs / max(solution.rows, 1))
        names = dict.fromkeys(solution.where for solution in open_ones)
        said.append(
            f"{len(open_ones)} of these the rows alone do not determine, so the damping decides: {', '.join(names)} "
            f"(worst: {worst.inputs:,} inputs from {worst.rows:,} rows)"
        )
    return tuple(said)
