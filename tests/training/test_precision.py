from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.training.distill import recover
from prunekit.training.precision import chosen_dtype
from tests.models import batch_of, build
from tests.training.rows import dense, encoded, gap, slim


@pytest.mark.parametrize(("error", "chosen"), [(0.5, None), (0.001, torch.bfloat16)])
def test_padding_does_not_hide_what_a_format_does_to_a_question_s_answers(
    error: float, chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("bert", "ForQuestionAnswering")
    inputs: dict[str, Any] = {**batch_of(4), "first": None}
    # Rows of other lengths, so that places are padding in some rows alone.
    for row in range(4):
        inputs["attention_mask"][row, 3 + row :] = 0
    monkeypatch.setattr("prunekit.training.precision.autocast_dtype", lambda *_, **__: torch.bfloat16)
    scale = torch.arange(inputs["input_ids"].shape[1])[None, :, None] % 2

    def spoil(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        # What a coarse format does, as a share of the answers' spread.
        return output.float() + error * output.float().std() * scale if torch.is_autocast_enabled("cpu") else output

    model.qa_outputs.register_forward_hook(spoil)
    model.float()
    monkeypatch.setattr(torch, "autocast", _Flag)
    assert chosen_dtype(ModelView.of(model), inputs, "cpu", training=True) is chosen


def test_a_family_that_does_not_run_in_a_format_is_trained_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("deberta", "ForSequenceClassification").float()
    inputs: dict[str, Any] = {**batch_of(4), "first": None}
    with pytest.raises(RuntimeError, match="overflow"), torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    monkeypatch.setattr("prunekit.training.precision.autocast_dtype", lambda *_, **__: torch.bfloat16)
    assert chosen_dtype(ModelView.of(model), inputs, "cpu", training=True) is None


class _Flag:
    """Autocast of the last layer alone, so that the error is the one that was asked for."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self._before = torch.is_autocast_enabled(device)

    def __enter__(self) -> None:
        torch.set_autocast_enabled("cpu", True)
        torch.set_autocast_dtype("cpu", torch.float32)

    def __exit__(self, *_: object) -> None:
        torch.set_autocast_enabled("cpu", self._before)


def test_what_a_trainer_leaves_is_taught_by_its_own_answers() -> None:
    """A teacher in training mode would answer with dropout, and a slim model of half precision would not move."""
    teacher = copy.deepcopy(dense()).train()
    model = copy.deepcopy(slim().model).train().bfloat16()
    given: dict[str, Any] = {"plan": slim().plan, "validation": encoded("validation"), "learning_rate": 3e-3}
    found = recover(model, teacher, encoded("train"), effort="3epochs", **given)
    assert teacher.training
    assert {tensor.dtype for tensor in found.model.parameters()} == {torch.float32}
    assert -found.after == pytest.approx(gap(found.model, dense(), encoded("validation")), rel=1e-3)
    assert found.after > found.before
