"""Columns that the attention of each block reads of a table shared by all blocks, one column per head (`HeadBias`)."""

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
from prunekit.transforms.stubs import IndexSelect
from prunekit.transforms.surgery import scale_sizes, slice_parameter

#: Name of the submodule that selects a block's columns, in the module that reads the table.
_NAME = "columns"


def pick_columns(view: ModelView, block: nn.Module, kept: Sequence[int]) -> None:
    """Let a block that keeps some of its heads read the columns of these alone; the table is unchanged."""
    if view.spec.head_bias is not None:
        current = _read_columns(view, block)
        _select(view, block, [current[head] for head in kept])


def narrow_table(view: ModelView) -> None:
    """Remove the columns that no block reads; blocks that read all remaining ones need no selection."""
    bias = view.spec.head_bias
    if bias is None:
        return
    reading = {block: _read_columns(view, block) for block in view.blocks if Linear.at(block, view.spec.attention.output) is not None}
    for block in view.blocks:
        if block not in reading:
            _select(view, block, None)
    remaining = sorted({column for columns in reading.values() for column in columns})
    # Without any attention no block reads the table, but a parameter must not become empty.
    if remaining:
        _keep_columns(view, remaining)
    for block, columns in reading.items():
        positions = [remaining.index(column) for column in columns]
        _select(view, block, None if positions == list(range(len(remaining))) else positions)


def remember_columns(view: ModelView) -> None:
    """Record in the config of a model that will be treated as dense which columns its blocks read, unless they read all."""
    read = [_read_columns(view, block) for block in view.blocks] if view.spec.head_bias is not None else []
    every = list(range(view.bias_columns))
    for config in configs(view.model):
        config.__dict__.pop(COLUMNS, None)
        if any(columns != every for columns in read):
            setattr(config, COLUMNS, read)


def restore_columns(view: ModelView, plan: Plan) -> None:
    """Let the blocks of a model that was built from such a config, and is not yet cut by a plan, read these columns.

    Raises
    ------
    ModelError
        If the config's columns are not those of a model that was pruned.
    """
    stored = getattr(view.config, COLUMNS, None)
    bias, heads = view.spec.head_bias, view.source.heads
    if bias is None or stored is None:
        return
    least = [max(plan.heads.get(block, range(heads)), default=-1) + 1 for block in range(len(view.blocks))]
    fits = isinstance(stored, list) and len(stored) == len(least) and all(map(_strictly_increasing, stored, least, repeat(heads)))
    used = sorted({column for columns in stored for column in columns}) if fits else []
    if not used or used != list(range(len(used))):
        must = f"name, for each of {len(least)} blocks, the columns of its heads, of the first of a table of {heads}"
        raise ModelError(f"{COLUMNS!r} in the config must {must}.")
    for block, columns in zip(view.blocks, stored, strict=True):
        _select(view, block, columns)
    _keep_columns(view, used)


def _keep_columns(view: ModelView, kept: Sequence[int]) -> None:
    """Keep some, or all, columns of the table."""
    bias, count = view.spec.head_bias, view.bias_columns
    assert bias is not None
    if len(kept) < count:
        slice_parameter(view.body, f"{bias.table}.weight", 1, torch.tensor(kept))
        scale_sizes(view.body, bias.sizes, len(kept), count)


def _strictly_increasing(columns: object, least: int, size: int) -> bool:
    """Return whether this is a list of at least `least` integers in [0, `size`), strictly increasing."""
    if not isinstance(columns, list) or len(columns) < least or not all(type(column) is int for column in columns):
        return False
    return columns == sorted(set(columns)) and all(0 <= column < size for column in columns)


def _read_columns(view: ModelView, block: nn.Module) -> list[int]:
    """Return the columns that a block reads, in the order of its heads."""
    bias = view.spec.head_bias
    assert bias is not None
    selection: Any = getattr(find(block, bias.reader), _NAME, None)
    return list(range(view.bias_columns)) if selection is None else selection.index.tolist()


def _select(view: ModelView, block: nn.Module, columns: Sequence[int] | None) -> None:
    """Replace the selection of a block's columns; None selects all."""
    bias = view.spec.head_bias
    assert bias is not None
    reader, table = find(block, bias.reader), find(view.body, bias.table).weight
    old: IndexSelect | None = getattr(reader, _NAME, None)
    if old is not None:
        old.detach_from(reader)
    if columns is not None:
        # The selection has values on the meta device too: it follows from the plan, not from a file.
        index = torch.tensor(columns, device="cpu" if table.is_meta else table.device)
        IndexSelect(index, bias.argument, bias.axis).attach_to(reader, _NAME)
