"""What can be refused before torch is imported: missing packages, places that cannot be, a model's own files. No torch, no transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from prunekit.arch.config import positions_of, row_length
from prunekit.arch.folder import check_folder, local_folder
from prunekit.budget import Unit
from prunekit.data.demo import check_demo
from prunekit.data.files import MEMORY, check_place
from prunekit.errors import DependencyError
from prunekit.exporters.artefact import check_output
from prunekit.fields import parse_freeze
from prunekit.recipe import Recipe
from prunekit.runtime.session import provider_of

#: Budgets that only a finished file can be held against; what misses them is kept beside the output.
_MEASURED = {Unit.BYTES, Unit.LATENCY}


def check_early(recipe: Recipe, out: str | Path, overwrite: bool, *, in_memory: bool = False) -> None:
    """Raise where a directory cannot be written, what it takes is not installed, or what a recipe names is not there.

    Parameters
    ----------
    recipe : Recipe
    out : path
        The directory to write.
    overwrite : bool
    in_memory : bool
        Whether the rows are in memory already; a model that is says so in the recipe.

    Raises
    ------
    OutputError, DependencyError, DataError, ModelError, ParameterError
    """
    check_output(out, overwrite, of="compress" if recipe.plan is None else "apply", inputs=(recipe.model, recipe.data, recipe.plan))
    provider_of("cpu")
    if recipe.effort is not None and importlib.util.find_spec("accelerate") is None:
        raise DependencyError("Training needs accelerate: pip install 'accelerate>=1.1', or give --recover none.")
    if recipe.freeze is not None:
        parse_freeze(recipe.freeze, of="compress")
    if recipe.max_drop is not None or _MEASURED & {budget.unit for budget in recipe.budgets}:
        check_output(unmet_place(out), overwrite=True)
    check_places(recipe, in_memory=in_memory)


def check_places(recipe: Recipe, *, in_memory: bool = False) -> None:
    """Raise where the model or the data that a recipe names is not there, or is not what it should be.

    Raises
    ------
    DependencyError, DataError, ModelError, ParameterError
    """
    check_demo(model=recipe.model is None, data=recipe.data is None and recipe.plan is None and not in_memory)
    if recipe.model is not None and not recipe.model.startswith(MEMORY) and (folder := local_folder(recipe.model)) is not None:
        # Padding of another number than 0 only leaves fewer positions.
        row_length(positions_of(check_folder(folder), 0), recipe.max_length, of="compress")
    if recipe.data is not None and not recipe.data.startswith(MEMORY):
        check_place(recipe.data)


def unmet_place(out: str | Path) -> Path:
    """Where it is kept: beside the directory that was asked for, which may hold an earlier model."""
    path = Path(out).expanduser().resolve()
    return path.with_name(f"{path.name}-unmet")
