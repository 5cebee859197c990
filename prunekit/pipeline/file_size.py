"""Budgets of bytes: which of the files that are written they bound, and what its parts weigh."""

from __future__ import annotations

import numpy as np

from prunekit.arch.count import count
from prunekit.budget import Budget, Unit
from prunekit.errors import BudgetError
from prunekit.exporters.onnx import OnnxFile
from prunekit.exporters.precision import bytes_in
from prunekit.exporters.quantize import is_large
from prunekit.pipeline.dense import dense_file
from prunekit.pipeline.records import Inputs, Neurons, Run
from prunekit.pipeline.vocabulary import seen_tokens
from prunekit.pruning.costs import Bytes
from prunekit.recipe import Recipe
from prunekit.validation.dtypes import Dtype

#: Bytes of a parameter of the layers.
_PARAMETER: dict[Dtype, float] = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int8-static": 1.0}
#: Share of the layers that a budget must leave in fp32: a lower precision, where one is written, leaves up to four times as much for the
#: same bytes, and below a quarter that loses less than cutting does.
_LEAST = 0.25
#: Share of a budget of an int8 file that is left for what its search adds: factors that balance inputs, and a weight in float32.
_RESERVE = 0.01


def bounded_dtype(recipe: Recipe, inputs: Inputs, budget: Budget) -> Dtype:
    """Return the type of the file that a budget of bytes bounds: fp32 where that keeps a quarter of the layers, else the lower one."""
    if recipe.dtype == "fp32":
        return "fp32"
    counts = count(inputs.view, np.ones(1, dtype=np.int64))
    outside = 4.0 * (counts.params - counts.params_layers) - removed(recipe, inputs, "fp32")
    return "fp32" if budget.amount >= outside + _LEAST * 4.0 * counts.params_layers else recipe.dtype


def removed(recipe: Recipe, inputs: Inputs, dtype: Dtype) -> float:
    """Return the bytes of the rows of the embedding that are removed."""
    if recipe.vocabulary != "data":
        return 0.0
    return table_bytes(inputs, dtype, inputs.view.source.vocabulary) - table_bytes(inputs, dtype, len(seen_tokens(inputs)))


def check_bytes(recipe: Recipe, inputs: Inputs) -> None:
    """Refuse a size below that of the embedding, which is left when heads, FFN neurons and layers are removed."""
    for budget in recipe.budgets:
        if budget.unit is not Unit.BYTES:
            continue
        dtype = bounded_dtype(recipe, inputs, budget)
        least = table_bytes(inputs, dtype, inputs.view.source.vocabulary) - removed(recipe, inputs, dtype)
        if budget.amount < least:
            cures = [] if recipe.vocabulary == "data" else ["add --vocabulary data"]
            cures += [f"leave out --dtype {recipe.dtype}, so that int8 counts"] if recipe.dtype in ("fp32", "fp16") else []
            cure = ", or ".join([*cures, "allow more"])
            cure = cure[0].upper() + cure[1:]
            raise BudgetError(f"{budget.option} cannot be met: the embedding alone takes {least / 1e6:.2f} MB in {dtype}. {cure}.")


def cost_of(run: Run, neurons: Neurons | None, budget: Budget) -> Bytes:
    """Return the cost in bytes of the file that a budget bounds: the dense file gives those outside the layers."""
    dtype = bounded_dtype(run.recipe, run.inputs, budget)
    with run.stage("export"):
        dense = size(dense_file(run, neurons), dtype)
    layers = count(run.inputs.view, np.ones(1, dtype=np.int64)).params_layers
    gone = removed(run.recipe, run.inputs, dtype)
    return Bytes(fixed=dense - _PARAMETER[dtype] * layers - gone, each_parameter=_PARAMETER[dtype], dtype=dtype, gone=gone)


def limit_of(recipe: Recipe, inputs: Inputs, budget: Budget) -> float:
    """Return the bytes that pruning may leave for a budget."""
    return budget.amount * (1 - _RESERVE) if bounded_dtype(recipe, inputs, budget).startswith("int8") else budget.amount


def most_of(recipe: Recipe, inputs: Inputs) -> int | None:
    """Return the bytes that the file in lower precision may take; None where no budget bounds it."""
    bounds = [each.amount for each in recipe.budgets if each.unit is Unit.BYTES and bounded_dtype(recipe, inputs, each) != "fp32"]
    return int(min(bounds)) if bounds else None


def size(file: OnnxFile, dtype: Dtype) -> int:
    """Return the bytes of a float32 file, or of the file in lower precision that can be made of it."""
    return file.bytes if dtype == "fp32" else bytes_in(file, dtype)


def table_bytes(inputs: Inputs, dtype: Dtype, rows: int) -> float:
    """Return the bytes of so many rows of the token embedding."""
    table = inputs.view.source.vocabulary
    width = next(int(each.shape[1]) for each in inputs.view.body.parameters() if each.ndim == 2 and each.shape[0] == table)
    if dtype in ("fp32", "fp16"):
        return rows * width * _PARAMETER[dtype]
    return rows * width * (0.75 if is_large(rows, width) else 1.0)
