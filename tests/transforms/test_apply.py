from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.errors import PlanError
from prunekit.plan import Plan, ReadoutPlan, compose
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import ReadoutModel, set_readout
from prunekit.transforms.stubs import Constant
from prunekit.transforms.surgery import index_of
from tests.masking import masked
from tests.models import CASES, batch_of, build
from tests.plans import UNITS, random_plan


def inputs_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch_of().items() if name in ModelView.of(model).inputs}


def readout_of(model: torch.nn.Module, pooling: str = "cls", top: int = 2) -> Plan:
    return Plan(source=ModelView.of(model).source, readout=ReadoutPlan(pooling=pooling, neurons={0: (1, 4), top: (0, 5, 23)}))


def test_the_dense_model_is_left_as_it_is() -> None:
    model = build("bert", "ForSequenceClassification")
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    plan = random_plan(ModelView.of(model), UNITS, random.Random(0))
    apply(model, plan)
    masked(model, plan)
    apply(model, readout_of(model))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config


@pytest.mark.parametrize(
    ("change", "name"), [({"num_hidden_layers": 3}, "layers"), ({"hidden_size": 32}, "hidden"), ({"intermediate_size": 8}, "ffn")]
)
def test_a_plan_for_another_shape_is_refused(change: dict[str, int], name: str) -> None:
    plan = readout_of(build("bert"))
    with pytest.raises(PlanError, match=f"made for a model with {name} = ") as caught:
        apply(build("bert", **change), plan)
    assert "\n" not in str(caught.value)
    with pytest.raises(PlanError, match="model_type = bert"):
        apply(build("roberta"), plan)


def test_a_plan_fits_another_checkpoint_of_the_same_shape() -> None:
    plan = random_plan(ModelView.of(build("bert")), UNITS, random.Random(3))
    shapes = [{name: tensor.shape for name, tensor in apply(build("bert", seed=seed), plan).state_dict().items()} for seed in (0, 1)]
    assert shapes[0] == shapes[1]


def test_a_pruned_model_is_not_pruned_again() -> None:
    model = build("bert")
    plan = Plan(source=ModelView.of(model).source, layers=(0, 1))
    slim = apply(model, plan)
    with pytest.raises(PlanError, match="compose"):
        apply(slim, Plan(source=ModelView.of(slim).source, layers=(0,)))


def test_an_empty_plan_changes_nothing() -> None:
    model = build("gpt2", "ForSequenceClassification")
    same = apply(model, Plan(source=ModelView.of(model).source))
    with torch.no_grad():
        assert torch.equal(model(**inputs_of(model)).logits, same(**inputs_of(model)).logits)


@pytest.mark.parametrize("case", ["bert", "distilbert", "modernbert", "gpt2", "xlnet"])
def test_removed_sub_blocks_hold_no_weights(case: str) -> None:
    model = build(case)
    source = ModelView.of(model).source
    blocks = range(source.layers)
    slim = ModelView.of(apply(model, Plan(source=source, heads=dict.fromkeys(blocks, ()), ffn=dict.fromkeys(blocks, ()))))
    assert all(parameter.ndim == 1 for parameter in slim.blocks.parameters())
    assert not any(isinstance(module, torch.nn.Linear) for module in slim.blocks.modules())
    assert any(isinstance(module, Constant) for module in slim.blocks.modules())


@pytest.mark.parametrize("case", CASES)
def test_slim_models_train(case: str) -> None:
    model = build(case, "ForSequenceClassification")
    slim = apply(model, random_plan(ModelView.of(model), UNITS, random.Random(5), empty=False)).train()
    slim(**inputs_of(slim), labels=torch.tensor([0, 1, 2])).loss.backward()
    # Relative positions that no short row reaches, and the bias of keys, have no gradient or a zero one; most must have one.
    touched = [parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in slim.parameters()]
    assert sum(touched) > 0.8 * len(touched)


@pytest.mark.parametrize("pooling", ["cls", "token"])
def test_a_readout_trains(pooling: str) -> None:
    model = build("bert")
    slim = apply(model, readout_of(model, pooling)).train()
    set_readout(slim, torch.ones(3, 5) * torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3))
    padding = batch_of()["attention_mask"] == 0
    labels = torch.tensor([0, 1, 2]) if pooling == "cls" else (torch.arange(27).reshape(3, 9) % 3).masked_fill(padding, -100)
    output = slim(**batch_of(), labels=labels)
    output.loss.backward()
    assert slim.readout.weight.grad is not None
    assert slim.body.encoder.layer[1].output.dense.weight.grad is not None
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits.reshape(-1, 3), labels.reshape(-1)))
    plain = slim(**batch_of(), labels=labels, return_dict=False)
    assert len(plain) == 2
    assert plain[1].shape == output.logits.shape


