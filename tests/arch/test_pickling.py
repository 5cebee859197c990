"""A view of a model survives the way to another process."""

from __future__ import annotations

import io

import pytest
import torch

from prunekit.arch.view import ModelView
from tests.models import CASES, batch_of, build


@pytest.mark.parametrize("case", CASES)
def test_a_view_that_travelled_answers_as_before(case: str) -> None:
    view, batch = ModelView.of(build(case, "ForSequenceClassification", pad_token_id=1)), batch_of()
    with torch.no_grad():
        before = view.hidden_states(batch)
        packed = io.BytesIO()
        # By now transformers has hooks of its own in the model, which no pickle takes.
        torch.save(view, packed)
        packed.seek(0)
        again = torch.load(packed, weights_only=False)
        after = again.hidden_states(batch)
        still = view.hidden_states(batch)
    assert len(before) == len(after) == len(still) == view.num_layers + 1
    assert all(torch.equal(one, other) and torch.equal(one, third) for one, other, third in zip(before, after, still, strict=True))
    assert again.source == view.source
    assert again.body is getattr(again.model, view.model.base_model_prefix)
