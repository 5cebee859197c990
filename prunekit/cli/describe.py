"""A plan on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunekit.cli.base import say

if TYPE_CHECKING:
    from prunekit.plan import Plan

_WIDEST = 60  # characters of a list of indices that are printed


def describe_plan(plan: Plan) -> None:
    """The plan as a table; what is not named is kept whole."""
    from prunekit.plan import describe

    say(f"plan {plan.digest[:12]} for {', '.join(f'{name} {value}' for name, value in plan.source)}")
    rows = describe(plan)
    for unit, kept, which in rows:
        say(f"{unit:<{max(len(row[0]) for row in rows)}}  {kept:>{max(len(row[1]) for row in rows)}}  {_short(which)}")
    if not rows:
        print("everything is kept")


def _short(which: str) -> str:
    """A long list of ranges is for the file, not for the screen."""
    return which if len(which) <= _WIDEST else f"{which[:_WIDEST].rpartition(',')[0]},..."
