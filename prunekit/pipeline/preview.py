"""What a command would do, without doing it: ``--dry-run``. Everything is checked, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunekit.arch.count import count
from prunekit.pipeline.data_free import bare_model
from prunekit.pipeline.early import Given
from prunekit.pipeline.forecast import Forecast, forecast, measure_speed
from prunekit.pipeline.preflight import admitted
from prunekit.pipeline.records import Inputs
from prunekit.plan import Plan, describe
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.report.schedule import duration


@dataclass(frozen=True)
class Preview:
    """What would be done.

    Attributes
    ----------
    lines : tuple of str
        To be printed.
    forecast : Forecast or None
        None where a plan would be carried out without data.
    """

    lines: tuple[str, ...]
    forecast: Forecast | None


def preview(recipe: Recipe, *, place: Path, plan: Plan | None, given: Given, chooses: bool = False) -> Preview:
    """Load model and data, check everything that can be checked, and say what would be done.

    Parameters
    ----------
    recipe : Recipe
    place : path
        A directory on the disk that the output would go to.
    plan : Plan or None
        One that would be carried out.
    given : Given
        What is in memory already.
    chooses : bool
        Whether a plan is all that would be made.

    Raises
    ------
    PrunekitError
        What the command would raise before it runs a model.
    """
    quiet = Stages()
    if plan is not None and recipe.data is None and given.rows is None:
        bare = bare_model(recipe, plan, quiet)
        return Preview((f"model  {bare.loaded.name}: {_sizes(bare.counts['dense'].params)}", *_kept(plan), _END), None)
    inputs = admitted(recipe, plan, place, quiet, given)
    found = forecast(recipe, inputs, plan, measure_speed(inputs), chooses=chooses)
    return Preview((*_about(inputs), *(() if plan is None else _kept(plan)), *_done(found), _END), found)


_END = "nothing was written (--dry-run)"


def _about(inputs: Inputs) -> tuple[str, ...]:
    data, view, lengths = inputs.data, inputs.view, inputs.encoded["train"].lengths
    head = "its own head" if inputs.own_head else "no head for this task"
    params = count(view, lengths).params
    splits = ", ".join(f"{len(split):,} of {name}" for name, split in data.splits.items())
    classes = f"{len(data.task.labels)} classes" if data.task.labels else "spans" if data.task.kind.traits.spans else "values"
    return (
        f"model  {inputs.loaded.name}: {view.source.model_type}, {view.num_layers} blocks, {_sizes(params)}, {head}",
        f"task   {data.task.kind.value}, {classes}, {data.task.metric.label}",
        f"rows   {splits}",
        f"length {lengths.mean():.0f} tokens in the mean, {int(lengths.max())} at most (cut at {inputs.max_length})",
        *(f"note   {note}" for note in inputs.notes),
    )


def _kept(plan: Plan) -> tuple[str, ...]:
    return tuple(f"plan   {unit}: {kept}" for unit, kept, _ in describe(plan))


def _done(found: Forecast) -> tuple[str, ...]:
    stages = tuple(f"  {each.name:<28}{'at most ' if each.bounded else ''}{duration(each.seconds)}" for each in found.stages)
    return (
        "what would be done:",
        *stages,
        f"in all about {duration(found.seconds)}, with {found.memory / 1e9:.1f} GB of memory at the peak",
    )


def _sizes(params: int) -> str:
    return f"{params / 1e6:,.1f}M parameters"
