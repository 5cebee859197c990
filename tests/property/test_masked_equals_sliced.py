"""The theorem behind every cut: a model that was cut computes what the masked model at full size computes."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from prunekit.arch.view import ModelView
from prunekit.plan import Plan, kept_blocks
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import set_readout
from prunekit.transforms.stubs import Affine, ReadsComponents
from tests.masking import masked
from tests.models import CASES, batch_of, build
from tests.plans import FILLED, UNITS, random_plan, random_readout

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
# Explaining a failure would run it dozens of times.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
model_of = cache(build)


def drawn(model: torch.nn.Module, plan: Plan, seed: int) -> dict[int, torch.nn.Linear]:
    """Fill the affine maps of a slim model at random; the same maps at full size, by the dense model's stored blocks."""
    view, found = ModelView.of(model), {}
    stored = kept_blocks(plan)
    if view.spec.shared_blocks and stored:
        stored = (0,)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.tensor(plan.hidden or range(plan.source.hidden))
    for number, block in zip(stored, view.blocks, strict=False):
        for module in block.modules():
            if isinstance(module, Affine):
                full = torch.nn.Linear(plan.source.hidden, plan.source.hidden)
                with torch.no_grad():
                    for parameter in full.parameters():
                        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
                    module.weight.copy_(full.weight[hidden][:, hidden])
                    module.bias.copy_(full.bias[hidden])
                found[number] = full
    assert set(found) == set(plan.affine or ()) & set(stored)
    return found


def outputs(model: torch.nn.Module, left: bool) -> torch.Tensor:
    view = ModelView.of(model)
    batch = {name: tensor for name, tensor in batch_of(left=left).items() if name in view.inputs}
    with torch.no_grad():
        found = model(**batch)
    values = (
        found.start_logits + found.end_logits if "start_logits" in found else found.logits if "logits" in found else found.last_hidden_state
    )
    # What stands at padding is nobody's business.
    return values[batch["attention_mask"].bool()] if values.shape[:2] == batch["input_ids"].shape else values


def projected(slim: torch.nn.Module, model: torch.nn.Module, plan: Plan, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Let the slim head read random orthonormal directions; the same ones at full size."""
    found, generator = {}, torch.Generator().manual_seed(seed)
    hidden = list(plan.hidden or range(plan.source.hidden))
    for path, module in slim.named_modules():
        if isinstance(module, ReadsComponents):
            layer, mean = model.get_submodule(path), torch.zeros(plan.source.hidden)
            directions = torch.zeros(module.components.out_features, plan.source.hidden)
            mean[hidden] = torch.randn(len(hidden), generator=generator)
            directions[:, hidden] = torch.linalg.qr(torch.randn(len(hidden), len(directions), generator=generator))[0].T
            module.fill(layer.weight[:, hidden], layer.bias, mean[hidden], directions[:, hidden])
            found[path] = mean, directions
    assert bool(found) == (plan.components is not None)
    return found


def agree(slim: torch.nn.Module, reference: torch.nn.Module, plan: Plan, head: str) -> None:
    found, expected = outputs(slim, False), outputs(reference, False)
    if head == "Model" and plan.hidden is not None:
        expected = expected[..., list(plan.hidden)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 10**6), units=st.sets(st.sampled_from(FILLED), min_size=1), head=st.sampled_from(HEADS))
@settings(max_examples=8, phases=PHASES)
def test_sliced_equals_masked(case: str, seed: int, units: set[str], head: str) -> None:
    if head == "ForQuestionAnswering":
        head += "Simple" if case == "xlnet" else ""
    model = model_of(case, head)
    view = ModelView.of(model)
    plan = random_plan(view, tuple(sorted(units)), random.Random(seed))
    slim = apply(model, plan)
    principal = projected(slim, model, plan, seed)
    agree(slim, masked(model, plan, None, principal), plan, head)
    if plan.affine:
        # Until it is solved, an affine map is the output bias alone.
        agree(slim, masked(model, plan, drawn(slim, plan, seed), principal), plan, head)


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 10**6), units=st.sets(st.sampled_from(UNITS)), pooling=st.sampled_from(["cls", "mean", "last", "token"]))
@settings(max_examples=6, phases=PHASES)
def test_readout_with_structure(case: str, seed: int, units: set[str], pooling: str) -> None:
    model, rng = model_of(case, "ForSequenceClassification"), random.Random(seed)
    view = ModelView.of(model)
    structure = random_plan(view, tuple(sorted(units)), rng)
    layers = [0, *(block + 1 for block in structure.kept_layers)]
    readout = random_readout(view, pooling, rng, top=rng.choice(layers))
    hidden = set(structure.hidden or range(view.hidden_size))
    neurons = {layer: [dim for dim in dims if dim in hidden] or [min(hidden)] for layer, dims in readout.neurons.items() if layer in layers}
    plan = Plan.model_validate({**structure.model_dump(), "readout": {"pooling": pooling, "neurons": neurons}})
    assert plan.readout is not None
    weight, bias = torch.randn(3, plan.readout.size, generator=torch.Generator().manual_seed(seed)), torch.arange(3.0)
    found = []
    slim = apply(model, plan)
    for each in (slim, masked(model, plan, drawn(slim, plan, seed))):
        set_readout(each, weight, bias)
        found.append(outputs(each, left=view.spec.cls == "last"))
    torch.testing.assert_close(*found, atol=3e-5, rtol=1e-5)
