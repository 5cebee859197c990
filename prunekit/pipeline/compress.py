"""The whole pipeline, from a recipe to an artefact directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from prunekit.arch.load import LoadedModel
from prunekit.errors import BudgetError, ParameterError, StatisticsError
from prunekit.exporters.artefact import RECIPE, ArtefactWriter
from prunekit.exporters.checkpoint import save_checkpoint
from prunekit.exporters.layout import write_card
from prunekit.exporters.manifest import PLAN
from prunekit.metrics.label_sets import probabilities
from prunekit.pipeline.data_free import data_free_model, deploy_data_free
from prunekit.pipeline.decide import decide, refit_plan
from prunekit.pipeline.early import NO_SOURCES, Sources, check_early, check_places
from prunekit.pipeline.evaluate import deploy, measure
from prunekit.pipeline.forecast import expect
from prunekit.pipeline.frontier import draw_frontier
from prunekit.pipeline.inputs import recipe_of
from prunekit.pipeline.models import build_models
from prunekit.pipeline.output_file import Kind, beside, check_file, of_the_disk, put
from prunekit.pipeline.preflight import admitted
from prunekit.pipeline.preview import Preview, preview
from prunekit.pipeline.records import FRONTIER, Run
from prunekit.pipeline.recovery import checkpoint_place, clear_checkpoints
from prunekit.pipeline.reporting import build_report, card_of, check_constraints, data_free_card, data_free_report, write_reports
from prunekit.pipeline.result import Result
from prunekit.pipeline.unmet_output import UnmetError, keep_reached
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.recipe.signatures import with_options
from prunekit.report.model import Report
from prunekit.report.progress import Stages, stages
from prunekit.stats.record import Statistics
from prunekit.validation.arguments import Place, checked
from prunekit.validation.fingerprint import place_of

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
        With one line that says what to change. Nothing is left at `out`; where a bound does not hold, ``OUT-unmet`` has the plan and the
        report of what was reached, and the model's checkpoint where it was trained.
    """
    recipe, sources = recipe_of(model, data, tokenizer, parameters)
    return run(recipe, out=out, overwrite=overwrite, progress=progress, sources=sources)


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
        As in `compress`, but for what is about a deployed file: ``max_drop``, ``recover``, ``freeze``, ``space``, ``retrieval``,
        ``frontier``, ``baselines`` and ``plan``. Of ``dtype`` it counts the bytes where a budget of bytes bounds that file.
    statistics : path, optional
        The `statistics.safetensors` of `analyze`, `collect` or `merge` for the same model and data: neurons are chosen on the rows
        and moments that it holds, and the model is not run for them. With ``method="prunekit"``, and all rows of train and
        validation in it, the plan has the digest of the one without, unless so many neurons are nearly equal that the order of the
        rows decides between them.

    Returns
    -------
    Plan
        `compress(model, data, plan=...)` carries it out, and so does `prunekit.apply` without any fitting.

    Raises
    ------
    PrunekitError
        With one line that says what to change.
    """
    recipe, sources = recipe_of(model, data, tokenizer, parameters, of="plan")
    return run_plan(recipe, statistics=statistics, progress=progress, sources=sources)


@checked("compress")
def run(
    recipe: Recipe,
    *,
    out: Place,
    overwrite: bool = False,
    progress: bool = False,
    verbose: bool = False,
    sources: Sources = NO_SOURCES,
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
    sources : Sources, optional
        Inputs in memory already: `rows` in the place of `recipe.data`, `live`, the model that `recipe.model` is the fingerprint of, and
        `early`, what `check_early` gave where it was called before.
    """
    plan, sources = _checked(recipe, out, overwrite, sources)
    place = Path(out).expanduser()
    try:
        with stages(progress, verbose=verbose) as stage:
            final_plan, report, model = _run(recipe, place, overwrite, stage, plan, sources)
    except UnmetError as unmet:
        kept = keep_reached(unmet, place)
        # There is nothing to resume: the training was complete, and its model is kept.
        shutil.rmtree(checkpoint_place(recipe, unmet.plan, place), ignore_errors=True)
        raise kept from None
    # The artefact is complete: checkpoints for it are no longer needed, those of runs that were interrupted before among them.
    clear_checkpoints(place)
    return Result(place, final_plan, report, model)


def dry_run(recipe: Recipe, *, out: Place, overwrite: bool = False, sources: Sources = NO_SOURCES) -> Preview:
    """Preview what `run` would do, after everything that it would check first."""
    plan, sources = _checked(recipe, out, overwrite, sources)
    return preview(recipe, place=_existing(out), plan=plan, sources=sources)


def _checked(recipe: Recipe, out: Place, overwrite: bool, sources: Sources) -> tuple[Plan | None, Sources]:
    """Check all that can be checked before anything is loaded; return the given plan, and the sources with rows of files."""
    early = sources.early or check_early(recipe, out, overwrite, in_memory=sources.rows is not None)
    return None if recipe.plan is None else Plan.load(recipe.plan), sources._replace(early=early)


def _existing(out: Place) -> Path:
    """Return the nearest parent directory that exists."""
    return next(parent for parent in Path(out).expanduser().resolve().parents if parent.is_dir())


