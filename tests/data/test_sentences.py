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


def triples(rows: int, **changes: Any) -> dict[str, list[Any]]:
    return {name: [f"{name} text {at}" for at in range(rows)] for name in ("anchor", "positive", "negative")} | changes


def test_the_texts_of_triples_are_read_by_name_one_by_one() -> None:
    # A number beside them is the margin between two pairs, and no score.
    found = load_data({"train": triples(40, score=[1.0] * 40), "test": triples(5, negative=[["no", "not"]] * 5)}, task="embedding")
    assert found.task.metric is Metric.COSINE
    assert found.test.pairs is None
    assert found.test.texts[:4] == ("anchor text 0", "positive text 0", "no", "not")
    assert len(found.train) + len(found.validation) == 120
    assert "train: the texts of anchor, positive, negative are read one by one" in found.notes
    # What is like a text is on its side of the cut.
    numbers = [{text.split()[2] for text in part.texts if "negative" not in text} for part in (found.train, found.validation)]
    assert not numbers[0] & numbers[1]


def test_an_anchor_and_its_positive_alone_are_a_pair_and_lists_of_both_are_texts() -> None:
    rows = triples(40)
    found = load_data({"anchor": rows["anchor"], "positive": rows["positive"]}, task="embedding")
    assert (found.train.pairs or ("",))[0].startswith("positive text")
    lists = {"query": rows["anchor"], "pos": [[f"one {at}", f"two {at}"] for at in range(40)], "neg": [[]] * 40}
    train = load_data(lists, task="embedding").train.texts
    assert [text.split()[0] for text in train[:4]] == ["anchor", "one", "two", "anchor"]
    named = load_data(rows, task="embedding", text="anchor", text_pair="negative")
    assert (named.train.pairs or ("",))[0].startswith("negative text")


@pytest.mark.parametrize(("bad", "says"), [([3], "holds no text"), (["  "], "is empty")])
def test_what_is_no_text_in_a_triple_is_a_mistake(bad: list[Any], says: str) -> None:
    with pytest.raises(DataError, match=f"'neg' of train {says} in 1 row, first in row 2"):
        load_data({"query": ["a", "b"], "pos": ["c", "d"], "neg": [[], bad]}, task="embedding")


def test_columns_that_are_called_as_those_of_triples_are_and_hold_something_else() -> None:
    texts = {"query": [f"one {at}" for at in range(40)], "text": [f"two {at}" for at in range(40)]}
    for more in ({"pos": [3] * 40, "neg": [1] * 40}, {"pos": [["NOUN", "NUM"]] * 40}, {"positive": ["a"] * 40}):
        found = load_data({**texts, **more}, task="embedding").train
        assert (found.texts[0].split()[0], (found.pairs or ("",))[0].split()[0]) == ("one", "two")
    labelled = load_data({**texts, "positive": ["a", "b"] * 20, "label": [0, 1] * 20})
    assert labelled.train.pairs is not None


def test_a_row_need_not_have_a_negative() -> None:
    found = load_data(triples(40, negative=[None, ""] * 20), task="embedding")
    assert len(found.train) + len(found.validation) + len(found.test) == 80


def test_a_column_of_scores_under_another_name_is_not_passed_over_in_silence() -> None:
    found = load_data(pairs([0, 1] * 30, "is_duplicate"), task="embedding")
    assert found.task.metric is Metric.COSINE
    assert "columns not used: is_duplicate (--label names one of scores)" in found.notes
    assert load_data(pairs([0, 1] * 30, "is_duplicate"), task="embedding", label="is_duplicate").task.metric is Metric.SPEARMAN
