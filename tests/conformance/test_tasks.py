"""Every family as an embedder: shrunk by what its vectors feel, saved, and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.budget import parse_budgets
from prunekit.exporters.checkpoint import load, save_checkpoint
from prunekit.pruning.shrink import shrink
from tests.models import CASES, batch_of, build


@pytest.mark.parametrize("case", CASES)
def test_an_embedder_is_shrunk_and_comes_back(case: str, tmp_path: Path) -> None:
    model = EmbeddingModel(build(case), Embedding(max_length=9)).eval()
    view = ModelView.of(model)
    batches = [
        {name: tensor for name, tensor in batch_of(8, seed=seed).items() if name in view.inputs or name == "attention_mask"}
        for seed in range(3)
    ]
    found = shrink(model, batches, parse_budgets("85% params"))
    slim = found.model
    assert isinstance(slim, EmbeddingModel)
    given = {name: tensor for name, tensor in batches[0].items() if name in view.inputs}
    with torch.no_grad():
        vectors = slim(**given).sentence_embedding
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-5)
    save_checkpoint(slim, None, found.plan, tmp_path)
    again = load(tmp_path)
    assert isinstance(again, EmbeddingModel)
    assert again.embedding == model.embedding
    with torch.no_grad():
        assert torch.equal(again(**given).sentence_embedding, vectors)
