"""Counts against an independent counter: torch's own, which watches the operations of a real run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.errors import ParameterError
from prunekit.plan import Plan, ReadoutPlan
from prunekit.transforms.apply import apply
from tests.models import HIDDEN, LAYERS, batch_of, build
from tests.plans import random_plan, random_readout

# Families whose attention is queries, keys and values, and nothing else.
PLAIN = ("bert", "roberta", "electra", "distilbert", "albert", "modernbert", "gpt2", "llama", "qwen3", "mpnet")


def watched(model: torch.nn.Module, length: int) -> float:
    # The counter follows gradients through views of parameters, even where none are computed.
    view = ModelView.of(model.requires_grad_(False))
    batch = {
        name: torch.ones_like(tensor[:1, :length]) * (name != "token_type_ids")
        for name, tensor in batch_of(length=length).items()
        if name in view.inputs
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
def test_macs_are_those_of_a_real_run(case: str, head: str) -> None:
    model, rng = build(case, head, attn_implementation="eager"), random.Random(1)
    view = ModelView.of(model)
    # Rotary positions are one small product of their own, (head_dim / 2) x T for each kind of attention or each block.
    free = {"modernbert": LAYERS, "llama": 1, "qwen3": 1}.get(case, 0)
    width = {"modernbert": HIDDEN // 4, "llama": 8, "qwen3": 8}.get(case, 0)
    plans = [random_plan(view, units, rng) for units in (("heads",), ("ffn", "layers"), ("hidden", "heads", "ffn"))]
    if head == "ForSequenceClassification":
        plans.append(Plan(source=view.source, readout=random_readout(view, "mean", rng, 2)))
    for each in [model, *(apply(model, plan) for plan in plans)]:
        for length in (3, 7):
            assert abs(watched(each, length) - count(each, np.array([length])).macs) <= free * width / 2 * length, (length, each)


def test_macs_are_a_mean_over_rows() -> None:
    model = build("bert", "ForSequenceClassification")
    single = [count(model, np.array([length])).macs for length in (2, 5, 11)]
    assert count(ModelView.of(model), np.array([2, 5, 11])).macs == pytest.approx(np.mean(single))
    with pytest.raises(ParameterError, match="lengths"):
        count(model, np.array([], dtype=np.int64))


def test_parameters_and_neurons() -> None:
    model = build("bert", "ForSequenceClassification")
    view = ModelView.of(model)
    lengths = np.array([4])
    dense = count(model, lengths)
    assert dense.neurons == (LAYERS + 1) * HIDDEN
    assert dense.params == sum(p.numel() for p in model.parameters())
    assert dense.params_layers == sum(p.numel() for p in model.bert.encoder.parameters())
    readout = random_readout(view, "cls", random.Random(0), 2)
    embeddings = sum(p.numel() for p in model.bert.embeddings.parameters())
    slim = count(apply(model, Plan(source=view.source, readout=readout)), lengths)
    assert slim.neurons == readout.size
    assert slim.params_layers * 2 == dense.params_layers
    assert slim.params == slim.params_layers + embeddings + 3 * (readout.size + 1)
    narrow = count(apply(model, Plan(source=view.source, hidden=(1, 2, 5), layers=(0, 1))), lengths)
    assert narrow.neurons == 9


def test_relative_attention_counts_its_position_projections() -> None:
    model = build("xlnet")
    # q, k, v, o per token; r for 2T positions; FFN; attention.
    per_token = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN + 2 * HIDDEN * 20
    assert count(model, np.array([5])).macs == LAYERS * (5 * per_token + 2 * 25 * HIDDEN)


def test_blocks_that_share_weights_and_never_run_do_not_count() -> None:
    view = ModelView.of(build("albert"))
    readouts = [ReadoutPlan(pooling="token", neurons={top: (1, 2)}) for top in (0, 1)]
    none, one = (count(apply(view.model, Plan(source=view.source, readout=readout)), np.array([5, 6])) for readout in readouts)
    assert none.params_layers == 0 < one.params_layers
    assert one.params - none.params == one.params_layers
