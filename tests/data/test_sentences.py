"""Texts for an embedder: what is a score of a pair, and what is none."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest

from prunekit.data.load import load_data
from prunekit.errors import DataError
from prunekit.metrics import Metric


def pairs(labels: list[Any], name: str = "label", start: int = 0) -> dict[str, list[Any]]:
    count = range(start, start + len(labels))
    return {"premise": [f"one text {at}" for at in count], "hypothesis": [f"another text {at}" for at in count], name: labels}


def test_classes_of_pairs_are_no_scores() -> None:
    names = ["entailment", "neutral", "contradiction"]
    ids = datasets.Dataset.from_dict(pairs([0, 1, 2] * 20)).cast_column("label", datasets.ClassLabel(names=names))
    for rows in (pairs(names * 20), ids):
        found = load_data(rows, task="embedding")
        assert found.task.metric is Metric.COSINE
        assert np.isnan(np.asarray(found.train.labels)).all()
        assert found.train.pairs is not None
        assert "train: the column 'label' is not used, it holds classes and no scores" in found.notes


def test_two_classes_in_order_are_scores_and_numbers_that_are_misspelled_a_mistake() -> None:
    ids = datasets.Dataset.from_dict(pairs([0, 1] * 30)).cast_column("label", datasets.ClassLabel(names=["different", "same"]))
    assert load_data(ids, task="embedding").task.metric is Metric.SPEARMAN
    with pytest.raises(DataError, match=r"must hold a number .* Row 1 holds '4,5'"):
        load_data(pairs(["4,5", "0,5"] * 30), task="embedding")
    with pytest.raises(DataError, match=r"must hold a number .* Row 1 holds 'near'"):
        load_data(pairs(["near", "far"] * 30), task="embedding", label="label")


@pytest.mark.parametrize("withheld", [-1, -1.0, "-1.0", None])
def test_a_split_whose_scores_are_withheld_is_not_used(withheld: Any) -> None:
    scored = {"train": pairs([0.5, 1.5, 4.0] * 20), "validation": pairs([1.0, 2.0, 3.0] * 4, start=100)}
    found = load_data({**scored, "test": pairs([withheld] * 12, start=200)}, task="embedding")
    assert found.task.metric is Metric.SPEARMAN
    assert "test: not used, its rows have no scores" in found.notes
    assert found.test.texts == tuple(scored["validation"]["premise"])
    # Where no split has scores, its texts are as good as others.
    bare = {split: {name: rows[name] for name in ("premise", "hypothesis")} for split, rows in scored.items()}
    found = load_data({**bare, "test": pairs([withheld] * 12, start=200)}, task="embedding")
    assert (found.task.metric, len(found.test)) == (Metric.COSINE, 12)
