"""Preview of a command: ``--dry-run``. Everything is checked, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunekit.arch.count import count
from prunekit.pipeline.data_free import data_free_model
from prunekit.pipeline.early import Sources
from prunekit.pipeline.forecast import Forecast, forecast, measure_speed
from prunekit.pipeline.preflight import admitted
from prunekit.pipeline.records import Inputs
from prunekit.plan import Plan, describe
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.report.time_left import duration


@dataclass(frozen=True)
class Preview:
    """Description of what a command would do.

    Attributes
    ----------
    lines : tuple of str
        To be printed.
    forecast : Forecast or None
        None where a plan would be carried out without data.
    """

    lines: tuple[str, ...]
    forecast: Forecast | None


def preview(recipe: Recipe, *, place: Path, plan: Plan | None, sources: Sources, chooses: bool = False) -> Preview:
    """Load model and data, check everything that can be checked, and describe what would be done.

    Parameters
    ----------
    recipe : Recipe
    place : path
        A directory on the disk that the output would go to.
    plan : Plan or None
        One that would be carried out.
    sources : Sources
        Inputs that are in memory already.
    chooses : bool
        Whether a plan is all that would be made.

    Raises
    ------
    PrunekitError
        As the command would raise before it runs a model.
    """
    quiet = Stages()
    if plan is not None and recipe.data is None and sources.rows is None:
        models = data_free_model(recipe, plan, quiet, sources.live)
        return Preview((f"model  {models.loaded.name}: {_size(models.counts['dense'].params)}", *_plan_lines(plan), _CLOSING), None)
    inputs = admitted(recipe, plan, place, quiet, sources)
    expected = forecast(recipe, inputs, plan, measure_speed(inputs), chooses=chooses)
    given = () if plan is None else _plan_lines(plan)
    return Preview((*_input_lines(inputs), *given, *_stage_lines(expected), _CLOSING), expected)


_CLOSING = "nothing was written (--dry-run)"


def _input_lines(inputs: Inputs) -> tuple[str, ...]:
    data, view, lengths = inputs.data, inputs.view, inputs.encoded["train"].lengths
    head = "its own head" if inputs.own_head else "no head for this task"
    params = count(view, lengths).params
    splits = ", ".join(f"{len(split):,} of {name}" for name, split in data.splits.items())
    classes = f"{len(data.task.labels)} classes" if data.task.labels else "spans" if data.task.kind.traits.spans else "values"
    return (
        f"model  {inputs.loaded.name}: {view.source.model_type}, {view.num_layers} blocks, {_size(params)}, {head}",
        f"task   {data.task.kind.value}, {classes}, {data.task.metric.label}",
        f"rows   {splits}",
        f"length {lengths.mean():.0f} tokens in the mean, {int(lengths.max())} at most (cut at {inputs.max_length})",
        *(f"note   {note}" for note in inputs.notes),
    )


def _plan_lines(plan: Plan) -> tuple[str, ...]:
    return tuple(f"plan   {unit}: {kept}" for unit, kept, _ in describe(plan))


def _stage_lines(expected: Forecast) -> tuple[str, ...]:
    stages = tuple(f"  {stage.name:<28}{'at most ' if stage.bounded else ''}{duration(stage.seconds)}" for stage in expected.stages)
    return (
        "what would be done:",
        *stages,
        f"in all about {duration(expected.seconds)}, with {expected.memory / 1e9:.1f} GB of memory at the peak",
        *(f"note   {note}" for note in expected.notes),
    )


def _size(params: int) -> str:
    return f"{params / 1e6:,.1f}M parameters"
