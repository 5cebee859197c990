"""Checks before torch is imported: missing packages, invalid places, a model's own files. No torch, no transformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prunekit.arch.config import layers_of, positions_of, row_length
from prunekit.arch.folder import PRUNED, check_folder, local_folder
from prunekit.arch.head import Stated, expected_labels, stated_head
from prunekit.budget import ABSOLUTE, TIMES
from prunekit.data.demo import check_demo
from prunekit.data.files import check_place
from prunekit.data.load import load_data
from prunekit.data.rows import TaskData
from prunekit.errors import DependencyError, ParameterError
from prunekit.exporters.artefact import check_output
from prunekit.recipe import Recipe
from prunekit.runtime.session import provider_of
from prunekit.tasks import TaskKind
from prunekit.validation.fingerprint import digest_at
from prunekit.validation.indices import parse_freeze

if TYPE_CHECKING:
    from prunekit.arch.load import LoadedModel

#: Budgets that only a finished file can be checked against; a result that misses them is kept beside the output.
_MEASURED = {*ABSOLUTE, *TIMES}


@dataclass(frozen=True, eq=False)
class Early:
    """Rows that were read before the model.

    Attributes
    ----------
    arguments : dict
        Arguments of `load_data`, which include what the model's files state of its head.
    data : TaskData
    """

    arguments: dict[str, Any]
    data: TaskData


class Sources(NamedTuple):
    """Inputs that are in memory already: the task's rows, the model, and rows of files that were read early."""

    rows: object = None
    live: LoadedModel | None = None
    early: Early | None = None


NO_SOURCES: Sources = Sources()


def data_arguments(recipe: Recipe, head: Stated) -> dict[str, Any]:
    """Return the arguments of `load_data` for a recipe and a model with this head, but for the source."""
    fields = {name: getattr(recipe, name) for name in ("text", "text_pair", "label", "tokens", "tags", "group", "task", "metric")}
    if head.many_labels and not recipe.task and not recipe.tags:
        fields["task"] = TaskKind.LABELS
    labels = expected_labels(head.labels, per_token=head.per_token, tags=recipe.tags)
    if head.many_labels and not recipe.tags and fields["task"] == TaskKind.LABELS:
        # One output is that of a label, too.
        labels = head.labels
    options = {"config": recipe.data_config, "seed": recipe.seed, "trust_remote_code": recipe.trust_remote_code}
    return {**fields, **options, "labels": labels, "fine_tuned": head.fine_tuned, "answers": head.kind}


def blocks_asked(recipe: Recipe, total: int) -> tuple[int, ...]:
    """Return the blocks of a model that stay; raise ParameterError for those that it does not have, and sub-blocks of others."""
    kept = recipe.layers
    if kept is not None and kept[-1] >= total:
        raise ParameterError("layers", "compress", f"of the model's blocks 0-{total - 1}", recipe.model_dump()["layers"])
    kept = tuple(range(total)) if kept is None else kept
    if any(block not in kept for blocks in recipe.dropped.values() for block in blocks):
        must = f"sub-blocks of the blocks kept ({', '.join(map(str, kept))})"
        raise ParameterError("drop", "compress", must, " ".join(recipe.drop))
    return kept


def check_frozen(recipe: Recipe, kept: Sequence[int]) -> None:
    """Raise ParameterError if a block is to be frozen that does not stay."""
    if recipe.freeze is not None and any(block not in kept for block in parse_freeze(recipe.freeze, of="compress")):
        raise ParameterError("freeze", "compress", f"blocks that are kept ({', '.join(map(str, kept))})", recipe.freeze)


def check_early(recipe: Recipe, out: str | Path, overwrite: bool, *, in_memory: bool = False) -> Early | None:
    """Raise if a directory cannot be written, a needed package is not installed, or what a recipe names is not there.

    Parameters
    ----------
    recipe : Recipe
    out : path
        The directory to write.
    overwrite : bool
    in_memory : bool
        Whether the rows are in memory already; of a model, the recipe states it.

    Returns
    -------
    Early or None
        As in `check_places`.

    Raises
    ------
    OutputError, DependencyError, DataError, ModelError, ParameterError
    """
    check_output(out, overwrite, inputs=(recipe.model, recipe.data, recipe.plan))
    provider_of("cpu")
    if recipe.effort is not None and importlib.util.find_spec("accelerate") is None:
        raise DependencyError("Training needs accelerate: pip install 'accelerate>=1.1', or give --recover none.")
    if recipe.freeze is not None:
        parse_freeze(recipe.freeze, of="compress")
    if recipe.max_drop is not None or _MEASURED & {budget.unit for budget in recipe.budgets}:
        # What an earlier run left there may be what this one reads.
        check_output(unmet_place(out), overwrite=True, inputs=(recipe.model, recipe.data, recipe.plan))
    return check_places(recipe, in_memory=in_memory)


def check_places(recipe: Recipe, *, in_memory: bool = False) -> Early | None:
    """Raise if the model or the data that a recipe names is not there, or is not what it should be.

    Returns
    -------
    Early or None
        Rows of files, where the model is a directory or the embedded one: its config says how they are read.

    Raises
    ------
    DependencyError, DataError, ModelError, ParameterError
    """
    check_demo(model=recipe.model is None, data=recipe.data is None and recipe.plan is None and not in_memory)
    head = Stated() if recipe.model is None else None
    if recipe.model is not None and digest_at(recipe.model) is None and (folder := local_folder(recipe.model)) is not None:
        config = check_folder(folder)
        # Padding of another number than 0 only leaves fewer positions.
        row_length(positions_of(config, 0), recipe.max_length, of="compress")
        if recipe.plan is None and (total := layers_of(config)):
            check_frozen(recipe, blocks_asked(recipe, total))
        head = None if (folder / PRUNED).is_file() else stated_head(config)
    if recipe.data is None or digest_at(recipe.data) is not None:
        return None
    if not check_place(recipe.data) or head is None:
        return None
    arguments = data_arguments(recipe, head)
    data = load_data(recipe.data, **arguments)
    recipe.check_kind(data.task.kind)
    return Early(arguments, data)


def unmet_place(out: str | Path) -> Path:
    """Return the directory of an unmet result: beside the one that was asked for, which may hold an earlier model."""
    path = Path(out).expanduser().resolve()
    return path.with_name(f"{path.name}-unmet")
