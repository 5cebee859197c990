"""Altered copies of rows, from which a slim model learns what the dense one makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TrainerState

from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.data.batches import encode
from prunekit.data.load import load_data
from prunekit.tasks import Task, TaskKind
from prunekit.training import pool
from prunekit.training.buckets import Buckets
from prunekit.training.distill import recover
from prunekit.training.loop import Pace
from prunekit.training.objective import UNKNOWN, Objective
from prunekit.training.pool import affordable, altered
from prunekit.training.teacher import Answer
from tests import lines
from tests.data import test_windows
from tests.training.rows import dense, encoded, task_data
from tests.training.test_learning_rate import other


def embedder() -> EmbeddingModel:
    return EmbeddingModel(dense().bert, Embedding(pooling="mean", normalize=True)).eval()


def test_copies_differ_in_a_share_of_their_tokens_and_keep_those_that_every_row_has() -> None:
    rows = encoded("train")
    n = len(rows)
    found = altered(rows, 3 * n + 5, seed=1)
    assert len(found) == 3 * n + 5
    # The rows themselves come first, as they are.
    assert np.array_equal(found.ids[: len(rows.ids)], rows.ids)
    assert np.array_equal(found.offsets[: n + 1], rows.offsets)
    copies = found.take(np.arange(n, 2 * n))
    originals = sorted(rows.lengths.tolist())
    assert sorted(copies.lengths.tolist()) == originals
    for at in range(len(found)):
        row = found.ids[found.offsets[at] : found.offsets[at + 1]]
        assert (row[0], row[-1]) == (rows.ids[0], rows.ids[-1])
    inner = 1 - 2 / rows.lengths.mean()
    drawn = np.random.default_rng(1).permutation(n)
    changed = (copies.ids != rows.take(drawn).ids).mean()
    # A token may be replaced by itself.
    assert 0.5 * pool.ALTERED * inner < changed <= 1.2 * pool.ALTERED * inner
    assert set(found.ids.tolist()) == set(rows.ids.tolist())
    assert np.array_equal(altered(rows, n + 7, seed=1).ids, altered(rows, n + 7, seed=1).ids)
    assert not np.array_equal(altered(rows, 2 * n, seed=1).ids, altered(rows, 2 * n, seed=2).ids)


def test_rows_that_are_all_alike_have_no_copies() -> None:
    rows = encoded("train").take(np.zeros(8, dtype=np.int64))
    assert altered(rows, 20, seed=0) is rows


def test_there_are_as_many_as_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    view, rows = ModelView.of(embedder()), encoded("train")
    n = len(rows)
    assert affordable(view, view, rows, Effort("seconds", 1e9), "cpu", None) == pool.POOL
    # A copy of a list would be of the same query.
    lists = replace(rows, queries=np.arange(n) // 5)
    assert affordable(view, view, lists, Effort("seconds", 1e9), "cpu", None) == n
    # A short training has the rows alone, and a number of passes is one over these.
    assert affordable(view, view, rows, Effort("seconds", 1e-9), "cpu", None) == n
    assert affordable(view, view, rows, Effort("epochs", 3), "cpu", None) == n
    assert affordable(view, None, rows, Effort("seconds", 1e9), "cpu", None) == n
    monkeypatch.setattr(pool, "LEAST", 4)
    assert 4 <= affordable(view, view, rows, Effort("seconds", 1e-9), "cpu", None) < n


@pytest.mark.parametrize("vectors", [True, False])
def test_a_model_is_trained_on_them(vectors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, teacher = encoded("train"), embedder() if vectors else dense()
    monkeypatch.setattr("prunekit.training.distill.affordable", lambda *_: 2 * len(rows))
    known = {"validation": encoded("validation"), "task": None if vectors else task_data().task}
    found = recover(other(teacher), teacher, rows, effort="2epochs", **known)
    # Steps of a pass.
    assert round(found.steps / found.epochs) == len(Buckets(altered(rows, 2 * len(rows), 0), 0)) > len(Buckets(rows, 0))
    assert found.after > found.before if vectors else found.after >= found.before


def test_a_maximum_of_passes_is_one_over_the_rows_given() -> None:
    pace = Pace(Effort("seconds", 1e9, 40.0), None)
    pace.count_rows(100, 400)
    state = TrainerState(epoch=5.0)
    assert pace._used(state) == 0.5
    pace = Pace(Effort("epochs", 3.0), None)
    pace.count_rows(100, 400)
    assert pace.effort == Effort("epochs", 3.0)


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "words", "spans"])
def test_only_the_rows_themselves_have_labels(kind: str) -> None:
    rows = encoded("train")
    if kind == "labels":
        rows = replace(rows, labels=np.eye(2, dtype=bool)[rows.labels])
    elif kind == "values":
        rows = replace(rows, labels=rows.labels.astype(np.float64))
    elif kind == "words":
        rows = encode(load_data(str(lines.data("tokens"))).splits["train"], lines.tokenizer_of(), max_length=32, per_token=True)
    elif kind == "spans":
        rows = test_windows.encoded(test_windows.rows())
    n = len(rows)
    found = altered(rows, 2 * n, seed=0)
    own, copied = np.split(found.labels, [len(rows.labels)])
    assert np.array_equal(own, rows.labels)
    assert len(copied) == len(own)
    assert kind == "values" or (copied == UNKNOWN).all()
    # The places that are read are those of the row that was copied.
    batch, original = found.batch(np.arange(n)), rows.batch(np.arange(n))
    assert batch.first is original.first is None or np.array_equal(batch.first, original.first)
    assert len(found.batch(np.arange(n, 2 * n)).labels) == len(copied)


@pytest.mark.parametrize("kind", [TaskKind.CLASSIFICATION, TaskKind.LABELS])
def test_what_is_not_known_adds_nothing_to_a_loss(kind: TaskKind) -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask, labels = torch.ones(6, 1, dtype=torch.bool), torch.tensor([0, 2, 1, 1, 0, 2])
    if kind is TaskKind.LABELS:
        labels = torch.eye(3, dtype=torch.int8)[labels]
    objective = Objective(task=Task(kind, kind.traits.metrics[0], ("a", "b", "c")))

    def loss(labels: torch.Tensor, of: slice = slice(None)) -> torch.Tensor:
        return objective.loss(Answer(logits[of]), None, labels[of], mask[of])

    half = labels.clone()
    half[3:] = UNKNOWN
    # The mean is over all rows, so that a batch of copies counts as little as it tells.
    assert loss(half).item() == pytest.approx(loss(labels, slice(3)).item() / 2)
    (gradient,) = torch.autograd.grad(loss(half), logits)
    assert gradient[:3].abs().min() > 0
    assert (gradient[3:] == 0).all()
    assert loss(torch.full_like(labels, UNKNOWN)).item() == 0.0
