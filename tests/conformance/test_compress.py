"""The plain command on a tiny model of every family, to its end: frozen, and with the head that it came with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import prunekit
from tests.lines import VOCABULARY, data, quick, save
from tests.models import CASES, build


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
@pytest.mark.parametrize("case", CASES)
def test_a_budget_for_the_whole_model_is_met(case: str, head: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {} if head == "Model" else {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    model = save(build(case, head, seed=1, vocab_size=len(VOCABULARY) + 7, pad_token_id=0, **changes), tmp_path / "dense")
    with quick():
        made = prunekit.compress(model, data("topics"), out=tmp_path / "slim", keep="30%", recover="none", dtype="fp32")
    assert all(budget.met for budget in made.report.budgets), made.report.budgets
    assert torch.isfinite(prunekit.load(tmp_path / "slim")(**tokens()).logits).all()


def tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[2, 40, 41, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
