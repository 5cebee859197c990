"""Plans as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunekit.cli.base import say

if TYPE_CHECKING:
    from prunekit.plan import Plan

_WIDEST = 60  # characters of a list of indices that are printed


def describe_plan(plan: Plan) -> None:
    """Print the plan as a table; units that are not named are kept in full."""
    from prunekit.plan import describe

    say(f"plan {plan.digest[:12]} for {', '.join(f'{name} {value}' for name, value in plan.source)}")
    rows = describe(plan)
    for unit, kept, indices in rows:
        say(f"{unit:<{max(len(row[0]) for row in rows)}}  {kept:>{max(len(row[1]) for row in rows)}}  {_short(indices)}")
    if not rows:
        print("everything is kept")


def _short(text: str) -> str:
    """Shorten a long list of ranges, which the file has in full."""
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST].rpartition(',')[0]},..."
