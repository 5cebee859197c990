"""Altered copies of texts, from which an embedder learns what the dense model makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.training import pool
from prunekit.training.buckets import Buckets
from prunekit.training.distill import recover
from prunekit.training.pool import affordable, altered
from tests.training.rows import dense, encoded
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
    assert affordable(view, view, rows, Effort("seconds", 1e9), "cpu", None, copies=True) == pool.POOL
    assert affordable(view, view, rows, Effort("seconds", 1e9), "cpu", None) == n
    # A short training has the rows alone, and a number of passes is one over these.
    assert affordable(view, view, rows, Effort("seconds", 1e-9), "cpu", None, copies=True) == n
    assert affordable(view, view, rows, Effort("epochs", 3), "cpu", None, copies=True) == n
    assert affordable(view, None, rows, Effort("seconds", 1e9), "cpu", None, copies=True) == n
    monkeypatch.setattr(pool, "LEAST", 4)
    assert 4 <= affordable(view, view, rows, Effort("seconds", 1e-9), "cpu", None, copies=True) < n


def test_an_embedder_is_trained_on_them_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, teacher = encoded("train"), embedder()
    asked = []
    monkeypatch.setattr("prunekit.training.distill.affordable", lambda *_, copies: asked.append(copies) or (1 + copies) * len(rows))
    found = recover(other(teacher), teacher, rows, effort="2epochs", validation=encoded("validation"))
    # Steps of a pass.
    assert round(found.steps / found.epochs) == len(Buckets(altered(rows, 2 * len(rows), 0), 0)) > len(Buckets(rows, 0))
    assert found.after > found.before
    found = recover(other(dense()), dense(), rows, effort="1epoch", validation=encoded("validation"))
    assert round(found.steps / found.epochs) == len(Buckets(rows, 0))
    assert asked == [True, False]
