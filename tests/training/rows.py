"""A tiny task, its dense model and a slim one, for the tests of training."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from prunekit.budget import parse_budgets
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.data.rows import TaskData
from prunekit.pruning.iterative import Shrunk
from prunekit.pruning.shrink import shrink
from prunekit.training.objective import divergence
from prunekit.training.tokens import Occurring
from prunekit.transforms.apply import apply
from tests import lines


@functools.cache
def task_data() -> TaskData:
    """Rows labelled by the dense model."""
    return load_data(str(lines.data("text")))


@functools.cache
def encoded(split: str) -> Encoded:
    """A split, tokenised."""
    return encode(task_data().splits[split], lines.tokenizer_of(), max_length=32, per_token=False)


@functools.cache
def dense() -> Any:
    """A model whose answers are as decided as a trained one's; nobody changes it."""
    model = copy.deepcopy(lines.dense("sequence"))
    logits = lines.answers(model, lines.sentences(100, 7))
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(2.0 / float(logits.std()))
    return model


@functools.cache
def slim() -> Shrunk:
    """A quarter of the dense model, cut and not refitted, so that there is much to win back; nobody changes it."""
    batches = [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in encoded("train").batches()]
    found = shrink(dense(), batches, parse_budgets("25% params"))
    return Shrunk(apply(dense(), found.plan).eval(), found.plan, found.steps)


def training() -> Any:
    """A slim model as it is while it is trained on both splits, with the embeddings of their tokens alone."""
    model = copy.deepcopy(slim().model)
    ids = np.unique(np.concatenate([encoded("train").ids, encoded("validation").ids, [encoded("train").padding.token]]))
    model.bert.set_input_embeddings(Occurring(model.bert.get_input_embeddings(), torch.from_numpy(ids)))
    return model


def gap(model: nn.Module, other: nn.Module, rows: Encoded) -> float:
    """Mean divergence of the first model's answers from the second's."""
    total = 0.0
    with torch.no_grad():
        for batch in rows.batches():
            inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            total += float(divergence(model(**inputs).logits, other(**inputs).logits)) * len(batch.rows)
    return total / len(rows)
