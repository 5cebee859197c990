"""``prunekit show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from prunekit.cli.base import app, say
from prunekit.cli.describe import describe_plan
from prunekit.errors import ParameterError


@app.command()
def show(
    plan: Annotated[Path, Argument(metavar="PLAN", help="A plan.json, or a directory that holds one.")],
    other: Annotated[Path | None, Argument(metavar="OTHER", help="Another one, to compare with.")] = None,
    verify: Annotated[
        bool,
        Option("--verify", help="Check that every file of the directory is as it was written, and that its ONNX files answer as they did."),
    ] = False,
) -> None:
    """Print what a plan keeps, unit by unit, or what two plans keep differently, the first one's first."""
    if verify:
        _verify(plan, other)
        return
    from prunekit.plan import Plan, diff

    first = Plan.load(plan)
    if other is None:
        describe_plan(first)
    else:
        say(diff(first, Plan.load(other)) or "the two plans keep the same")


def _verify(folder: Path, other: Path | None) -> None:
    """Print whether a directory is as prunekit wrote it; exit with code 1 where it is not."""
    from prunekit.validation.reading import place_fault

    if other is not None:
        raise ParameterError("verify", "show", "given with one directory", str(other))
    if place_fault(folder) is not None or not folder.expanduser().is_dir():
        raise ParameterError("verify", "show", "given with a directory that prunekit wrote", str(folder))
    from prunekit.exporters.verify import verify

    mismatch = verify(folder.expanduser())
    if mismatch is not None:
        say(f"{folder} is not as it was written: {mismatch.path!r}: {' '.join(mismatch.why.split())}")
        raise Exit(1)
    say(f"{folder} is as it was written")
