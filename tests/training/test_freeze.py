from __future__ import annotations

import pytest

from prunekit.arch.view import ModelView
from prunekit.plan import Plan
from prunekit.training.freeze import freeze_blocks
from prunekit.transforms.apply import apply
from tests.models import build


@pytest.mark.parametrize(("text", "below"), [("layers:1", True), ("layers:3", False), ("layers:1,3", True)])
def test_embeddings_are_frozen_with_the_lowest_block_that_is_left(text: str, below: bool) -> None:
    model = build("bert", "ForSequenceClassification")
    slim = ModelView.of(apply(model, Plan(source=ModelView.of(model).source, layers=(1, 3))))
    freeze_blocks(slim, text, (1, 3))
    assert {parameter.requires_grad for parameter in slim.body.embeddings.parameters()} == {not below}
    for block, number in zip(slim.blocks, "13", strict=True):
        assert {parameter.requires_grad for parameter in block.parameters()} == {number not in text}
