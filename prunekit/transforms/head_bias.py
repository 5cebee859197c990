"""What the attention of a block reads of a table that all blocks share, one column a head (`HeadBias`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from torch import nn

from prunekit.arch.view import COLUMNS, ModelView, find
from prunekit.errors import ModelError
from prunekit.plan import Plan
from prunekit.stats.blocks import Linear
from prunekit.transforms.layers import configs
from prunekit.transforms.stubs import Columns
from prunekit.transforms.surgery import scale_sizes, slice_parameter

#: The name under which a block's choice stands in the module that reads the table.
_NAME = "columns"


def pick_columns(view: ModelView, block: nn.Module, kept: Sequence[int]) -> None:
    """Let a block that keeps some of its heads read the columns of these alone; the table stays as it is."""
    if view.spec.head_bias is not None:
        had = _columns(view, block)
        _read(view, block, [had[head] for head in kept])


def narrow_table(view: ModelView) -> None:
    """Drop the columns that no block reads; blocks that read all that are left choose no longer."""
    bias = view.spec.head_bias
    if bias is None:
        return
    reading = {block: _columns(view, block) for block in view.blocks if Linear.at(block, view.spec.attention.output) is not None}
    for block in view.blocks:
        if block not in reading:
            _read(view, block, None)
    left = sorted({column for columns in reading.values() for column in columns})
    # Without any attention nobody reads it, and no parameter may be left empty.
    if left:
        _keep(view, left)
    for block, columns in reading.items():
        places = [left.index(column) for column in columns]
        _read(view, block, None if places == list(range(len(left))) else places)


def remember_columns(view: ModelView) -> None:
    """Note in the config of a model that will pass for a dense one which columns its blocks read, unless they read all there are."""
    read = [_columns(view, block) for block in view.blocks] if view.spec.head_bias is not None else []
    every = list(range(view.bias_columns))
    for config in configs(view.model):
        config.__dict__.pop(COLUMNS, None)
        if any(columns != every for columns in read):
            setattr(config, COLUMNS, read)


def restore_columns(view: ModelView, plan: Plan) -> None:
    """Let the blocks of a model that was built from such a config, and is yet to be cut by a plan, read these columns.

    Raises
    ------
    ModelError
        If the config's columns are not those of a model that was pruned.
    """
    found = getattr(view.config, COLUMNS, None)
    bias, heads = view.spec.head_bias, view.source.heads
    if bias is None or found is None:
        return
    least = [max(plan.heads.get(block, range(heads)), default=-1) + 1 for block in range(len(view.blocks))]
    fits = isinstance(found, list) and len(found) == len(least) and all(map(_strictly_rising, found, least, repeat(heads)))
    left = sorted({column for columns in found for column in columns}) if fits else []
    if not left or left != list(range(len(left))):
        must = f"name, for each of {len(least)} blocks, the columns of its heads, of the first of a table of {heads}"
        raise ModelError(f"{COLUMNS!r} in the config must {must}.")
    for block, columns in zip(view.blocks, found, strict=True):
        _read(view, block, columns)
    _keep(view, left)


def _keep(view: ModelView, left: Sequence[int]) -> None:
    """Keep some, or all, of the table's columns."""
    bias, had = view.spec.head_bias, view.bias_columns
    assert bias is not None
    if len(left) < had:
        slice_parameter(view.body, f"{bias.table}.weight", 1, torch.tensor(left))
        scale_sizes(view.body, bias.sizes, len(left), had)


def _strictly_rising(columns: object, least: int, size: int) -> bool:
    """Whether this is a list of at least so many different places below `size`, in their order."""
    if not isinstance(columns, list) or len(columns) < least or not all(type(column) is int for column in columns):
        return False
    return columns == sorted(set(columns)) and all(0 <= column < size for column in columns)


def _columns(view: ModelView, block: nn.Module) -> list[int]:
    """The columns that a block reads, in the order of its heads."""
    bias = view.spec.head_bias
    assert bias is not None
    chosen: Any = getattr(find(block, bias.reader), _NAME, None)
    return list(range(view.bias_columns)) if chosen is None else chosen.index.tolist()


def _read(view: ModelView, block: nn.Module, columns: Sequence[int] | None) -> None:
    """Put a block's choice in the place of the one it had; None: all columns."""
    bias = view.spec.head_bias
    assert bias is not None
    reader, table = find(block, bias.reader), find(view.body, bias.table).weight
    old: Columns | None = getattr(reader, _NAME, None)
    if old is not None:
        old.detach_from(reader)
    if columns is not None:
        # A model without weights keeps its choice: it comes from the plan, and from no file.
        index = torch.tensor(columns, device="cpu" if table.is_meta else table.device)
        Columns(index, bias.argument, bias.axis).attach_to(reader, _NAME)
