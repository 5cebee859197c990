"""Calibration rows that are drawn from a Trainer's own data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunekit.errors import ParameterError

_BATCH = 32
#: Calibration rows are those of `_STEPS` steps, at least `_LEAST`; the sensitivity costs about as much a token as training does.
_STEPS, _LEAST = 6, 64


def rows_of(args: Any) -> int:
    """Return the number of rows that a few steps of all processes take, so that several processes draw what one does."""
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return max(_LEAST, _STEPS * int(args.per_device_train_batch_size) * int(args.gradient_accumulation_steps) * processes)


def draw(loader: Any, rows: int, seed: int, *, of: str) -> list[Mapping[str, Tensor]]:
    """Draw rows of the data set behind a loader: the same in every process, however the loader distributes them."""
    data = loader.dataset
    try:
        total = len(data)
    except TypeError:
        raise ParameterError("calibration", of, "given where the train data set has no length", None) from None
    chosen = [data[int(row)] for row in np.random.default_rng(seed).permutation(total)[:rows]]
    if all("input_ids" in row for row in chosen):
        # Rows of one length have no padding to be computed.
        chosen.sort(key=lambda row: len(row["input_ids"]))
    batches: list[Mapping[str, Tensor]] = []
    for begin in range(0, len(chosen), _BATCH):
        batch = loader.collate_fn(chosen[begin : begin + _BATCH])
        if "attention_mask" not in batch:
            batch = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
        batches.append(batch)
    return batches
