"""Every family with a head that answers questions: read in windows, shrunk, trained, saved, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.budget import parse_budgets
from prunekit.data.batches import Encoded, _Padding
from prunekit.data.places import Windows
from prunekit.exporters.checkpoint import load, save_checkpoint
from prunekit.metrics.spans import Reference
from prunekit.pipeline.inputs import calibration
from prunekit.pipeline.predict import outputs_of_model
from prunekit.pruning.shrink import shrink
from prunekit.stats.sensitivity import READ
from prunekit.tasks import Task, TaskKind
from prunekit.training.distill import recover
from tests.models import CASES, VOCABULARY, build


def head_of(case: str) -> str:
    # XLNet's own answers by a search.
    return "ForQuestionAnsweringSimple" if case == "xlnet" else "ForQuestionAnswering"


def windows(count: int = 24) -> Encoded:
    """Tokens at random, of which all but the first two are of the context; two windows a question."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 10, size=count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(4, VOCABULARY, size=offsets[-1]).astype(np.int32)
    places = np.concatenate([[0, *range(2, length)] for length in lengths]).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths - 1)])
    characters = np.stack([places, places + 1], axis=1)
    references = np.array([Reference("abcdefghij", ("c",), (2,)) for _ in range(count // 2)], dtype=object)
    read = Windows(places, starts, characters, np.arange(count) // 2, references, silent=False)
    gold = generator.random((starts[-1], 2)) < 0.3
    return Encoded(ids, np.zeros(len(ids), dtype=np.int8), offsets, gold, 0, 0, _Padding(1, 0, False), windows=read)


@pytest.mark.parametrize("case", CASES)
def test_a_head_is_shrunk_trained_and_comes_back(case: str, tmp_path: Path) -> None:
    model = build(case, head_of(case))
    encoded = windows()
    batches = [{name: batch[name] for name in batch} for batch in calibration(encoded, 0)]
    assert all(int(batch[READ].sum()) < int(batch["attention_mask"].sum()) for batch in batches)
    found = shrink(model, batches, parse_budgets("85% params"))
    trained = recover(found.model, model, encoded, plan=found.plan, validation=encoded, effort="1epochs")
    assert trained.steps > 0
    assert trained.after >= trained.before
    save_checkpoint(trained.model, None, found.plan, tmp_path)
    again: Any = load(tmp_path)
    ours, theirs = (outputs_of_model(ModelView.of(each), encoded, 2) for each in (again, trained.model))
    assert np.array_equal(ours, theirs)
    # What is read by place is what the model says there, row by row.
    batch = encoded.batch(np.array([3]))
    with torch.no_grad():
        said = again(**{name: torch.from_numpy(batch.inputs[name]) for name in ModelView.of(again).inputs})
    assert batch.first is not None
    for at, name in enumerate(("start_logits", "end_logits")):
        np.testing.assert_allclose(ours[batch.targets, at], said[name][0].numpy()[batch.first[:, 1]], atol=1e-5, rtol=1e-5)
    spans = encoded.every(ours)
    assert spans.shape == (12, 2)
    assert (spans[:, 1] > spans[:, 0]).all()
    assert 0 <= Task(TaskKind.QUESTIONS, TaskKind.QUESTIONS.traits.metrics[0]).score(spans, encoded.every_label) <= 1