def _run(
    recipe: Recipe,
    out: Path,
    overwrite: bool,
    stage: Stages,
    plan: Plan | None,
    sources: Sources,
) -> tuple[Plan, Report, nn.Module]:
    writer = ArtefactWriter(out, overwrite)
    with writer as folder, tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as scratch:
        if plan is not None and recipe.data is None and sources.rows is None:
            return _slice(recipe, plan, folder, Path(scratch), stage, name=out.resolve().name, live=sources.live)
        inputs = admitted(recipe, plan, folder, stage, sources)
        expect(recipe, inputs, plan, stage)
        writer.data = inputs.data.provenance["sha256"]
        # Rows that were in memory are named by their digest, so that the recipe cannot be run on others.
        stored = recipe if sources.rows is None else recipe.model_copy(update={"data": place_of(writer.data)})
        return _make(Run(recipe, inputs, Path(scratch), stage), stored, plan, out, folder)


def _make(run: Run, stored: Recipe, plan: Plan | None, out: Path, folder: Path) -> tuple[Plan, Report, nn.Module]:
    decided = decide(run) if plan is None else refit_plan(run, plan)
    models = build_models(run, decided, out)
    files = deploy(run, decided.neurons, models, folder)
    measured = measure(run, decided.neurons, models, files)
    points, frontier_notes = draw_frontier(run, decided, folder) if run.recipe.frontier else ((), ())
    report = build_report(run, decided.neurons, models, files, measured)
    report = report.model_copy(update={"frontier": points, "notes": (*report.notes, *frontier_notes)})

    def save(place: Path) -> None:
        save_checkpoint(models.slim, models.text.tokenizer, models.plan, place)
        stored.save(place / RECIPE)

    if measured.thresholds is not None:
        # Thresholds of the labels' probabilities, in the order of the outputs.
        setattr(models.slim.config, "thresholds", probabilities(measured.thresholds).tolist())  # noqa: B010
    try:
        check_constraints(report, run.recipe, measured)
    except BudgetError as error:
        plans = {path.stem: Plan.load(path) for path in (folder / FRONTIER).glob("*.json")}
        raise UnmetError(str(error), models.plan, report, plans, save if models.trained else None) from None
    save(folder)
    write_reports(report, folder)
    write_card(folder, card_of(run, models, files, report, out.resolve().name))
    return models.plan, report, models.slim.eval()


def _slice(
    recipe: Recipe, plan: Plan, folder: Path, scratch: Path, stage: Stages, *, name: str, live: LoadedModel | None
) -> tuple[Plan, Report, nn.Module]:
    """Carry out a plan without data."""
    models = data_free_model(recipe, plan, stage, live)
    files, latency = deploy_data_free(recipe, models, folder, scratch, stage)
    report = data_free_report(recipe, models, files, latency, stage.seconds)
    # Of a model that was pruned before it names what that one had lost, too.
    save_checkpoint(models.slim, models.tokenizer, models.plan, folder)
    recipe.save(folder / RECIPE)
    write_reports(report, folder)
    write_card(folder, data_free_card(recipe, models, files, report, name))
    return models.plan, report, models.slim.eval()


@checked("plan")
def run_plan(
    recipe: Recipe,
    *,
    out: Place | None = None,
    statistics: Place | None = None,
    overwrite: bool = False,
    progress: bool = False,
    verbose: bool = False,
    sources: Sources = NO_SOURCES,
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
    progress, verbose, sources
        As in `run`.
    """
    path, stored, sources = _check_plan(recipe, out, statistics, overwrite, sources)
    with of_the_disk(out, PLAN_FILE), stages(progress, verbose=verbose) as stage, beside(path) as scratch:
        inputs = admitted(recipe, None, scratch, stage, sources)
        expect(recipe, inputs, None, stage, chooses=True)
        plan = decide(Run(recipe, inputs, scratch, stage), stored).plan
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
    sources: Sources = NO_SOURCES,
) -> Preview:
    """Preview what `run_plan` would do, after everything that it would check first."""
    path, _, sources = _check_plan(recipe, out, statistics, overwrite, sources)
    return preview(recipe, place=_existing(path or out), plan=None, sources=sources, chooses=True)


def _check_plan(
    recipe: Recipe, out: Place | None, statistics: Place | None, overwrite: bool, sources: Sources
) -> tuple[Path | None, Statistics | None, Sources]:
    """Check all that can be checked before anything is loaded; return the plan's path, the statistics, and the sources in memory."""
    _check_decidable(recipe)
    sources = sources._replace(early=sources.early or check_places(recipe, in_memory=sources.rows is not None))
    if statistics is not None and (recipe.layers is not None or recipe.drop):
        must = "left out with layers or drop, which change the activations"
        raise ParameterError("statistics", "plan", must, str(statistics))
    stored = None if statistics is None else Statistics.load(statistics)
    if stored is not None and stored.shard is not None:
        subject = f"The statistics {os.fspath(statistics)!r} are of {stored.shard.description}"  # type: ignore[arg-type]  # given where they were read
        raise StatisticsError(f"{subject}. Put all of them together first: prunekit merge.")
    path = None if out is None else check_file(out, overwrite, PLAN_FILE)
    model = None if recipe.model is None or sources.live is not None else Path(recipe.model).expanduser()
    if path is not None and model is not None and path == model.resolve() / PLAN:
        must = f"a file outside of the model's directory, whose {PLAN} says what its weights are"
        raise ParameterError("out", "plan", must, str(out))
    return path, stored, sources


def _check_decidable(recipe: Recipe) -> None:
    if recipe.plan is not None:
        raise ParameterError("plan", "plan", "left out, where one is to be made", recipe.plan)
    if recipe.max_drop is not None:
        must = "left out: it is measured on the file that compress or apply writes"
        raise ParameterError("max_drop", "plan", must, f"{recipe.max_drop:.2%}")
