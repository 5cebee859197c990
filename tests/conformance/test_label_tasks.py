"""Every family with a head for many labels and with one for rankings: shrunk, trained, saved, and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.budget import parse_budgets
from prunekit.data.batches import Encoded, _Padding
from prunekit.exporters.checkpoint import load, save_checkpoint
from prunekit.metrics import Metric
from prunekit.pruning.shrink import shrink
from prunekit.tasks import Task, TaskKind
from prunekit.training.distill import recover
from prunekit.training.teacher import outputs_of
from tests.models import CASES, VOCABULARY, batch_of, build

TASKS = {
    "labels": (Task(TaskKind.LABELS, Metric.MICRO_F1, ("LABEL_0", "LABEL_1", "LABEL_2")), {"problem_type": "multi_label_classification"}),
    "ranking": (Task(TaskKind.REGRESSION, Metric.PEARSON), {"num_labels": 1}),
}


def rows(task: str, count: int = 24) -> Encoded:
    """Tokens at random; lists of four rows of a ranking."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 9, size=count)
    ids = generator.integers(4, VOCABULARY, size=lengths.sum()).astype(np.int32)
    labels = generator.random((count, 3)) < 0.4 if task == "labels" else generator.random(count)
    queries = np.arange(count) // 4 if task == "ranking" else None
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(ids, np.zeros(len(ids), dtype=np.int8), offsets, labels, 0, 0, _Padding(1, 0, False), queries=queries)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("case", CASES)
def test_a_head_is_shrunk_trained_and_comes_back(case: str, kind: str, tmp_path: Path) -> None:
    task, config = TASKS[kind]
    model = build(case, "ForSequenceClassification", **config)
    view = ModelView.of(model)
    assert outputs_of(view) == ("labels" if kind == "labels" else "values")
    batches = [
        {name: tensor for name, tensor in batch_of(8, seed=seed).items() if name in view.inputs or name == "attention_mask"}
        for seed in range(2)
    ]
    found = shrink(model, batches, parse_budgets("85% params"))
    encoded = rows(kind)
    trained = recover(found.model, model, encoded, plan=found.plan, validation=encoded, task=task, effort="1epochs")
    assert trained.steps > 0
    assert trained.after >= trained.before or trained.metric != "minus divergence"
    save_checkpoint(trained.model, None, found.plan, tmp_path)
    again = load(tmp_path)
    assert ModelView.of(again).many_labels == (kind == "labels")
    given = {name: tensor for name, tensor in batches[0].items() if name in view.inputs}
    with torch.no_grad():
        assert torch.equal(again(**given).logits, trained.model(**given).logits)
