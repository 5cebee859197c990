"""The whole line, from a recipe to an artefact directory: it reads like the README, the work is done elsewhere."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from prunekit.arch.load import LoadedModel
from prunekit.data.files import MEMORY
from prunekit.errors import BudgetError, ParameterError, StatisticsError
from prunekit.exporters.artefact import RECIPE, ArtefactWriter
from prunekit.exporters.checkpoint import save_checkpoint
from prunekit.exporters.layout import write_card
from prunekit.label_sets import probabilities
from prunekit.pipeline.data_free import bare_model, deploy_bare
from prunekit.pipeline.decide import decide, given
from prunekit.pipeline.early import NOTHING, Given, check_early, check_places
from prunekit.pipeline.evaluate import deploy, measure
from prunekit.pipeline.forecast import expect
from prunekit.pipeline.frontier import draw_frontier
from prunekit.pipeline.inputs import recipe_of
from prunekit.pipeline.models import build_models
from prunekit.pipeline.one_file import Kind, beside, check_file, of_the_disk, put
from prunekit.pipeline.preflight import admitted
from prunekit.pipeline.preview import Preview, preview
from prunekit.pipeline.records import Inputs
from prunekit.pipeline.recovery import checkpoint_place
from prunekit.pipeline.reporting import bare_card, bare_report, build_report, card_of, check_constraints, write_reports
from prunekit.pipeline.result import Result
from prunekit.pipeline.unmet import UnmetError, keep_reached
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.model import Report
from prunekit.report.progress import Stages, stages
from prunekit.signatures import with_options
from prunekit.stats.record import Statistics
from prunekit.validation.arguments import Place, checked

PLAN_FILE = Kind("plan", "a plan", Plan.load)


@with_options("compress")
@checked("compress")
def compress(
    model: Place | nn.Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    out: Place = "prunekit-out",
    overwrite: bool = False,
    progress: bool = False,
    **parameters: Any,
) -> Result:
    """Compress a transformer encoder for a task and write an artefact directory.

    Parameters
    ----------
    model : path, str or PreTrainedModel, optional
        Directory or hub name of an encoder, with or without a task head, or one that is in memory, which is left as it is; default: the
        embedded MiniLM-L6.
    data : path or str, or rows that are in memory already, optional
        The task's data, as `prunekit.data.load.load_data` reads it: a `datasets.Dataset` or `DatasetDict`, a pandas DataFrame, a dict of
        lists or a pair (texts, labels) of lists as well; default: the embedded docstrings.
    tokenizer : PreTrainedTokenizerBase, optional
        Of a model that is in memory, which needs it.
    out : path
        The directory to write.
    overwrite : bool
        Replace an earlier artefact at `out`.
    progress : bool
        Show progress bars on stderr.
    **parameters
        The other options, as the signature lists them: ``keep="10%"``, ``vocabulary="data"``, ``plan="plan.json"``, ``seed=1``, ...

    Returns
    -------
    Result

    Raises
    ------
    PrunekitError
        With one line that says what to change. Nothing is left behind.
    """
    recipe, given = recipe_of(model, data, tokenizer, parameters)
    return run(recipe, out=out, overwrite=overwrite, progress=progress, given=given)


@with_options("plan")
@checked("plan")
def make_plan(
    model: Place | nn.Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    statistics: Place | None = None,
    progress: bool = False,
    **parameters: Any,
) -> Plan:
    """Decide what to keep, and write nothing.

    Parameters
    ----------
    model, data, tokenizer, progress, **parameters
        As in `compress`, but for what is about a deployed file: ``dtype``, ``max_drop``, ``recover``, ``freeze``, ``frontier``.
    statistics : path, optional
        The `statistics.safetensors` of an analysis of the same model on the same data: neurons are chosen on the rows and moments
        that it holds, and the model is not run for them. With ``method="prunekit"``, and all rows of train and validation in it, the
        plan has the digest of the one without, unless so many neurons say the same that the order of the rows decides between them.

    Returns
    -------
    Plan
        `compress(model, data, plan=...)` carries it out, and so does `prunekit.apply` without any fitting.

    Raises
    ------
    PrunekitError
        With one line that says what to change.
    """
    recipe, given = recipe_of(model, data, tokenizer, parameters, of="plan")
    return run_plan(recipe, statistics=statistics, progress=progress, given=given)


@checked("compress")
def run(
    recipe: Recipe,
    *,
    out: Place,
    overwrite: bool = False,
    progress: bool = False,
    verbose: bool = False,
    given: Given = NOTHING,
) -> Result:
    """Carry out a recipe.

    Parameters
    ----------
    recipe : Recipe
    out : path
        The directory to write; it appears complete, or not at all.
    overwrite, progress : bool
        As in `compress`.
    verbose : bool
        Show more of the progress: what is expected, and each note as it is made.
    given : Given, optional
        What is in memory already: `rows` in the place of `recipe.data`, `live`, the model that `recipe.model` is the fingerprint of, and
        `early`, what `check_early` gave where it was called before.
    """
    plan, given = _checked(recipe, out, overwrite, given)
    try:
        with stages(progress, verbose=verbose) as stage:
            made, report, model = _run(recipe, Path(out), overwrite, stage, plan, given)
    except UnmetError as unmet:
        raise keep_reached(unmet, out) from None
    if recipe.effort is not None:
        # The artefact has its name now; what it could have been resumed from has done its part.
        shutil.rmtree(checkpoint_place(recipe, made, Path(out)), ignore_errors=True)
    return Result(Path(out), made, report, model)


def dry_run(recipe: Recipe, *, out: Place, overwrite: bool = False, given: Given = NOTHING) -> Preview:
    """What `run` would do, after everything that it would check first."""
    plan, given = _checked(recipe, out, overwrite, given)
    return preview(recipe, place=_existing(out), plan=plan, given=given)


def _checked(recipe: Recipe, out: Place, overwrite: bool, given: Given) -> tuple[Plan | None, Given]:
    """Refuse what can be refused before anything is loaded; the plan that is given, and rows of files with what is in memory."""
    early = given.early or check_early(recipe, out, overwrite, in_memory=given.rows is not None)
    return None if recipe.plan is None else Plan.load(recipe.plan), given._replace(early=early)


def _existing(out: Place) -> Path:
    """The nearest directory that is there already."""
    return next(parent for parent in Path(out).expanduser().resolve().parents if parent.is_dir())


def _run(
    recipe: Recipe,
    out: Path,
    overwrite: bool,
    stage: Stages,
    plan: Plan | None,
    given: Given,
) -> tuple[Plan, Report, nn.Module]:
    writer = ArtefactWriter(out, overwrite)
    with writer as folder, tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as scratch:
        if plan is not None and recipe.data is None and given.rows is None:
            return _slice(recipe, plan, folder, Path(scratch), stage, name=out.resolve().name, live=given.live)
        inputs = admitted(recipe, plan, folder, stage, given)
        expect(recipe, inputs, plan, stage)
        writer.data = inputs.data.provenance["sha256"]
        # Rows that were in memory are named by what they are, so that the recipe cannot be run on others.
        named = recipe if given.rows is None else recipe.model_copy(update={"data": f"{MEMORY}{writer.data}"})
        return _make(recipe, named, inputs, plan, out, folder, Path(scratch), stage)


def _make(
    recipe: Recipe, named: Recipe, inputs: Inputs, plan: Plan | None, out: Path, folder: Path, scratch: Path, stage: Stages
) -> tuple[Plan, Report, nn.Module]:
    decided = decide(recipe, inputs, scratch, stage) if plan is None else given(recipe, inputs, plan, scratch, stage)
    models = build_models(recipe, inputs, decided, out, scratch, stage)
    files = deploy(recipe, inputs, models, folder, scratch, stage)
    measured = measure(recipe, inputs, decided.neurons, models, files, stage)
    points, said = draw_frontier(recipe, inputs, decided, folder, scratch, stage) if recipe.frontier else ((), ())
    report = build_report(recipe, inputs, decided.neurons, models, files, measured, stage.seconds)
    report = report.model_copy(update={"frontier": points, "notes": (*report.notes, *said)})
    try:
        check_constraints(report, recipe, measured)
    except BudgetError as error:
        # There is nothing to go on from: the training came to its end.
        shutil.rmtree(checkpoint_place(recipe, models.plan, out), ignore_errors=True)
        raise UnmetError(str(error), models.plan, report) from None
    if measured.thresholds is not None:
        # What a label's probability is held against, in the order of the outputs.
        setattr(models.slim.config, "thresholds", probabilities(measured.thresholds).tolist())  # noqa: B010
    save_checkpoint(models.slim, models.text.tokenizer, models.plan, folder)
    named.save(folder / RECIPE)
    write_reports(report, folder)
    write_card(folder, card_of(recipe, inputs, models, files, report, out.resolve().name))
    return models.plan, report, models.slim.eval()


def _slice(
    recipe: Recipe, plan: Plan, folder: Path, scratch: Path, stage: Stages, *, name: str, live: LoadedModel | None
) -> tuple[Plan, Report, nn.Module]:
    """Carry out a plan without data."""
    if recipe.max_drop is not None:
        raise ParameterError("max_drop", "apply", "left out without data, on which it is measured", f"{recipe.max_drop:.2%}")
    if recipe.effort is not None and recipe.recover != "auto":
        raise ParameterError("recover", "apply", "left out without data to train on", recipe.recover)
    bare = bare_model(recipe, plan, stage, live)
    files, latency = deploy_bare(recipe, bare, folder, scratch, stage)
    report = bare_report(recipe, bare, files, latency, stage.seconds)
    save_checkpoint(bare.slim, bare.tokenizer, plan, folder)
    recipe.save(folder / RECIPE)
    write_reports(report, folder)
    write_card(folder, bare_card(recipe, bare, files, report, name))
    return plan, report, bare.slim.eval()


@checked("plan")
def run_plan(
    recipe: Recipe,
    *,
    out: Place | None = None,
    statistics: Place | None = None,
    overwrite: bool = False,
    progress: bool = False,
    verbose: bool = False,
    given: Given = NOTHING,
) -> Plan:
    """Decide what a recipe keeps.

    Parameters
    ----------
    recipe : Recipe
        Without a plan and `max_drop`.
    out : path, optional
        A file for the plan; it appears complete, or not at all.
    statistics : path, optional
        As in `make_plan`.
    overwrite : bool
        Replace a plan at `out`.
    progress, verbose, given
        As in `run`.
    """
    path, stored, given = _check_plan(recipe, out, statistics, overwrite, given)
    with of_the_disk(out, PLAN_FILE), stages(progress, verbose=verbose) as stage, beside(path) as scratch:
        inputs = admitted(recipe, None, scratch, stage, given)
        expect(recipe, inputs, None, stage, chooses=True)
        plan = decide(recipe, inputs, scratch, stage, stored).plan
        if path is not None:
            plan.save(scratch / path.name)
            put(scratch, path, overwrite, PLAN_FILE)
    return plan


def dry_plan(
    recipe: Recipe,
    *,
    out: Place,
    statistics: Place | None = None,
    overwrite: bool = False,
    given: Given = NOTHING,
) -> Preview:
    """What `run_plan` would do, after everything that it would check first."""
    path, _, given = _check_plan(recipe, out, statistics, overwrite, given)
    return preview(recipe, place=_existing(path or out), plan=None, given=given, chooses=True)


def _check_plan(
    recipe: Recipe, out: Place | None, statistics: Place | None, overwrite: bool, given: Given
) -> tuple[Path | None, Statistics | None, Given]:
    """Refuse what can be refused before anything is loaded; where the plan goes, the statistics that are given, and what is in memory."""
    _check_decidable(recipe)
    given = given._replace(early=given.early or check_places(recipe, in_memory=given.rows is not None))
    if statistics is not None and (recipe.layers is not None or recipe.drop):
        must = "left out with layers or drop, which change what neurons say"
        raise ParameterError("statistics", "plan", must, str(statistics))
    stored = None if statistics is None else Statistics.load(statistics)
    if stored is not None and stored.shard is not None:
        what = f"The statistics {os.fspath(statistics)!r} are of {stored.shard.said}"  # type: ignore[arg-type]  # given where they were read
        raise StatisticsError(f"{what}. Put all of them together first: prunekit merge.")
    return None if out is None else check_file(out, overwrite, PLAN_FILE), stored, given


def _check_decidable(recipe: Recipe) -> None:
    if recipe.plan is not None:
        raise ParameterError("plan", "plan", "left out, where one is to be made", recipe.plan)
    if recipe.max_drop is not None:
        must = "left out: it is measured on the file that compress or apply writes"
        raise ParameterError("max_drop", "plan", must, f"{recipe.max_drop:.2%}")
