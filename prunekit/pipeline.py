"""The whole line, from a recipe to an artefact directory: it reads like the README, the work is done elsewhere."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from prunekit.assemble import build_report, card_of, check_constraints, write_reports
from prunekit.budget import Unit
from prunekit.errors import ParameterError
from prunekit.exporters.artefact import ArtefactWriter, check_output
from prunekit.exporters.checkpoint import save_checkpoint
from prunekit.exporters.layout import write_card
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.model import Report
from prunekit.report.progress import Stages, stages
from prunekit.stages import build_models, deploy, load_inputs, measure, read_neurons


@dataclass(frozen=True, eq=False)
class Result:
    """What a compression made.

    Attributes
    ----------
    path : Path
        The artefact directory.
    plan : Plan
        What was kept.
    report : Report
        What was measured.
    model : nn.Module
        The slim PyTorch model, in eval mode; `prunekit.load(path)` gives the same.
    """

    path: Path
    plan: Plan
    report: Report
    model: nn.Module


def compress(
    model: str | Path | None = None,
    data: object = None,
    *,
    out: str | Path = "prunekit-out",
    overwrite: bool = False,
    progress: bool = False,
    **parameters: Any,
) -> Result:
    """Compress a transformer encoder for a task and write an artefact directory.

    Parameters
    ----------
    model : path or str, optional
        Directory or hub name of an encoder, with or without a task head; default: the embedded MiniLM-L6.
    data : path or str, or rows that are in memory already, optional
        The task's data, as `prunekit.data.load.load_data` reads it; default: the embedded docstrings.
    out : path
        The directory to write.
    overwrite : bool
        Replace an earlier artefact at `out`.
    progress : bool
        Show progress bars on stderr.
    **parameters
        The other fields of `prunekit.Recipe`: ``keep="10%"``, ``method="dalvi2020"``, ``seed=1``, ...

    Returns
    -------
    Result

    Raises
    ------
    PrunekitError
        With one line that says what to change. Nothing is left behind.
    """
    named = data if data is None or isinstance(data, (str, Path)) else None
    recipe = Recipe(model=model, data=named, **parameters)
    return run(recipe, out=out, overwrite=overwrite, progress=progress, rows=data if named is None else None)


def run(recipe: Recipe, *, out: str | Path, overwrite: bool = False, progress: bool = False, rows: object = None) -> Result:
    """Carry out a recipe.

    Parameters
    ----------
    recipe : Recipe
    out : path
        The directory to write; it appears complete, or not at all.
    overwrite, progress : bool
        As in `compress`.
    rows : object, optional
        Data that is in memory already, in the place of `recipe.data`.
    """
    check_output(out, overwrite)
    _check_budgets(recipe)
    with ArtefactWriter(out, overwrite) as folder, stages(progress) as stage:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as scratch:
            plan, report, model = _make(recipe, rows, folder, Path(scratch), stage, name=Path(out).resolve().name)
    return Result(Path(out), plan, report, model)


def _make(recipe: Recipe, rows: object, folder: Path, scratch: Path, stage: Stages, *, name: str) -> tuple[Plan, Report, nn.Module]:
    inputs = load_inputs(recipe, rows, stage)
    neurons = read_neurons(recipe, inputs, scratch, stage)
    models = build_models(recipe, inputs, neurons, scratch, stage)
    files = deploy(inputs, models, folder, scratch, stage)
    measured = measure(recipe, inputs, neurons, models, files, stage)
    report = build_report(recipe, inputs, neurons, models, files, measured, stage.seconds)
    check_constraints(report, recipe, measured)
    save_checkpoint(models.slim, inputs.loaded.tokenizer, models.plan, folder)
    recipe.save(folder / "recipe.yaml")
    write_reports(report, folder)
    write_card(folder, card_of(recipe, inputs, models, files, report, name))
    return models.plan, report, models.slim.eval()


def _check_budgets(recipe: Recipe) -> None:
    """What may be counted together; everything else is checked by the recipe."""
    units = {budget.unit for budget in recipe.budgets}
    if not units & {Unit.NEURONS, Unit.PARAMS, Unit.MACS}:
        only = next(iter(units)).value
        raise ParameterError("keep", "compress", "given with neurons, params or macs to choose by, which other units then check", only)
    assert np.isfinite([budget.amount for budget in recipe.budgets]).all()
