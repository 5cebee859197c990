"""How labels are read: as values, as names, as those of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from prunekit.data import load_data
from prunekit.errors import DataError
from prunekit.metrics import Metric
from prunekit.tasks import Task, TaskKind
from tests.data.tables import LABELS, TEXTS


def test_a_model_of_one_value_reads_whole_numbers_as_values() -> None:
    rows = {"text": TEXTS, "rating": [1 + at % 5 for at in range(40)]}
    assert load_data(rows).task.kind is TaskKind.CLASSIFICATION
    assert load_data(rows, answers=TaskKind.REGRESSION).task.kind is TaskKind.REGRESSION
    named = {"text": TEXTS, "rating": ["ab"[at % 2] for at in range(40)]}
    assert load_data(named, answers=TaskKind.REGRESSION).task.kind is TaskKind.CLASSIFICATION


@pytest.mark.parametrize(("count", "options", "noted"), [(20, {}, True), (19, {}, False), (20, {"task": "text-classification"}, False)])
def test_many_whole_numbers_are_said_to_be_classes(count: int, options: dict[str, str], noted: bool) -> None:
    rows = {"text": [f"{text} {more}" for text in TEXTS for more in range(4)], "label": [at % count for at in range(160)]}
    note = "labels: 20 whole numbers are taken for classes (--task regression takes them for values)"
    assert (note in load_data(rows, **options).notes) is noted


def test_a_label_of_the_model_need_not_be_in_train() -> None:
    rows = {"train": {"text": TEXTS[:20], "label": list("ab" * 10)}, "test": {"text": TEXTS[20:26], "label": list("abcabc")}}
    assert load_data(rows, labels=("a", "b", "c"), fine_tuned=True).task.labels == ("a", "b", "c")
    with pytest.raises(DataError, match=r"label 'c' of test .* is in no row of train"):
        load_data(rows)


def test_columns_of_the_models_own_labels_are_read() -> None:
    rows = {"comment": TEXTS, "toxic": [at % 2 for at in range(40)], "threat": [int(at % 3 == 0) for at in range(40)]}
    found = load_data(rows, text="comment", labels=("toxic", "threat"), task="multi-label-classification", answers=TaskKind.LABELS)
    assert found.labelled
    assert found.task.labels == ("toxic", "threat")


@pytest.mark.parametrize("flag", [int, float, bool])
def test_lists_of_0_and_1_are_the_labels_of_their_places(flag: type) -> None:
    hot = [[flag(at % 2), flag(at % 3 == 0), flag(at % 2 == 0)] for at in range(40)]
    for given in ({}, {"labels": ("x", "y", "z"), "answers": TaskKind.LABELS, "task": "multi-label-classification"}):
        found = load_data({"text": TEXTS, "labels": hot}, **given)
        assert found.task == Task(TaskKind.LABELS, Metric.MICRO_F1, given.get("labels", ("0", "1", "2")))
        for rows in found.splits.values():
            assert rows.labels.tolist() == [[bool(value) for value in hot[TEXTS.index(text)]] for text in rows.texts]
    either = load_data({"text": TEXTS, "labels": [[flag(label), flag(1 - label)] for label in LABELS]})
    assert either.train.labels.sum(axis=1).tolist() == [1] * len(either.train)
    with pytest.raises(DataError, match=r"Row 2 of test must hold 3 numbers, 0 or 1, in column 'labels'"):
        load_data({"train": {"text": TEXTS, "labels": hot}, "test": {"text": TEXTS[:2], "labels": [hot[0], hot[1][:2]]}})
    with pytest.raises(DataError, match=r"holds 3 numbers, 0 or 1, in each row, the model has 4 labels"):
        load_data({"text": TEXTS, "labels": hot}, labels=tuple("wxyz"), answers=TaskKind.LABELS, task="multi-label-classification")
    # Lists of ids differ in length, or hold others.
    assert load_data({"text": TEXTS, "labels": [[0, 1][: 1 + label] for label in LABELS]}).train.labels[:, 0].all()


def test_columns_beside_texts_without_labels_are_named() -> None:
    rows = {"text": TEXTS, "airline_sentiment": ["ab"[label] for label in LABELS]}
    found = load_data(rows, labels=("a", "b"), answers=TaskKind.CLASSIFICATION, fine_tuned=True)
    assert "columns not used: airline_sentiment (--label and --tags name one of labels)" in found.notes


def test_a_model_without_names_is_told_where_they_go() -> None:
    rows = {"text": TEXTS, "label": [1 + at % 5 for at in range(40)]}
    with pytest.raises(DataError, match=r"write the data's names into id2label of its config\.json"):
        load_data(rows, labels=[f"LABEL_{at}" for at in range(5)])


def test_a_class_that_another_split_spells_otherwise_is_read_or_refused() -> None:
    names = datasets.ClassLabel(names=["neg", "pos"])
    train = datasets.Dataset.from_dict({"text": TEXTS[:20], "label": [at % 2 for at in range(20)]}).cast_column("label", names)

    def held(*labels: str) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"text": TEXTS[20:26], "label": [*labels] * 3})

    given = {"labels": ("neg", "pos"), "fine_tuned": True}
    found = load_data({"train": train, "validation": held("Neg", "Pos"), "test": held("neg", "pos")}, **given)
    assert found.validation.labels.tolist() == found.test.labels.tolist() == [0, 1] * 3
    with pytest.raises(DataError, match="does not fit the model"):
        load_data({"train": train, "test": held("neg", "neutral")}, **given)


def test_texts_that_are_stored_as_json_are_decoded() -> None:
    rows = {"text": [f'he said "{text}" é' for text in TEXTS], "label": [*map(str, LABELS)]}
    # The library has the type from version 5 on; before, the texts are plain ones.
    kind = datasets.Json() if hasattr(datasets, "Json") else datasets.Value("string")
    features = datasets.Features({"text": kind, "label": datasets.Value("string")})
    found = load_data(datasets.Dataset.from_dict(rows, features=features))
    assert set(found.train.texts) <= set(rows["text"])


@pytest.mark.parametrize("kind", ["regression", None])
def test_values_may_have_zeros_before_them(kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"text number {at},0{at % 5}.5\n" for at in range(60)))
    found = load_data(tmp_path / "rows.csv", task=kind, answers=None if kind else TaskKind.REGRESSION)
    assert found.task.kind is TaskKind.REGRESSION
    assert sorted(set(found.train.labels)) == [0.5, 1.5, 2.5, 3.5, 4.5]


def test_a_code_is_not_the_number_that_it_reads_as() -> None:
    held = {"text": TEXTS[20:26], "label": ["01", "2"] * 3}
    rows = {"train": {"text": TEXTS[:20], "label": ["1", "2"] * 10}, "test": held}
    with pytest.raises(DataError, match=r"'01' of test .* is in no row of train"):
        load_data(rows)


def test_placeholders_have_a_column_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,(no labels)\n" + "a b,c\n" * 30)
    with pytest.raises(DataError, match=r"has a column '\(no labels\)': give it another name"):
        load_data(tmp_path / "rows.csv", labels=("a", "b"), answers=TaskKind.CLASSIFICATION)


@pytest.mark.parametrize("written", [int, str, float, bool, lambda flag: [flag]])
def test_a_head_of_one_label_is_answered_by_yes_and_no(written: Callable[[int], Any]) -> None:
    table = {"text": TEXTS, "label": [written(at % 2) for at in range(40)]}
    found = load_data(table, task="multi-label-classification", labels=("LABEL_0",), fine_tuned=True, answers=TaskKind.LABELS)
    assert (found.task.labels, found.task.outputs, found.task.many) == (("LABEL_0",), 1, True)
    flags = {text: bool(at % 2) for at, text in enumerate(TEXTS)}
    for rows in found.splits.values():
        assert np.asarray(rows.labels)[:, 0].tolist() == [flags[text] for text in rows.texts or ()]


def test_zeros_and_ones_that_are_compared_as_values_are_noted() -> None:
    for labels, noted in (([0, 1] * 20, True), ([0, 1, 2, 3] * 10, False), (["no", "yes"] * 20, False)):
        found = load_data({"text": TEXTS, "label": labels}, fine_tuned=True, answers=TaskKind.REGRESSION)
        assert any("0 and 1 are compared as values" in note for note in found.notes) == noted


def test_a_head_of_one_label_that_no_row_has_is_refused() -> None:
    table = {"text": TEXTS, "label": [0] * 40}
    with pytest.raises(DataError, match=r"shows no label at all: no row has 'LABEL_0'"):
        load_data(table, task="multi-label-classification", labels=("LABEL_0",), fine_tuned=True, answers=TaskKind.LABELS)
