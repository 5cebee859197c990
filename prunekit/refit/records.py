"""Records of the solutions of a refit, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Solution:
    """One least-squares solution.

    Attributes
    ----------
    where : str
        Name of what was solved: "FFN of block 3".
    rows : int
        Calibration rows with a weight: tokens, or sentences where a head reads one token of each.
    inputs : int
        Unknowns for each output.
    damping : float
        Strength with which the solution is drawn to the previous weights, in units of the inputs' mean variance.
    determined : bool
        Whether the rows alone determine it. They do not if there are fewer rows than inputs, or if inputs are collinear;
        then the damping decides.
    """

    where: str
    rows: int
    inputs: int
    damping: float
    determined: bool


def summary(solutions: Sequence[Solution]) -> tuple[str, ...]:
    """Return sentences for a report; none if nothing was solved."""
    if not solutions:
        return ()
    rows = max(solution.rows for solution in solutions)
    dampings = ", ".join(f"{damping:g}" for damping in sorted({solution.damping for solution in solutions}))
    sentences = [
        f"weights were refitted: {len(solutions)} least-squares solutions on up to {rows:,} calibration tokens, "
        f"damped by {dampings} of the mean variance of their inputs"
    ]
    undetermined = [solution for solution in solutions if not solution.determined]
    if undetermined:
        worst = max(undetermined, key=lambda solution: solution.inputs / max(solution.rows, 1))
        names = dict.fromkeys(solution.where for solution in undetermined)
        sentences.append(
            f"{len(undetermined)} of these the rows alone do not determine, so the damping decides: {', '.join(names)} "
            f"(worst: {worst.inputs:,} inputs from {worst.rows:,} rows)"
        )
    return tuple(sentences)
