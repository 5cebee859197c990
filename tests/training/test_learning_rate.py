"""The learning rate that a recovery has unless one is given: that of answers, and that of an embedder's vectors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.training.distill import RATE, VECTOR_RATE, default_rate, recover
from tests.models import build
from tests.training.rows import dense, encoded


def other(model: nn.Module) -> nn.Module:
    """The same model with other weights in its blocks, which there is something to learn for."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if "layer" in name and parameter.ndim == 2:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return changed.eval()


@pytest.mark.parametrize(("vectors", "own", "others"), [(True, VECTOR_RATE, RATE), (False, RATE, VECTOR_RATE)])
def test_the_default_rate_depends_on_what_the_model_gives(vectors: bool, own: float, others: float) -> None:
    teacher = EmbeddingModel(dense().bert, Embedding(pooling="mean", normalize=True)).eval() if vectors else dense()
    slim = other(teacher)

    def learned(rate: float | None) -> dict[str, torch.Tensor]:
        found = recover(slim, teacher, encoded("train"), effort="2epochs", validation=encoded("validation"), learning_rate=rate)
        assert found.after > found.before
        return dict(found.model.state_dict())

    default, same, different = learned(None), learned(own), learned(others)
    assert all(torch.equal(default[name], same[name]) for name in default)
    assert any(not torch.equal(default[name], different[name]) for name in default)


@pytest.mark.parametrize(("width", "rate"), [(16, 4e-4), (384, 4e-4), (768, 2e-4), (1536, 1e-4)])
def test_the_rate_of_vectors_falls_with_the_width(width: int, rate: float) -> None:
    body = build("bert", "Model", hidden_size=width, num_attention_heads=4, num_hidden_layers=1, intermediate_size=8)
    model = EmbeddingModel(body, Embedding(pooling="mean", normalize=True))
    assert default_rate(ModelView.of(model)) == pytest.approx(rate)
