"""Which rows a recovery trains on: so many that the time allows for seeing each of them several times."""

from __future__ import annotations

import time

import torch

from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.data.batches import Encoded
from prunekit.training.loop import ROWS, TOKENS, tensors
from prunekit.training.teacher import answer

#: Rows at most, and where time is short at least.
POOL, LEAST = 32_768, 2048
#: Passes over the rows that the time should hold: of 1, 3 and 6 in five minutes of one core (SST-2, MiniLM-L6 at 10%), 3 came nearest to
#: the teacher on validation.
PASSES = 3


def pool(data: Encoded, seed: int) -> Encoded:
    """At most `POOL` rows, each drawn in proportion to its tokens."""
    return data if len(data) <= POOL else data.draw(POOL, seed)


def fewer(rows: Encoded, count: int, seed: int) -> Encoded:
    """`count` of the rows with the lengths of all; all as they are where there are no more."""
    return rows if count >= len(rows) else rows.sample(count, seed)


def affordable(
    view: ModelView, teacher: ModelView | None, rows: Encoded, effort: Effort, device: str, precision: torch.dtype | None
) -> int:
    """How many rows `PASSES` passes over them leave time for, if the teacher answers to each row once; all without a teacher.

    The teacher's answers are most of a first pass and free afterwards, so that in a short training fewer rows are more steps. Measured on
    one batch: not the same twice, as is the number of steps that a limit of time allows.

    Parameters
    ----------
    view, teacher : ModelView
        Moved to the device.
    rows : Encoded
    effort : Effort
        Of an effort in passes all rows are wanted.
    device : str
        On which training takes place.
    precision : torch.dtype or None
        Of autocast.
    """
    if teacher is None or effort.unit == "epochs" or len(rows) <= LEAST:
        return len(rows)
    drawn = rows.sample(ROWS, 0)
    batch = tensors(next(iter(drawn.batches(TOKENS, ROWS))))
    for model in (view, teacher):
        model.model.to(device)
    inputs = {name: each.to(device) if isinstance(each, torch.Tensor) else each for name, each in batch.items()}

    def seconds(model: ModelView, *, trains: bool) -> float:
        begin = time.perf_counter()
        with torch.set_grad_enabled(trains), torch.autocast(device, dtype=precision, enabled=precision is not None):
            said = answer(model, inputs, inputs["first"], states=True).logits
        if trains:
            said.float().square().mean().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            view.model.zero_grad()
        # What a GPU has begun is waited for.
        said.sum().item()
        return time.perf_counter() - begin

    # The first run of each is slower.
    asked, step = (min(seconds(model, trains=trains) for _ in range(2)) for model, trains in ((teacher, False), (view, True)))
    each = (asked + PASSES * step) / inputs["input_ids"].numel() * float(rows.lengths.mean())
    return min(len(rows), max(LEAST, int(effort.amount / each)))
