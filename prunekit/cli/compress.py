"""``prunekit compress``, ``plan`` and ``apply``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prunekit.cli.base import app, say
from prunekit.cli.describe import describe_plan
from prunekit.cli.output_files import STDOUT, check_file, standard_output, write_file
from prunekit.cli.parameters import DryRun, Grouped, Json, Out, Overwrite, Quiet, RecipeFile, Verbose, option, with_options
from prunekit.errors import ParameterError

if TYPE_CHECKING:
    from prunekit.pipeline.preview import Preview
    from prunekit.recipe import Recipe


@app.command(cls=Grouped)
@with_options("compress")
def compress(
    out: Out = Path("prunekit-out"),
    json: Json = None,
    recipe: RecipeFile = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Compress MODEL for the task of --data and write a directory that is ready to deploy."""
    request = _recipe(recipe, options)
    if recipe is not None:
        from prunekit.exporters.artefact import check_apart

        check_apart(out, (recipe,), of="compress")
    _run(request, out, json, overwrite, recipe=recipe, dry_run=dry_run, verbose=verbose, quiet=quiet)


@app.command(cls=Grouped)
@with_options("plan")
def plan(
    out: Annotated[Path, option("--out", "-o", group="Output", metavar="FILE", help="File to write [default: plan.json].")] = Path(
        "plan.json"
    ),
    statistics: Annotated[
        Path | None,
        option(
            "--statistics",
            group="Data",
            metavar="FILE",
            help="The statistics.safetensors of prunekit analyze, collect or merge for this model and data: neurons are chosen on its "
            "rows, and the model is not run for them.",
        ),
    ] = None,
    recipe: RecipeFile = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Decide what to keep of MODEL for the task of --data, and write that down as a plan; no model is written."""
    request = _recipe(recipe, options)
    _check_loud(verbose, quiet, "plan")
    from prunekit.pipeline.early import Sources, check_places

    early = check_places(request)  # torch is imported afterwards
    if dry_run:
        from prunekit.pipeline.compress import dry_plan

        _print_preview(dry_plan(request, out=out, statistics=statistics, overwrite=overwrite, sources=Sources(early=early)))
        return
    from prunekit.pipeline.compress import run_plan

    new_plan = run_plan(
        request, out=out, statistics=statistics, overwrite=overwrite, progress=not quiet, verbose=verbose, sources=Sources(early=early)
    )
    if quiet:
        print(out)
        return
    describe_plan(new_plan)
    say(f"\nwritten to {out}")
    say(f"carry it out: prunekit apply MODEL --plan {out} --data NAME")


@app.command(cls=Grouped)
@with_options("apply")
def apply(
    plan: Annotated[Path, option("--plan", group="What to keep", metavar="FILE", help="The plan to carry out.")],
    data: Annotated[
        str | None,
        option("--data", group="Data", metavar="NAME", help="File, directory or hub name, to refit the weights and to measure."),
    ] = None,
    out: Out = Path("prunekit-out"),
    json: Json = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Carry out a plan on MODEL and write a directory that is ready to deploy.

    With --data, weights are refitted, a readout's classifier is fitted and everything is measured; without, weights are only cut.
    """
    data_option = {} if data is None else {"data": data}
    request = _recipe(None, {"plan": plan, **data_option, **options})
    _run(request, out, json, overwrite, recipe=None, dry_run=dry_run, verbose=verbose, quiet=quiet)


def _run(
    request: Recipe, out: Path, json: Path | None, overwrite: bool, *, recipe: Path | None, dry_run: bool, verbose: bool, quiet: bool
) -> None:
    # As in the checks of a recipe, `with_options` puts the command that was called in the place of compress.
    _check_loud(verbose, quiet, "compress")
    _check_json(json, out, "compress", dry_run, overwrite, (recipe, request.model, request.data, request.plan, request.retrieval))
    from prunekit.pipeline.early import Sources, check_early

    early = check_early(request, out, overwrite)  # torch is imported afterwards
    if dry_run:
        from prunekit.pipeline.compress import dry_run as preview

        _print_preview(preview(request, out=out, overwrite=overwrite, sources=Sources(early=early)))
        return
    from prunekit.pipeline.compress import run

    with standard_output((json,)) as stdout:
        result = run(request, out=out, overwrite=overwrite, progress=not quiet, verbose=verbose, sources=Sources(early=early))
        if json is not None:
            write_file(json, result.report.to_json(), stdout)
        if quiet:
            print(result.path)
            return
        from prunekit.report.tables import render_terminal

        render_terminal(result.report)
        say(f"\nwritten to {result.path}")
        say(f"load it in Python: import prunekit; model = prunekit.load({str(result.path)!r})")


def _check_json(json: Path | None, out: Path, of: str, dry_run: bool, overwrite: bool, inputs: Iterable[object]) -> None:
    """Refuse, before any work, a path that cannot be written, that is inside the output, or that is an input."""
    if json is None:
        return
    if dry_run:
        raise ParameterError("json", of, "left out beside --dry-run, which makes no report", str(json))
    from prunekit.exporters.artefact import resolved

    check_file("json", of, json, inputs, overwrite=overwrite)
    if json != STDOUT and json.resolve().is_relative_to(resolved(out, of=of)):
        raise ParameterError("json", of, "a file outside of the output directory", str(json))


def _recipe(path: Path | None, options: dict[str, Any]) -> Recipe:
    """Return the recipe of a file, or the defaults, with the given options in their place."""
    from prunekit.recipe import Recipe

    return Recipe(**options) if path is None else Recipe.load(path).replace(**options)


def _check_loud(verbose: bool, quiet: bool, of: str) -> None:
    if verbose and quiet:
        raise ParameterError("verbose", of, "left out beside --quiet", "true")


def _print_preview(preview: Preview) -> None:
    for line in preview.lines:
        say(line)
