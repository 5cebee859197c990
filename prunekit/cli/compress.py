"""``prunekit compress``, ``plan`` and ``apply``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prunekit.cli.base import app
from prunekit.cli.describe import describe_plan
from prunekit.cli.options import (
    Affine,
    ApplyData,
    Batch,
    Data,
    DataConfig,
    Drop,
    Dtype,
    Freeze,
    Frontier,
    Group,
    Keep,
    Label,
    LayerDelta,
    Layers,
    MaxDrop,
    MaxLength,
    Method,
    Metric,
    Model,
    MultipleOf,
    NeuronDelta,
    Out,
    Overwrite,
    PlanFile,
    PlanOut,
    Pooling,
    Quiet,
    RecipeFile,
    Recover,
    Revision,
    Seed,
    Speedup,
    StatisticsFile,
    Tags,
    Task,
    TextColumn,
    TextPair,
    Threads,
    Threshold,
    Tokens,
    Trust,
    Uniform,
    Vocabulary,
)

if TYPE_CHECKING:
    from prunekit.recipe import Recipe


@app.command()
def compress(
    context: typer.Context,
    model: Model = None,
    data: Data = None,
    out: Out = Path("prunekit-out"),
    keep: Keep = None,
    speedup: Speedup = None,
    batch: Batch = None,
    layers: Layers = None,
    drop: Drop = None,
    affine: Affine = None,
    vocabulary: Vocabulary = None,
    uniform: Uniform = None,
    multiple_of: MultipleOf = None,
    dtype: Dtype = None,
    max_drop: MaxDrop = None,
    frontier: Frontier = None,
    recover: Recover = None,
    freeze: Freeze = None,
    method: Method = None,
    task: Task = None,
    metric: Metric = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    label: Label = None,
    tokens: Tokens = None,
    tags: Tags = None,
    group: Group = None,
    data_config: DataConfig = None,
    pooling: Pooling = None,
    layer_delta: LayerDelta = None,
    neuron_delta: NeuronDelta = None,
    threshold: Threshold = None,
    max_length: MaxLength = None,
    seed: Seed = None,
    threads: Threads = None,
    revision: Revision = None,
    trust_remote_code: Trust = None,
    recipe: RecipeFile = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compress MODEL for the task of --data and write a directory that is ready to deploy."""
    asked = _recipe(recipe, context.params)
    if recipe is not None:
        from prunekit.exporters.artefact import check_apart

        check_apart(out, (recipe,), of="compress")
    _run(asked, out, overwrite, quiet)


@app.command()
def plan(
    context: typer.Context,
    model: Model = None,
    data: Data = None,
    out: PlanOut = Path("plan.json"),
    statistics: StatisticsFile = None,
    keep: Keep = None,
    speedup: Speedup = None,
    batch: Batch = None,
    layers: Layers = None,
    drop: Drop = None,
    affine: Affine = None,
    vocabulary: Vocabulary = None,
    uniform: Uniform = None,
    multiple_of: MultipleOf = None,
    method: Method = None,
    task: Task = None,
    metric: Metric = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    label: Label = None,
    tokens: Tokens = None,
    tags: Tags = None,
    group: Group = None,
    data_config: DataConfig = None,
    pooling: Pooling = None,
    layer_delta: LayerDelta = None,
    neuron_delta: NeuronDelta = None,
    threshold: Threshold = None,
    max_length: MaxLength = None,
    seed: Seed = None,
    threads: Threads = None,
    revision: Revision = None,
    trust_remote_code: Trust = None,
    recipe: RecipeFile = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Decide what to keep of MODEL for the task of --data, and write that down as a plan; no model is written."""
    asked = _recipe(recipe, context.params)
    from prunekit.pipeline.compress import run_plan

    found = run_plan(asked, out=out, statistics=statistics, overwrite=overwrite, progress=not quiet)
    if quiet:
        print(out)
        return
    describe_plan(found)
    print(f"\nwritten to {out}")
    print(f"carry it out: prunekit apply MODEL --plan {out} --data NAME")


@app.command()
def apply(
    context: typer.Context,
    plan: PlanFile,
    model: Model = None,
    data: ApplyData = None,
    out: Out = Path("prunekit-out"),
    dtype: Dtype = None,
    max_drop: MaxDrop = None,
    recover: Recover = None,
    freeze: Freeze = None,
    task: Task = None,
    metric: Metric = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    label: Label = None,
    tokens: Tokens = None,
    tags: Tags = None,
    group: Group = None,
    data_config: DataConfig = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    seed: Seed = None,
    threads: Threads = None,
    revision: Revision = None,
    trust_remote_code: Trust = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Carry out a plan on MODEL and write a directory that is ready to deploy.

    With --data, weights are solved anew, a readout's classifier is fitted and everything is measured; without, weights are only cut.
    """
    _run(_recipe(None, context.params), out, overwrite, quiet)


def _run(asked: Recipe, out: Path, overwrite: bool, quiet: bool) -> None:
    from prunekit.pipeline.compress import run

    result = run(asked, out=out, overwrite=overwrite, progress=not quiet)
    if quiet:
        print(result.path)
        return
    from prunekit.report.tables import render_terminal

    render_terminal(result.report)
    print(f"\nwritten to {result.path}")
    print(f"load it in Python: import prunekit; model = prunekit.load({str(result.path)!r})")


def _recipe(path: Path | None, options: dict[str, Any]) -> Recipe:
    """The recipe of a file, or the defaults, with the options that were given in their place."""
    from prunekit.recipe import Recipe

    given = {name: value for name, value in options.items() if name in Recipe.model_fields and value not in (None, [], ())}
    return Recipe(**given) if path is None else Recipe.load(path).replace(**given)
