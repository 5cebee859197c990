from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest

from prunekit.data import Rows, load_data
from prunekit.data.complete import set_aside
from prunekit.data.splits import divide
from prunekit.errors import DataError, ParameterError
from tests.data.tables import LABELS, TEXTS, labels_of, splits, table, write


def test_missing_splits_are_cut_from_train() -> None:
    alone = load_data(splits(train=40))
    assert alone.provenance["rows"] == {"train": 32, "validation": 4, "test": 4}
    assert alone.notes == ("test: 10% of train, seed 0", "validation: 10% of train, seed 0")
    tested = load_data(splits(train=40, test=6))
    assert tested.provenance["rows"] == {"train": 36, "validation": 4, "test": 6}
    assert tested.notes[0] == "validation: 10% of train, seed 0"
    assert len(tested.notes) == 2
    assert " rows of test are rows of train too" in tested.notes[1]
    validated = load_data(splits(train=40, validation=6))
    assert validated.test.texts == tuple(TEXTS[:6])
    assert validated.provenance["rows"] == {"train": 36, "validation": 4, "test": 6}
    assert validated.notes[0].startswith("test: the validation split as it came")


def test_cuts_are_disjoint_complete_ordered_and_seeded() -> None:
    found = load_data(table(), seed=3)
    parts = [rows.texts for rows in found.splits.values()]
    assert sorted(text for part in parts for text in part) == sorted(TEXTS)
    assert all([TEXTS.index(text) for text in part] == sorted(TEXTS.index(text) for text in part) for part in parts)
    assert load_data(table(), seed=3).provenance == found.provenance
    assert load_data(table(), seed=4).test.texts != found.test.texts


@pytest.mark.parametrize("label", [None, -1])
def test_a_test_split_without_labels_is_not_used(label: int | None) -> None:
    data = splits(train=40, validation=6, test=6)
    data["test"]["label"] = [label] * 6
    found = load_data(data)
    assert found.notes[0] == "test: not used, its rows have no labels"
    assert found.provenance["rows"] == {"train": 36, "validation": 4, "test": 6}
    assert found.test.texts == tuple(TEXTS[:6])
    del data["test"]["label"]
    assert load_data(data).notes[0] == "test: not used, it has no column 'label'"


@pytest.mark.parametrize("cell", ["-1", "-1.0", ""])
def test_what_stands_for_no_label_in_a_file_of_text_is_none(cell: str, tmp_path: Path) -> None:
    for folder, labels in (("classes", LABELS), ("values", [at / 8 for at in range(40)])):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train.csv", {"text": TEXTS, "label": labels})
        write(tmp_path / folder / "validation.csv", {"text": TEXTS[:6], "label": labels[:6]})
        write(tmp_path / folder / "test.csv", {"text": TEXTS[6:12], "label": [cell] * 6})
        for fine_tuned in (False, True):
            found = load_data(tmp_path / folder, fine_tuned=fine_tuned)
            assert found.notes[0] == "test: not used, its rows have no labels"
            assert set(found.test.texts) <= set(TEXTS[:6])
    # Where train has such a class, it is one.
    signs = {"text": TEXTS, "label": [1 - 2 * label for label in LABELS]}
    assert labels_of(load_data({"train": signs, "test": {"text": ["a", "b"], "label": [-1, -1]}}).test) == [0, 0]


def test_a_class_with_nearly_all_rows_is_noted() -> None:
    labels = ["rare" if at in (0, 20) else "usual" for at in range(40)]
    rows = {"train": {"text": TEXTS, "label": labels}, "test": {"text": TEXTS[20:40], "label": labels[20:]}}
    note = "metric: accuracy, of which 'usual' for all rows of test gets 95.0% (--metric f1 counts each class alike)"
    assert note in load_data(rows).notes
    assert not any(note.startswith("metric") for note in load_data(rows, metric="f1").notes)
    assert not any(note.startswith("metric") for note in load_data(table()).notes)


def test_cuts_keep_the_shares_of_classes_and_their_last_rows() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10 + [3], dtype=np.int64)
    rows = Rows(labels=labels, texts=tuple(str(i) for i in range(101)))
    moves = divide(rows, 10, 0, name="test")
    kept, moved = rows.take(np.flatnonzero(~moves)), rows.take(np.flatnonzero(moves))
    assert Counter(labels_of(moved)) == {0: 6, 1: 3, 2: 1}
    assert len(kept) + len(moved) == 101
    assert set(labels_of(kept)) == {0, 1, 2, 3}
    with pytest.raises(DataError, match="2 rows are too few to cut a test split"):
        divide(Rows(labels=np.array([0, 1]), texts=("a", "b")), 1, 0, name="test")


def test_cuts_of_token_tasks_keep_every_tag_in_train() -> None:
    labels = tuple(np.array([0, 1, 0]) if i else np.array([0, 2, 1]) for i in range(30))
    rows = Rows(labels=labels, tokens=tuple(("a", "b", "c") for _ in range(30)))
    for seed in range(20):
        moves = divide(rows, 10, seed, name="test")
        kept, moved = rows.take(np.flatnonzero(~moves)), rows.take(np.flatnonzero(moves))
        assert len(moved) == 10
        assert {0, 1, 2} == {tag for row in labels_of(kept) for tag in row}


