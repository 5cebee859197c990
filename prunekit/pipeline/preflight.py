"""Checks once a model and its data have been read, before the model is run; those of `early` come before."""

from __future__ import annotations

import shutil
from pathlib import Path

from prunekit.arch.count import count
from prunekit.budget import Unit
from prunekit.errors import OutputError, ParameterError
from prunekit.pipeline.decide import check_plan, forget_dense, iterative_pruner, named_plan
from prunekit.pipeline.early import Sources, check_frozen
from prunekit.pipeline.file_size import check_bytes, table_bytes
from prunekit.pipeline.inputs import ask_dense, encode_splits, read_inputs
from prunekit.pipeline.records import Inputs
from prunekit.pipeline.targets import structure_budgets
from prunekit.pipeline.vocabulary import seen_tokens
from prunekit.plan import Plan
from prunekit.pruning.shrink import goal_of
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.stats.rows import LIMIT
from prunekit.transforms.apply import apply
from prunekit.transforms.tokenizer import shrink_tokenizer
from prunekit.validation.indices import parse_freeze


def admitted(recipe: Recipe, plan: Plan | None, folder: Path, stage: Stages, sources: Sources) -> Inputs:
    """Read model and data, refuse what cannot be done, and only then run the dense model where it is needed first.

    The parameters are those of `read_inputs` and `check_request`, and so is what is raised.
    """
    inputs = read_inputs(recipe, plan, stage, sources)
    check_request(recipe, inputs, plan, folder)
    return ask_dense(recipe, inputs, stage)


def check_request(recipe: Recipe, inputs: Inputs, plan: Plan | None, folder: Path) -> None:
    """Raise, before a model is run, if a recipe cannot be carried out on this model and these data.

    Parameters
    ----------
    recipe : Recipe
    inputs : Inputs
    plan : Plan or None
        A given one, not one to be made.
    folder : path
        On the disk that the output goes to.

    Raises
    ------
    BudgetError
        A budget that cannot be met whatever is removed.
    ParameterError, PlanError, UnsupportedError
        Blocks, units or a plan that the model does not have.
    OutputError
        A disk with less space than the files need at least.
    """
    _check_disk(inputs, folder)
    if plan is not None:
        check_plan(inputs.view, plan)
        if plan.readout is not None and not inputs.data.task.kind.traits.readout:
            raise ParameterError("plan", "compress", "one without a readout for an embedder", f"{recipe.plan}, which has one")
        if plan.readout is None and not inputs.own_head:
            must = "one with a readout for a model without a head of its own for the task"
            raise ParameterError("plan", "compress", must, f"{recipe.plan}, which has none")
        _check_freeze(recipe, inputs, plan)
        return
    named = named_plan(recipe, inputs)
    if named is not None:
        check_plan(inputs.view, named)
    if recipe.vocabulary == "data":
        inputs.view.check("vocabulary")
        kept, task = seen_tokens(inputs), inputs.data.task
        if task.kind.traits.spans:
            # The tokens that stay may spell questions longer, and leave less room beside them.
            held = {name: rows for name, rows in inputs.data.splits.items() if name != "train"}
            encode_splits(held, shrink_tokenizer(inputs.loaded.tokenizer, kept), task, inputs.max_length, inputs.stride)
    _check_freeze(recipe, inputs, named)
    check_bytes(recipe, inputs)
    _check_shares(recipe, inputs, named)


def _check_disk(inputs: Inputs, folder: Path) -> None:
    """Check the space for the least that is written: the dense file, the slim one's embeddings, rows that do not fit into memory."""
    counts = count(inputs.view, inputs.encoded["train"].lengths)
    rows = 4 * len(inputs.encoded["train"].labels) * (inputs.view.num_layers + 1) * inputs.view.hidden_size
    needed = (
        4 * counts.params
        + 2 * table_bytes(inputs, "fp32", inputs.view.source.vocabulary)
        + (0 if inputs.own_head or rows <= LIMIT else rows)
    )
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"The output directory cannot be written: it takes {needed / 1e6:,.0f} MB of disk at least while it is made, and "
            f"{free / 1e6:,.0f} MB are free."
        )


def _check_freeze(recipe: Recipe, inputs: Inputs, plan: Plan | None) -> None:
    if recipe.freeze is None:
        return
    frozen, total = parse_freeze(recipe.freeze, of="compress"), inputs.view.num_layers
    kept = tuple(range(total)) if plan is None or plan.layers is None else plan.layers
    check_frozen(recipe, kept)
    if inputs.view.spec.shared_blocks and len(frozen) < len(kept):
        raise ParameterError("freeze", "compress", f"all blocks or none ({inputs.view.spec.shared_blocks})", recipe.freeze)


def _check_shares(recipe: Recipe, inputs: Inputs, named: Plan | None) -> None:
    """Check shares of params and macs where only heads and FFN neurons can be removed: a readout may cut depth too."""
    if not inputs.own_head or {Unit.NEURONS, Unit.MODEL} & {budget.unit for budget in recipe.budgets}:
        return
    budgets = [budget for budget in structure_budgets(recipe) if budget.unit in (Unit.PARAMS, Unit.MACS)]
    if not budgets:
        return
    lengths = inputs.encoded["train"].lengths
    start = count(inputs.view, lengths)
    model = inputs.loaded.model if named is None else apply(inputs.loaded.model, named)
    if named is not None:
        forget_dense(model)
    work = iterative_pruner(recipe, inputs, model)
    work.check_reach([goal_of(budget, start, lengths) for budget in budgets])
