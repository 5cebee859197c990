"""The readout's principal components, against scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.errors import PlanError, StatisticsError, UnsupportedError
from prunekit.exporters.checkpoint import load, save_checkpoint
from prunekit.pipeline.apply import apply
from prunekit.plan import Plan, compose, describe, slim_source
from prunekit.stats.blocks import reader_paths
from prunekit.stats.principal import principals
from prunekit.transforms.components import fold_components
from prunekit.transforms.stubs import ReadsComponents
from prunekit.transforms.vocabulary import drop_tokens
from tests.models import CASES, batch_of, build

HEAD = "ForSequenceClassification"


def rows(view: ModelView, batches: int = 4, size: int = 16) -> list[dict[str, Tensor]]:
    keys = (*view.inputs, "attention_mask")
    return [{name: tensor for name, tensor in batch_of(size, seed=seed).items() if name in keys} for seed in range(batches)]


def read(model: torch.nn.Module, path: str, batches: list[dict[str, Tensor]]) -> Tensor:
    """What a layer of the head reads on real tokens or rows."""
    found: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    return torch.cat([x[batch["attention_mask"].bool()] if x.ndim == 3 else x for x, batch in zip(found, batches, strict=True)])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("head", [HEAD, "ForTokenClassification"])
def test_the_head_reads_what_pca_gives(case: str, head: str) -> None:
    model = build(case, head)
    view = ModelView.of(model)
    batches = rows(view)
    (path,) = reader_paths(view)
    states = read(model, path, batches)
    pca = PCA(5, svd_solver="full").fit(states.double().numpy())
    slim = apply(model, Plan(source=view.source, components=5), batches)
    layer, dense = slim.get_submodule(path), model.get_submodule(path)
    assert isinstance(layer, ReadsComponents)
    with torch.no_grad():
        numbers = layer.components(states)
        assert numbers.shape == (len(states), 5)
        expected = torch.from_numpy(pca.transform(states.double().numpy()))
        # The sign of a component is a matter of taste.
        torch.testing.assert_close(numbers.double().abs(), expected.abs(), atol=1e-4, rtol=1e-3)
        again = torch.from_numpy(pca.inverse_transform(expected.numpy())).float()
        torch.testing.assert_close(layer(states), dense(again), atol=1e-4, rtol=1e-4)


def test_all_of_the_variance_is_the_dense_model() -> None:
    model = build("bert", HEAD)
    view = ModelView.of(model)
    batches = rows(view, 1, 8)
    found = principals(view, batches, 7)
    assert [principal.share for principal in found.values()] == [pytest.approx(1.0)]
    fold_components(view, found)
    with torch.no_grad():
        torch.testing.assert_close(model(**batches[0]).logits, build("bert", HEAD)(**batches[0]).logits, atol=1e-4, rtol=1e-4)


def test_it_is_smaller_saved_and_cut_further(tmp_path: Path) -> None:
    model = build("roberta", HEAD)
    view = ModelView.of(model)
    batches = rows(view)
    plan = Plan(source=view.source, components=2, hidden=tuple(range(20)), ffn={0: ()}, vocabulary=tuple(range(40)))
    known = [{**batch, "input_ids": batch["input_ids"].clamp(max=39)} for batch in batches]
    slim = apply(model, plan, known)
    lengths = np.array([9])
    without = apply(model, plan.model_copy(update={"components": None}))
    assert count(without, lengths).params - count(slim, lengths).params == 24 * 20 - (24 * 2 + 20 * 2 + 2)
    assert count(slim, lengths).macs < count(without, lengths).macs
    weights = save_checkpoint(slim, None, plan, tmp_path)
    assert weights.name == "pruned.safetensors"
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(**known[0]).logits, slim(**known[0]).logits)
    structure = plan.model_copy(update={"vocabulary": None})
    later = drop_tokens(apply(model, structure, known), plan)
    with torch.no_grad():
        assert torch.equal(later(**known[0]).logits, slim(**known[0]).logits)


def test_what_cannot_be_read_is_refused() -> None:
    model = build("bert")
    source = ModelView.of(model).source
    plan = Plan(source=source, components=3)
    with pytest.raises(UnsupportedError, match="has none"):
        apply(model, plan, rows(ModelView.of(model)))
    headed = build("bert", HEAD)
    with pytest.raises(StatisticsError, match="principal components, which are those of data; give calibration rows"):
        apply(headed, plan)
    with pytest.raises(PlanError, match="head reads principal components"):
        compose(plan, Plan(source=slim_source(plan), components=2))
    assert compose(plan, Plan(source=slim_source(plan), layers=(0,))).components == 3
    assert describe(plan) == [("principal components that the head reads", "3 of 24", "the first 3")]
