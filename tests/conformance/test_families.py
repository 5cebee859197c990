"""What every family has to satisfy; a new record is tested by being registered and given a tiny config."""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from prunekit.arch import SPECS
from prunekit.arch.view import ModelView, find, last_positions
from prunekit.errors import UnsupportedError
from prunekit.exporters.checkpoint import load, save_checkpoint
from prunekit.plan import Plan
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import ReadoutModel, set_readout
from tests.models import CASES, HIDDEN, LAYERS, LENGTH, batch_of, build
from tests.plans import random_plan, random_readout

model_of = cache(build)


def inputs_of(view: ModelView, **arguments: int) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch_of(**arguments).items() if name in view.inputs}


def test_every_record_has_a_tiny_model() -> None:
    assert {ModelView.of(model_of(case)).config.model_type for case in CASES} == set(SPECS)


@pytest.mark.parametrize("case", CASES)
def test_hidden_states(case: str) -> None:
    model = model_of(case)
    view = ModelView.of(model)
    batch = inputs_of(view)
    with torch.no_grad():
        states = view.hidden_states(batch)
        stock = model(**batch, output_hidden_states=True)
    assert len(states) == LAYERS + 1
    assert {state.shape for state in states} == {(3, LENGTH, HIDDEN)}
    for ours, theirs in zip(states[:-1], stock.hidden_states[:-1], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(states[-1], stock.last_hidden_state)
    assert not any(torch.equal(a, b) for a, b in pairwise(states))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForTokenClassification"])
def test_every_parameter_has_roles(case: str, head: str) -> None:
    model = model_of(case, head)
    view = ModelView.of(model)
    roles = view.roles()
    assert set(roles) == {name for name, _ in model.named_parameters()}
    for name, axes in roles.items():
        shape = find(model, name).shape
        assert len(axes) == len(shape), name
        assert all(
            axis is None or size % (axis.repeat * getattr(view.source, axis.role)) == 0 for axis, size in zip(axes, shape, strict=True)
        ), name
    assert {axis.role for axes in roles.values() for axis in axes if axis} == {"hidden", "heads", "ffn", "vocabulary"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("top", range(LAYERS + 1))
def test_a_readout_is_a_linear_layer_on_the_dense_hidden_states(case: str, top: int) -> None:
    model, rng = model_of(case, "ForSequenceClassification"), random.Random(top)
    view = ModelView.of(model)
    batch = inputs_of(view)
    with torch.no_grad():
        states = view.hidden_states(batch)
    mask = batch["attention_mask"]
    last = last_positions(mask)
    for pooling in ("cls", "mean", "last", "token"):
        readout = random_readout(view, pooling, rng, top)
        chosen = torch.cat([states[layer][..., list(dims)] for layer, dims in sorted(readout.neurons.items())], dim=-1)
        rows = {
            "cls": chosen[:, 0] if view.spec.cls == "first" else chosen[torch.arange(3), last],
            "last": chosen[torch.arange(3), last],
            "mean": torch.stack([row[kept.bool()].mean(0) for row, kept in zip(chosen, mask, strict=True)]),
            "token": chosen,
        }[pooling]
        generator = np.random.default_rng(top)
        weight, bias = generator.normal(size=(3, readout.size)), generator.normal(size=3)
        slim = apply(model, Plan(source=view.source, readout=readout))
        set_readout(slim, weight, bias)
        with torch.no_grad():
            logits = slim(**batch).logits
        expected = rows.double() @ torch.from_numpy(weight).T + torch.from_numpy(bias)
        torch.testing.assert_close(logits.double(), expected, atol=1e-4, rtol=1e-5)
        assert view.spec.shared_blocks or len(ModelView.of(slim).blocks) == max(top, view.spec.needs_block)


@pytest.mark.parametrize("case", CASES)
def test_dropped_blocks_leave_the_states_below_as_they_were(case: str) -> None:
    model = model_of(case)
    view = ModelView.of(model)
    slim = ModelView.of(apply(model, Plan(source=view.source, layers=(0, 1, 3))))
    batch = inputs_of(view)
    with torch.no_grad():
        dense, states = view.hidden_states(batch), slim.hidden_states(batch)
    assert len(states) == LAYERS
    # State 2 is an inner state in both; the last one is not that of the dense model.
    for layer in range(3):
        assert torch.equal(dense[layer], states[layer])
    assert not torch.equal(dense[-1], states[-1])
    assert [module.layer_idx for block in slim.blocks for module in block.modules() if isinstance(vars(module).get("layer_idx"), int)] == [
        number for number, block in enumerate(slim.blocks) for module in block.modules() if isinstance(vars(module).get("layer_idx"), int)
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("unit", ["layers", "top", "heads", "ffn", "uniform ffn", "hidden", "everything", "readout"])
def test_saved_and_loaded_is_the_same(case: str, unit: str, tmp_path: Path) -> None:
    model, rng = model_of(case, "ForSequenceClassification"), random.Random(unit)
    view = ModelView.of(model)
    source = view.source
    plan = {
        "layers": lambda: Plan(source=source, layers=(0, 2, 3)),
        "top": lambda: Plan(source=source, layers=(0, 1)),
        "uniform ffn": lambda: Plan(source=source, ffn={block: tuple(range(block, block + 6)) for block in range(LAYERS)}),
        "everything": lambda: random_plan(view, ("layers", "heads", "ffn", "hidden"), rng),
        "readout": lambda: Plan(source=source, readout=random_readout(view, "mean", rng, 2)),
    }.get(unit, lambda: random_plan(view, (unit,), rng))
    if view.spec.shared_blocks and unit == "uniform ffn":
        chosen = Plan(source=source, ffn={block: tuple(range(6)) for block in range(LAYERS)})
    else:
        chosen = plan()
    slim = apply(model, chosen)
    if isinstance(slim, ReadoutModel):
        set_readout(slim, torch.randn(3, slim.readout.in_features, generator=torch.Generator().manual_seed(0)), torch.ones(3))
    weights = save_checkpoint(slim, None, chosen, tmp_path)
    batch = inputs_of(view)
    again = load(tmp_path)
    with torch.no_grad():
        expected = slim(**batch).logits
        assert torch.equal(again(**batch).logits, expected)
    assert type(again) is type(slim)
    assert again.config.to_dict() == slim.config.to_dict() or weights.name == "model.safetensors"
    # What a stock loader finds, it must load exactly.
    if weights.name == "model.safetensors":
        stock = type(slim).from_pretrained(tmp_path)
        with torch.no_grad():
            assert torch.equal(stock.eval()(**batch).logits, expected)
    else:
        assert not (tmp_path / "model.safetensors").exists()
        # And what the Auto classes find after `import prunekit`.
        auto = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert type(auto).__name__ == type(model).__name__
        states = transformers.AutoModel.from_pretrained(tmp_path)(**batch).last_hidden_state
        with torch.no_grad():
            assert torch.equal(auto(**batch).logits, expected)
            assert torch.equal(states, ModelView.of(slim).body(**batch).last_hidden_state)
    if unit in ("top", "uniform ffn") and case != "qwen2":
        assert weights.name == "model.safetensors"
    if unit in ("everything", "readout"):
        assert weights.name == "pruned.safetensors"
    assert transformers.AutoConfig.from_pretrained(tmp_path).num_labels == 3


@pytest.mark.parametrize("case", CASES)
def test_a_slim_token_classifier_is_found_by_the_auto_classes(case: str, tmp_path: Path) -> None:
    model = model_of(case, "ForTokenClassification")
    view = ModelView.of(model)
    plan = Plan(source=view.source, readout=random_readout(view, "token", random.Random(0), 2))
    slim = apply(model, plan)
    set_readout(slim, np.random.default_rng(0).normal(size=(3, plan.readout.size)), np.zeros(3))
    save_checkpoint(slim, None, plan, tmp_path)
    batch = inputs_of(view)
    with torch.no_grad():
        found = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)(**batch).logits
        assert torch.equal(found, slim(**batch).logits)


@pytest.mark.parametrize("role", ["heads", "ffn"])
def test_unequal_units_are_refused_where_blocks_share(role: str) -> None:
    model = model_of("albert")
    view = ModelView.of(model)
    with pytest.raises(UnsupportedError, match=view.spec.shared_blocks):
        apply(model, Plan.model_validate({"source": view.source, role: {0: (0, 1)}}))


@pytest.mark.parametrize(
    ("case", "changes", "plan", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, {"layers": (1, 2)}, "only the topmost blocks"),
        ("deberta", {"talking_head": True}, {"heads": {0: (1,)}}, "talking heads"),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}, {"layers": (1, 2)}, "only the topmost blocks"),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}, {"hidden": (1, 2)}, "mixes all dimensions"),
    ],
)
def test_what_a_family_cannot_express_is_refused(case: str, changes: dict[str, object], plan: dict[str, object], message: str) -> None:
    model = build(case, **changes)
    source = ModelView.of(model).source
    with pytest.raises(UnsupportedError, match=message):
        apply(model, Plan(source=source, **plan))
    # Cutting the top off is always possible.
    assert len(ModelView.of(apply(model, Plan(source=source, layers=(0,)))).blocks) == 1