def test_a_regression_has_one_output() -> None:
    model = build("bert", num_labels=1)
    slim = apply(model, readout_of(model))
    set_readout(slim, np.ones((1, 5)), np.zeros(1))
    output = slim(**batch_of(), labels=torch.tensor([0.5, 1.0, 2.0]))
    assert output.logits.shape == (3, 1)
    torch.testing.assert_close(output.loss, (output.logits[:, 0] - torch.tensor([0.5, 1.0, 2.0])).pow(2).mean())


def test_set_readout_checks_shapes() -> None:
    model = build("bert")
    slim = apply(model, readout_of(model))
    assert isinstance(slim, ReadoutModel)
    assert not slim.readout.weight.any()
    with pytest.raises(PlanError, match=r"\(3, 5\).*\(3, 4\)"):
        set_readout(slim, np.ones((3, 4)), np.zeros(3))
    with pytest.raises(PlanError, match="no readout"):
        set_readout(model, np.ones((3, 5)), np.zeros(3))


def test_only_what_is_read_is_computed() -> None:
    model = build("bert", "ForSequenceClassification")
    slim = apply(model, readout_of(model, top=2))
    assert len(slim.body.encoder.layer) == 2
    assert slim.body.pooler is None
    assert {name.partition(".")[0] for name, _ in slim.named_parameters()} == {"body", "readout"}
    assert slim.config.num_hidden_layers == 2
    assert slim.config.id2label == model.config.id2label


def test_readouts_of_what_is_gone_are_refused() -> None:
    model = build("bert")
    source = ModelView.of(model).source
    with pytest.raises(PlanError, match="layer 1, whose block 0 is removed"):
        apply(model, Plan(source=source, layers=(1, 2), readout=ReadoutPlan(pooling="cls", neurons={1: (0,), 3: (0,)})))
    with pytest.raises(PlanError, match="dimension 7 of layer 2"):
        apply(model, Plan(source=source, hidden=(0, 1, 2), readout=ReadoutPlan(pooling="cls", neurons={2: (0, 7)})))


@pytest.mark.parametrize("case", ["bert", "xlnet", "modernbert"])
def test_a_readout_can_be_traced(case: str) -> None:
    model = build(case, attn_implementation="eager")
    slim = apply(model, readout_of(model, "last"))
    set_readout(slim, torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3))

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slim = slim

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return self.slim(*tensors, return_dict=False)[0]

    batch = tuple(inputs_of(slim).values())
    # Tracing keeps the branch that a Python condition took; which it says in a warning.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Wrapped().eval(), batch, check_trace=False)
    other = tuple(tensor for name, tensor in batch_of(2, 6, seed=1).items() if name in slim.inputs)
    with torch.no_grad():
        torch.testing.assert_close(traced(*other), slim(*other, return_dict=False)[0])


def test_composition_is_one_plan_after_the_other() -> None:
    model = build("bert", "ForSequenceClassification")
    source = ModelView.of(model).source
    kept = {block: tuple(range(block, block + 9)) for block in range(4)}
    first = Plan(source=source, layers=(0, 2, 3), ffn=kept, hidden=None)
    middle = apply(model, first)
    # A middle block and a uniform width less is a stock model, so the slim model has a dense twin.
    twin = build("bert", "ForSequenceClassification", num_hidden_layers=3, intermediate_size=9)
    twin.load_state_dict(middle.state_dict())
    second = random_plan(ModelView.of(twin), UNITS, random.Random(2))
    both = compose(first, second)
    assert both.source == source
    with torch.no_grad():
        expected, found = apply(twin, second)(**batch_of()).logits, apply(model, both)(**batch_of()).logits
    assert torch.equal(expected, found)


def test_index_of_a_fused_and_of_a_grouped_axis() -> None:
    from prunekit.arch.spec import Axis

    assert index_of(Axis("heads", repeat=3), (0, 2), 3, 18).tolist() == [0, 1, 4, 5, 6, 7, 10, 11, 12, 13, 16, 17]
    assert index_of(Axis("ffn"), (1,), 4, 4).tolist() == [1]
    assert index_of(Axis("heads"), (1,), 2, 8).tolist() == [4, 5, 6, 7]
