"""Rows that a recovery trains on: as many as the time allows to pass over several times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.data.batches import Encoded
from prunekit.data.places import IntArray, ranges
from prunekit.training.buckets import ROWS, TOKENS, tensors
from prunekit.training.loop import STOPS
from prunekit.training.objective import UNKNOWN
from prunekit.training.teacher import answer

#: Maximum number of rows, and minimum where time is short.
POOL, LEAST = 32_768, 2048
#: Passes over the rows that the time should hold: of 1, 3 and 6 in five minutes of one core (SST-2, MiniLM-L6 at 10%), 3 came nearest to
#: the teacher on validation.
PASSES = 3
#: Passes that the time holds where altered copies join the rows, and the share of a copy's tokens that are others: of a slim embedder,
#: 80 passes over 3,600 texts left a distance to the teacher of 0.10 on these and of 0.69 on validation (docs/results.md).
ALTERED_PASSES, ALTERED = 10, 0.15
#: Share of the time that all judgements together may take, the fewest rows of one, and tokens and rows of the batch that is timed.
JUDGING, LEAST_JUDGED, TRIED = 0.2, 32, (1024, 8)
#: Share of the time up to which what is measured is measured twice, since the first run of a model is slower.
AGAIN = 0.02


def pool(data: Encoded, seed: int) -> Encoded:
    """Return at most `POOL` rows, each drawn in proportion to its tokens; of lists, whole ones."""
    if len(data) <= POOL:
        return data
    return data.draw(POOL, seed) if data.queries is None else data.take(whole_lists(data, POOL, seed))


def fewer(rows: Encoded, count: int, seed: int) -> Encoded:
    """Return `count` of the rows, with the lengths of all, or whole lists of at most as many; all rows where there are no more."""
    if count >= len(rows):
        return rows
    return rows.sample(count, seed) if rows.queries is None else rows.take(whole_lists(rows, count, seed))


def whole_lists(rows: Encoded, most: int, seed: int) -> IntArray:
    """Return the rows of lists drawn at random, in their order: at most `most` rows, and one list at least."""
    starts = rows.kept_starts
    assert starts is not None
    order = np.random.default_rng(seed).permutation(len(starts) - 1)
    total = np.cumsum(np.diff(starts)[order])
    chosen = np.sort(order[: max(1, int(np.searchsorted(total, most, side="right")))])
    return ranges(starts[chosen], starts[chosen + 1])


def as_many(rows: Encoded, count: int, seed: int) -> Encoded:
    """Return `count` rows: `fewer` of them, or all and `altered` copies."""
    return altered(rows, count, seed) if count > len(rows) else fewer(rows, count, seed)


def altered(rows: Encoded, count: int, seed: int) -> Encoded:
    """Return the rows and altered copies of them, `count` in all.

    Of a copy's tokens some are replaced by tokens drawn from all rows, but for those that every row has, such as [CLS] or a prompt's.
    Its classes are not known then. Where rows consist of such tokens alone there are no copies.
    """
    generator, n = np.random.default_rng(seed), len(rows)
    order = np.concatenate([np.arange(n), *(generator.permutation(n) for _ in range(math.ceil((count - n) / n)))])[:count]
    size = int(rows.ids.max()) + 1
    held = np.unique(np.repeat(np.arange(n), rows.lengths) * size + rows.ids)
    free = np.bincount(held % size, minlength=size) < n
    words = rows.ids[free[rows.ids]]
    if not len(words):
        return rows
    found = rows.take(order)
    others = free[found.ids] & (generator.random(len(found.ids)) < ALTERED)
    others[: len(rows.ids)] = False
    labels = found.labels
    if labels.dtype.kind != "f":  # values are learned from the teacher alone
        labels = labels.astype(np.promote_types(labels.dtype, np.int8))
        labels[len(rows.labels) :] = UNKNOWN
    return replace(found, ids=np.where(others, generator.choice(words, len(others)), found.ids), labels=labels)


def affordable(
    view: ModelView, teacher: ModelView | None, rows: Encoded, effort: Effort, device: str, precision: torch.dtype | None
) -> int:
    """Return how many rows `PASSES` passes can train on in time, if the teacher is run once on each; all without a teacher.

    Altered copies may join them, but of lists, up to `POOL`: as many as `ALTERED_PASSES` passes, of those that `effort` allows, can train
    on.

    The teacher takes most of the first pass and is free afterwards, so that in a short training fewer rows give more steps. Measured on
    one batch: not reproducible, like the number of steps within a time limit.

    Parameters
    ----------
    view, teacher : ModelView
        Moved to the device.
    rows : Encoded
    effort : Effort
        An effort in passes uses all rows.
    device : str
        Device of the training.
    precision : torch.dtype or None
        Of autocast.
    """
    alone = rows.queries is not None
    if teacher is None or effort.unit == "epochs" or (len(rows) <= LEAST and alone):
        return len(rows)
    drawn = rows.sample(ROWS, 0)
    batch = tensors(next(iter(drawn.batches(TOKENS, ROWS))))
    for model in (view, teacher):
        model.model.to(device)
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    def seconds(model: ModelView, *, trains: bool) -> float:
        begin = time.perf_counter()
        with torch.set_grad_enabled(trains), torch.autocast(device, dtype=precision, enabled=precision is not None):
            logits = answer(model, inputs, inputs["first"], states=True).logits
        if trains:
            logits.float().square().mean().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            view.model.zero_grad()
        # Wait for the GPU.
        logits.sum().item()
        return time.perf_counter() - begin

    asked = ((teacher, False), (view, True))
    teacher_time, step_time = (_measured(partial(seconds, model, trains=trains), effort) for model, trains in asked)
    share = float(rows.lengths.mean()) / inputs["input_ids"].numel()
    few, many = (int(effort.amount / (teacher_time + passes * step_time) / share) for passes in (PASSES, ALTERED_PASSES))
    if effort.passes is not None:
        many = min(many, int(effort.passes * len(rows) / ALTERED_PASSES))
    return max(min(len(rows), max(LEAST, few)), 0 if alone else min(POOL, many))


def _measured(seconds: Callable[[], float], effort: Effort) -> float:
    first = seconds()
    return first if first > AGAIN * effort.amount else min(first, seconds())


def judgeable(view: ModelView, teacher: ModelView | None, held: Encoded, effort: Effort, device: str) -> int:
    """Return how many rows can be judged on before training and at each stop in a share of the time (`JUDGING`).

    The teacher answers once, and the slim model each time, in single precision. Measured on a small batch, the models moved to the device.
    """
    if effort.unit == "epochs" or len(held) <= LEAST_JUDGED:
        return len(held)
    batch = tensors(next(iter(held.sample(TRIED[1], 0).batches(*TRIED))))
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    def seconds(model: ModelView) -> float:
        model.model.to(device)
        begin = time.perf_counter()
        with torch.no_grad():
            answer(model, inputs, inputs["first"], states=False).logits.sum().item()  # waits for the GPU
        return time.perf_counter() - begin

    once, each = (0.0 if model is None else _measured(partial(seconds, model), effort) for model in (teacher, view))
    row = (once + (1 + STOPS) * each) / inputs["input_ids"].numel() * float(held.lengths.mean())
    return min(len(held), max(LEAST_JUDGED, int(JUDGING * effort.amount / row)))
