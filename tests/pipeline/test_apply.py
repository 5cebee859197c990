"""`prunekit.apply`: a plan carried out with calibration rows, and without."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import prunekit
from prunekit.arch.view import ModelView
from prunekit.errors import PlanError, StatisticsError
from prunekit.pipeline.apply import apply, solve
from prunekit.plan import Plan, ReadoutPlan
from prunekit.refit.refit import Damping, refit
from prunekit.transforms.apply import apply as cut
from prunekit.transforms.stubs import Affine
from tests.models import CASES, VOCABULARY, batch_of, build
from tests.plans import UNITS, random_plan

HEAD = "ForSequenceClassification"
model_of = cache(build)


def rows(view: ModelView, batches: int = 6, size: int = 12) -> list[dict[str, Tensor]]:
    keys = (*view.inputs, "attention_mask")
    return [{name: tensor for name, tensor in batch_of(size, seed=seed).items() if name in keys} for seed in range(batches)]


def divergence(model: nn.Module, other: nn.Module, batches: list[dict[str, Tensor]]) -> float:
    """Mean Kullback-Leibler divergence of the other's predictions."""
    with torch.no_grad():
        p, q = (torch.cat([each(**batch).logits for batch in batches]).log_softmax(-1) for each in (model, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def state_error(model: nn.Module, other: nn.Module, plan: Plan, batches: list[dict[str, Tensor]]) -> float:
    """Mean squared error of the last state, in the dimensions kept."""
    total = 0.0
    for batch in batches:
        with torch.no_grad():
            theirs, ours = (ModelView.of(each).hidden_states(batch)[-1] for each in (model, other))
        kept = list(plan.hidden or range(plan.source.hidden))
        total += float((ours - theirs[..., kept])[batch["attention_mask"].bool()].square().mean())
    return total / len(batches)


def test_the_public_names() -> None:
    assert prunekit.apply is apply
    assert prunekit.shrink.__module__ == "prunekit.pruning.shrink"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("unit", ["hidden", "affine", "everything"])
def test_what_stays_is_solved_for_every_unit(case: str, unit: str) -> None:
    model = model_of(case, HEAD)
    view = ModelView.of(model)
    batches = rows(view)
    plan = random_plan(view, UNITS if unit == "everything" else (unit,), random.Random(1), empty=False)
    found, without = apply(model, plan, batches), apply(model, plan)
    assert {name: tensor.shape for name, tensor in found.state_dict().items()} == {
        name: tensor.shape for name, tensor in without.state_dict().items()
    }
    assert all(bool(torch.isfinite(parameter).all()) for parameter in found.parameters())
    ours, theirs = (state_error(model, each, plan, batches) for each in (found, without))
    assert ours < 0.9 * theirs


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama", "modernbert", "xlnet"])
def test_an_affine_map_is_the_least_squares_one(case: str) -> None:
    """Where the FFN is affine in truth, nothing is lost."""
    model = build(case, HEAD)
    view = ModelView.of(model)
    batches = rows(view)
    plan = Plan(source=view.source, affine=(0,))
    found = cut(model, plan)
    generator = torch.Generator().manual_seed(0)
    for module in found.modules():
        if isinstance(module, Affine):
            for parameter in module.parameters():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    # What has an affine map in block 0 passes for the dense model.
    other, fresh = cut(model, plan), batch_of(seed=30)
    refit(ModelView.of(other), ModelView.of(found), batches, damping=Damping(1e-9, 1e-9))
    with torch.no_grad():
        given, solved = (each(**{name: fresh[name] for name in view.inputs}).logits for each in (found, other))
    torch.testing.assert_close(solved, given, atol=1e-3, rtol=1e-3)


def test_dropped_layers_are_made_up_for() -> None:
    model = build("bert", HEAD)
    batches = rows(ModelView.of(model), 6, 16)
    for kept in ((0, 1, 2), (0, 2, 3), (1, 2)):
        plan = Plan(source=ModelView.of(model).source, layers=kept)
        found = apply(model, plan, batches)
        assert len(ModelView.of(found).blocks) == len(kept)
        assert divergence(model, found, batches) < divergence(model, apply(model, plan), batches)


def test_a_plan_with_vocabulary_and_readout_is_refitted() -> None:
    model = build("bert")
    batches = rows(ModelView.of(model))
    source = ModelView.of(model).source
    vocabulary = (0, 1, *range(2, VOCABULARY, 2))
    plan = Plan(
        source=source,
        layers=(0, 2, 3),
        heads={0: (1, 2)},
        ffn={2: tuple(range(4))},
        vocabulary=vocabulary,
        readout=ReadoutPlan(pooling="cls", neurons={3: (0, 5)}),
    )
    found, planned = apply(model, plan, batches), apply(model, plan)
    assert {name: tensor.shape for name, tensor in found.state_dict().items()} == {
        name: tensor.shape for name, tensor in planned.state_dict().items()
    }
    assert torch.equal(found.body.embeddings.word_embeddings.weight, planned.body.embeddings.word_embeddings.weight)
    without = apply(model, plan.model_copy(update={"vocabulary": None}), batches)
    ours, theirs = found.body.encoder.state_dict(), without.body.encoder.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    ids = torch.arange(VOCABULARY)
    left = torch.where(ids > 1, ids // 2 * 2, ids)
    known = {**batches[0], "input_ids": left[batches[0]["input_ids"]]}
    renumbered = {**known, "input_ids": torch.searchsorted(torch.tensor(vocabulary), known["input_ids"])}
    with torch.no_grad():
        torch.testing.assert_close(found.features(**renumbered), without.features(**known))


def test_rows_are_needed() -> None:
    model = build("bert")
    with pytest.raises(StatisticsError, match="no calibration rows"):
        apply(model, Plan(source=ModelView.of(model).source), [])


def test_a_wrong_model_is_refused_before_any_work() -> None:
    plan = Plan(source=ModelView.of(build("bert")).source)
    with pytest.raises(PlanError, match="model_type = bert; this one has model_type = roberta"):
        apply(build("roberta"), plan, [batch_of()])


def test_what_the_rows_do_not_determine_is_named() -> None:
    model = build("bert", HEAD, intermediate_size=64)
    source = ModelView.of(model).source
    batches = [batch_of(2, length=4)]
    tokens = int(batches[0]["attention_mask"].sum())
    assert tokens < 64
    found = solve(model, Plan(source=source, ffn={1: tuple(range(40))}), batches)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in found.model.parameters())
    (output,) = (each for each in found.solutions if each.where == "output of the FFN of block 1")
    assert (output.rows, output.inputs, output.damping, output.determined) == (tokens, 40, 0.1, False)


def test_neurons_that_repeat_each_other_are_named_and_shared() -> None:
    """A singular co-moment: two neurons that are one share its weight."""
    model = build("bert", HEAD)
    plan = Plan(source=ModelView.of(model).source, ffn={0: (1, 3, 7, 9)})
    site, batches = "output of the FFN of block 0", rows(ModelView.of(model))
    assert site not in [each.where for each in solve(model, plan, batches).solutions if not each.determined]
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        for parameter in (layer.intermediate.dense.weight, layer.intermediate.dense.bias, layer.output.dense.weight.T):
            parameter[7] = parameter[3]
    found = solve(model, plan, batches)
    assert site in [each.where for each in found.solutions if not each.determined]
    weight = found.model.bert.encoder.layer[0].output.dense.weight
    torch.testing.assert_close(weight[:, 1], weight[:, 2], atol=1e-4, rtol=1e-4)


def test_all_blocks_gone_needs_no_solution() -> None:
    model = build("bert")
    plan = Plan(source=ModelView.of(model).source, readout=ReadoutPlan(pooling="cls", neurons={0: (1, 2)}))
    assert solve(model, plan, [batch_of()]).solutions == ()
