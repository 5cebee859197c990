from __future__ import annotations

from typing import Any

import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.training.buckets import tensors
from prunekit.training.teacher import Teacher, answer
from tests.training.rows import dense, encoded


def batches() -> list[dict[str, Any]]:
    return [tensors(batch) for batch in encoded("train").batches(max_rows=16)]


def bytes_of(found: tuple[torch.Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in found)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 5.0, 1e9])
def test_what_is_remembered_keeps_within_the_limit_and_says_the_same(share: float) -> None:
    view, rows = ModelView.of(dense()), batches()
    with torch.no_grad():
        fresh = [answer(view, inputs, inputs["first"], states=True) for inputs in rows]
    logits = sum(bytes_of((each.logits,)) for each in fresh)
    limit = int(logits * share)
    teacher = Teacher(view, limit=limit, precision=None)
    for epoch in range(2):
        for number, (inputs, wanted) in enumerate(zip(rows, fresh, strict=True)):
            found = teacher(number, inputs, inputs["first"])
            torch.testing.assert_close(found.logits, wanted.logits)
            # In the first epoch there are always states.
            assert epoch or len(found.states) == len(wanted.states)
            assert teacher.held <= limit
    held = [answer for answer in teacher._known.values()]
    assert teacher.held == sum(bytes_of((each.logits, *each.states)) for each in held)
    # Logits go before states: all of them are there as soon as they fit.
    assert (len(held) == len(rows)) == (share >= 1)
    assert any(each.states for each in held) == (share > 1)
