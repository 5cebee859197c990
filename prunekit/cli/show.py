"""``prunekit show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from prunekit.cli.base import app
from prunekit.cli.describe import describe_plan


@app.command()
def show(
    plan: Annotated[Path, Argument(metavar="PLAN", help="A plan.json, or a directory that holds one.")],
    other: Annotated[Path | None, Argument(metavar="OTHER", help="Another one, to compare with.")] = None,
) -> None:
    """Print what a plan keeps, unit by unit, or what two plans keep differently, the first one's first."""
    from prunekit.plan import Plan, diff

    first = Plan.load(plan)
    if other is None:
        describe_plan(first)
    else:
        print(diff(first, Plan.load(other)) or "the two plans keep the same")