def test_half_of_validation_is_set_aside_where_it_is_enough_for_the_loss() -> None:
    rows = [f"row {i} has words of number {i * 7} alone" for i in range(400)]
    given = {"train": {"text": TEXTS[:20], "label": [i % 2 for i in range(20)]}, "validation": {"text": rows, "label": [0, 0, 1, 0] * 100}}
    found = load_data({**given, "test": {"text": TEXTS[:8], "label": [0, 1] * 4}})
    apart = set_aside(found, 0.05, 0)
    assert apart.check is not None
    assert len(apart.validation) == len(apart.check) == 200
    assert sorted((*apart.validation.texts, *apart.check.texts)) == sorted(rows)
    # Classes keep their shares, and the rows their order.
    assert Counter(apart.check.labels.tolist()) == {0: 150, 1: 50}
    assert list(apart.check.texts) == sorted(apart.check.texts, key=rows.index)
    assert set(apart.splits) == {"train", "validation", "test", "check"}
    assert apart.provenance == found.provenance
    assert set_aside(found, 0.05, 0).check.texts == apart.check.texts  # type: ignore[union-attr]
    assert set_aside(found, 0.05, 1).check.texts != apart.check.texts  # type: ignore[union-attr]
    for loss in (0.049, 0.0):
        assert set_aside(found, loss, 0) is found


def test_what_is_set_aside_shares_no_group_and_no_text_with_what_chooses() -> None:
    rows = [f"row {i // 2} has words of number {i // 2 * 7} alone" for i in range(400)]
    people = [i % 50 if i < 200 else None for i in range(400)]
    validation = {"text": rows, "label": [i % 2 for i in range(400)], "who": people}
    other = {"text": TEXTS[:8], "label": [0, 1] * 4, "who": [None] * 8}
    apart = set_aside(load_data({"train": other, "validation": validation, "test": other}, group="who"), 0.1, 0)
    assert apart.check is not None
    assert len(apart.check) > 180
    assert not set(apart.validation.texts) & set(apart.check.texts)
    named = [{name for name in part.groups or () if name is not None} for part in (apart.validation, apart.check)]
    assert not named[0] & named[1]
    assert set.union(*named) == set(range(50))
    # Where all rows are of one group, none can be set aside.
    validation["who"] = ["all"] * 400
    whole = load_data({"train": other, "validation": validation, "test": other}, group="who")
    assert set_aside(whole, 0.1, 0) is whole


def test_rows_of_test_that_choose_are_counted() -> None:
    found = load_data(
        {
            "train": table(20),
            "validation": {name: values[20:30] for name, values in table().items()},
            "test": {name: values[25:35] for name, values in table().items()},
        }
    )
    assert any(note.startswith("5 of 10 rows of test are rows of validation too, by which choices are made") for note in found.notes)


@pytest.mark.parametrize("streamed", ["a dict", "a data set"])
def test_a_stream_is_refused_before_it_is_read(streamed: str) -> None:
    def endless() -> Iterator[dict[str, object]]:
        raise AssertionError("read")
        yield {}

    stream = datasets.IterableDataset.from_generator(endless)
    source = {"train": stream} if streamed == "a dict" else datasets.IterableDatasetDict({"train": stream})
    with pytest.raises(ParameterError, match="A streamed data set has no end"):
        load_data(source)


@pytest.mark.parametrize("stray", ["nan", "x", "1.2.3"])
def test_a_held_out_value_that_is_no_number_is_one_line(stray: str, tmp_path: Path) -> None:
    for name, values in (("train", ["0.5", "1.25"] * 20), ("validation", ["0.5", "1", "2.5"]), ("test", ["0.5", "1.5", stray])):
        rows = "".join(f"text {at} of {name},{value}\n" for at, value in enumerate(values))
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    with pytest.raises(DataError, match=f"of test must hold numbers between .* It holds {stray}"):
        load_data(tmp_path, task="regression")


def test_codes_with_leading_zeros_are_names(tmp_path: Path) -> None:
    rows = "".join(f"text number {at},{at % 3:02d}\n" for at in range(60))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}")
    assert load_data(tmp_path / "rows.csv").task.labels == ("00", "01", "02")


@pytest.mark.parametrize("task", [None, "embedding"])
def test_an_empty_cell_is_no_group(task: str | None, tmp_path: Path) -> None:
    rows = "".join(f"text number {at} of many,{'ab'[at % 2]},{'' if at % 5 < 2 else at}\n" for at in range(100))
    (tmp_path / "rows.csv").write_text(f"text,label,doc\n{rows}")
    found = load_data(tmp_path / "rows.csv", group="doc", task=task)
    held = {text for split in (found.validation, found.test) for text in split.texts}
    assert any(int(text.split()[2]) % 5 < 2 for text in held)


def test_a_group_of_texts_is_a_name_in_every_split() -> None:
    texts = [f"text number {at} of many" for at in range(30)]
    with pytest.raises(DataError, match="holds no name of a group"):
        load_data({"text": texts, "ids": [[at] for at in range(30)]}, group="ids", task="embedding")
    with pytest.raises(DataError, match="The train split has no column 'doc', which names the groups"):
        load_data({"train": {"text": texts}, "test": {"text": texts[:9], "doc": list("abcabcabc")}}, group="doc", task="embedding")


def test_scores_of_a_csv_are_numbers(tmp_path: Path) -> None:
    rows = "".join(f"one text {at},another text {at},{at % 7}.5\n" for at in range(60))
    (tmp_path / "rows.csv").write_text(f"sentence1,sentence2,score\n{rows}")
    assert sorted(set(load_data(tmp_path / "rows.csv", task="embedding").train.labels)) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
