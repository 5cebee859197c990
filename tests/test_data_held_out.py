"""What is judged was not learned from, and labels mean what the model means by them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prunekit.data import Rows, load_data
from prunekit.data.duplicates import groups_of, normalised
from prunekit.data.order import check_order
from prunekit.errors import DataError, ParameterError

TEXTS = [f"row {i} has words of number {i * 7} alone" for i in range(120)]
LABELS = [i % 3 for i in range(120)]


def held(n: int, at: int = 0) -> dict[str, list[Any]]:
    return {"text": TEXTS[at : at + n], "label": LABELS[at : at + n]}


# --- splits


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_fine_tuned_model_is_judged_on_halves_of_what_it_was_not_trained_on(name: str) -> None:
    found = load_data({"train": held(60), name: held(40, 60)}, fine_tuned=True)
    assert found.train.texts == tuple(TEXTS[:60])
    assert sorted(found.validation.texts + found.test.texts) == sorted(TEXTS[60:100])
    assert len(found.validation) == len(found.test) == 20
    assert found.notes[0].startswith(f"validation and test: halves of the {name} split")


def test_a_fine_tuned_model_with_its_train_split_alone_is_refused_and_a_table_is_not() -> None:
    with pytest.raises(DataError, match="a train split alone, on which a fine-tuned model may have been trained"):
        load_data({"train": held(60)}, fine_tuned=True)
    assert any("the model is fine-tuned" in note for note in load_data(held(60), fine_tuned=True).notes)
    assert len(load_data({"train": held(60)}).test) == 6


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_say_the_same_stay_on_one_side_of_every_cut(seed: int) -> None:
    texts = [*TEXTS[:60], *(text.upper() + "!" for text in TEXTS[:60]), *(" ".join(text.split()[2:7]) for text in TEXTS[:60])]
    found = load_data({"text": texts, "label": LABELS[:60] * 3}, seed=seed)
    whole = {split: {normalised(text) for text in rows.texts} for split, rows in found.splits.items()}
    assert len(set().union(*whole.values())) == sum(map(len, whole.values()))
    for split, others in whole.items():
        inside = {f" {text} " for other, rows in whole.items() if other != split for text in rows}
        assert not [text for text in others if len(text.split()) >= 4 and any(f" {text} " in row for row in inside)]


def test_phrases_are_found_as_a_slow_search_finds_them() -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("ab"), size=generator.integers(3, 12))) for _ in range(60)]
    found = groups_of(Rows(labels=np.zeros(60, dtype=np.int64), texts=tuple(texts)))
    joined = np.eye(60, dtype=bool)
    for a, first in enumerate(texts):
        for b, second in enumerate(texts):
            joined[a, b] |= first == second or (len(first.split()) >= 4 and f" {first} " in f" {second} ")
    joined |= joined.T
    for _ in range(6):
        joined = joined @ joined
    assert np.array_equal(found[:, None] == found[None], joined)


def test_a_pair_is_the_same_in_any_order_and_other_pairs_are_not() -> None:
    rows = Rows(labels=np.zeros(3, dtype=np.int64), texts=("a b", "C d", "a b"), pairs=("c d.", "A b", "e"))
    assert groups_of(rows).tolist() == [0, 0, 2]


@pytest.mark.parametrize("kind", ["classes", "values", "words"])
def test_named_groups_stay_together(kind: str) -> None:
    names = [i // 4 for i in range(120)]
    columns: dict[str, list[Any]] = {"text": TEXTS, "label": [i + 0.5 for i in range(120)] if kind == "values" else LABELS}
    if kind == "words":
        columns = {"tokens": [text.split() for text in TEXTS], "tags": [["XY"[i % 2]] * len(text.split()) for i, text in enumerate(TEXTS)]}
    found = load_data({**columns, "file": names}, group="file")
    of = {text: name for text, name in zip(TEXTS, names, strict=True)}
    seen = [{of[" ".join(rows.tokens[at]) if rows.tokens else rows.texts[at]] for at in range(len(rows))} for rows in found.splits.values()]
    assert sum(map(len, seen)) == len(set(names))
    assert all(4 <= len(found.splits[split]) <= 12 for split in ("validation", "test"))
    assert "columns not used: file" not in found.notes


def test_splits_that_share_a_group_are_refused_and_so_is_a_group_that_is_no_column() -> None:
    with pytest.raises(DataError, match="The group 'x' has rows in train and in test"):
        load_data({"train": {**held(20), "g": ["x"] * 20}, "test": {**held(20, 20), "g": ["x"] * 20}}, group="g")
    with pytest.raises(ParameterError, match="'group' parameter"):
        load_data(held(20), group="nope")


# --- the order of the classes


def answers(labels: np.ndarray, classes: int, right: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    said = np.where(generator.random(len(labels)) < right, labels, generator.integers(classes, size=len(labels)))
    return np.eye(classes)[said]


NAMES = [f"c{i}" for i in range(20)]


@pytest.mark.parametrize(("classes", "right"), [(2, 0.8), (3, 0.7), (3, 0.95), (20, 0.9)])
def test_a_permutation_is_found_whatever_it_is(classes: int, right: float) -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        labels = generator.integers(classes, size=400)
        outputs = answers(labels, classes, right, seed)
        assert "no other order" in check_order(outputs, labels, NAMES[:classes])
        order = np.roll(np.arange(classes), 1)
        with pytest.raises(DataError, match=r"not in the order of the model's classes: it is right in .*id2label"):
            check_order(outputs, order[labels], NAMES[:classes])


def test_two_swapped_classes_of_an_imbalanced_task_are_found() -> None:
    labels = (np.random.default_rng(0).random(500) < 0.05).astype(np.int64)
    with pytest.raises(DataError, match="'c0' where the model says 'c1'"):
        check_order(answers(labels, 2, 0.97), 1 - labels, NAMES[:2])


def test_models_that_know_nothing_are_not_taken_for_permuted() -> None:
    wrong = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        labels = (generator.random(300) < 0.7).astype(np.int64)
        outputs = np.eye(2)[np.zeros(300, dtype=np.int64) if seed % 2 else generator.integers(2, size=300)]
        try:
            check_order(outputs, labels, NAMES[:2], seed=seed)
        except DataError:
            wrong += 1
    assert wrong <= 1


def test_words_of_one_row_are_not_rows() -> None:
    # Three rows of a hundred words each say nothing, however many words they have.
    labels = np.tile([0, 1], 150)
    said = check_order(np.eye(2)[1 - labels], labels, NAMES[:2], starts=np.array([0, 100, 200, 300]))
    assert "3 rows are too few" in said


def test_names_are_matched_before_ids() -> None:
    model = ("contradiction", "Entail-Ment", "neutral")
    data = {"text": TEXTS, "label": [("entail_ment", "neutral", "contradiction")[i] for i in LABELS]}
    found = load_data(data, labels=model)
    by_text = dict(zip(TEXTS, data["label"], strict=True))
    wanted = {"entail_ment": 1, "neutral": 2, "contradiction": 0}
    assert [wanted[by_text[text]] for text in found.train.texts] == list(found.train.labels)


# --- data in memory


def test_what_is_in_memory_is_one_data_set() -> None:
    columns = held(60)
    frame = pd.DataFrame(columns)
    sources = [columns, frame, (TEXTS[:60], LABELS[:60]), {"text": np.array(TEXTS[:60]), "label": np.array(LABELS[:60])}, {"train": frame}]
    found = [load_data(source).provenance for source in sources]
    assert {one["sha256"] for one in found} == {found[0]["sha256"]}
    assert {one["source"] for one in found} == {"data in memory"}


def test_a_recipe_of_data_in_memory_refuses_to_run_without_it() -> None:
    with pytest.raises(DataError, match=r"was in memory \(sha256 abcdef\): give the same rows"):
        load_data("memory:abcdef")


# --- bounds and hostile files


@pytest.mark.parametrize("text", ["null", "[null]", "3", '"x"', "[" * 100_000, "null\nnull", '[{"text": "\\ud800", "label": 1}]'])
def test_json_that_is_no_table(text: str, tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="cannot be read as JSON") as caught:
            load_data(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_header_of_semicolons_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\n" + "".join(f"{text}, and;{label}\n" for text, label in zip(TEXTS, LABELS, strict=True)))
    assert load_data(tmp_path / "a.csv").train.texts[0].endswith(", and")


def test_bounds_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(100_000)) + "\n")
    with pytest.raises(DataError, match="more than 1,000 columns"):
        load_data(tmp_path / "a.csv")
    with pytest.raises(DataError, match="beyond 1e\\+12, such as '1e\\+308'"):
        load_data({"text": TEXTS, "label": [1e308, *map(float, LABELS[1:])]})
    with pytest.raises(DataError, match="2,000 classes, more than the 1,500"):
        load_data({"text": [f"a {i}" for i in range(6000)], "label": [f"c{i % 2000}" for i in range(6000)]})
    with pytest.raises(DataError, match="names of more than 256 characters"):
        load_data({"text": TEXTS, "label": ["x" * 257, *map(str, LABELS[1:])]})
    with pytest.raises(DataError, match="more than 1,000,000 characters in 1 row"):
        load_data({"text": ["x" * 1_000_001, *TEXTS[1:]], "label": LABELS})
    with pytest.raises(DataError, match="one tag a word is needed"):
        load_data({"tokens": [["a", "b"]] * 4, "tags": [[["X"], ["Y"]]] * 4})


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    for source in (tmp_path / "a.csv", Path("/dev/zero")):
        with pytest.raises(DataError, match="neither a file nor a directory"):
            load_data(source)
    for name in ("~nosuchuser/x.csv", "/" + "x" * 5000):
        with pytest.raises(DataError, match="cannot be read"):
            load_data(name)
