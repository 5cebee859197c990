"""Lists and objects in the cells of CSV files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from prunekit.data.cells import parsed, with_lists
from prunekit.data.columns import is_list
from prunekit.data.load import load_data
from prunekit.errors import DataError
from prunekit.tasks import TaskKind


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("write", [json.dumps, str])
@pytest.mark.parametrize(("one", "other"), [(["glad"], ["sad", "angry"]), ([0], [1, 2])])
def test_labels_that_are_the_text_of_lists_are_lists(tmp_path: Path, write: Any, one: list[Any], other: list[Any]) -> None:
    rows = [{"text": f"text {at}", "labels": write(one if at % 2 else other)} for at in range(60)]
    found = load_data(table(tmp_path / "rows.csv", rows))
    assert found.task.kind is TaskKind.LABELS
    assert len(found.task.labels) == 3
    # Under another name, too.
    renamed = [{"text": row["text"], "moods": row["labels"]} for row in rows]
    assert load_data(table(tmp_path / "named.csv", renamed), label="moods").task.kind is TaskKind.LABELS


def test_words_and_tags_that_are_the_text_of_lists_are_lists(tmp_path: Path) -> None:
    rows = [{"tokens": json.dumps(["Ada", f"spoke{at}"]), "ner_tags": json.dumps(["B-PER", "O"])} for at in range(60)]
    found = load_data(table(tmp_path / "rows.csv", rows))
    assert found.task.kind is TaskKind.TOKENS
    assert found.train.tokens[0][0] == "Ada"


def test_what_is_not_the_text_of_a_list_stays_a_name(tmp_path: Path) -> None:
    for names in (("[x]", "[y]"), ("[1.5]", "[2.5]"), ("[['a']]", "[['b']]"), ('["a"]', "b")):
        rows = [{"text": f"text {at}", "label": names[at % 2]} for at in range(60)]
        found = load_data(table(tmp_path / "rows.csv", rows))
        assert (found.task.kind, set(found.task.labels)) == (TaskKind.CLASSIFICATION, set(names))


def test_an_empty_cell_among_lists_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"text {at}", "labels": json.dumps(["glad", "sad"][: 1 + at % 2])} for at in range(60)]
    rows[6]["labels"] = ""
    with pytest.raises(DataError, match="Row 7 of train has no list"):
        load_data(table(tmp_path / "rows.csv", rows))


def test_numbers_that_fit_into_no_column_stay_text(tmp_path: Path) -> None:
    rows = [{"text": f"text {at}", "target": f"[{2**64 + at % 2}]"} for at in range(60)]
    assert load_data(table(tmp_path / "rows.csv", rows)).task.kind is TaskKind.CLASSIFICATION


def test_tags_of_texts_are_no_tags_of_words(tmp_path: Path) -> None:
    rows = [{"text": f"text {at}", "tags": "['python', 'ml']", "label": "ab"[at % 2]} for at in range(60)]
    found = with_lists(Dataset.from_list(rows), [], "train")
    assert not is_list(found, "tags")
    assert is_list(with_lists(Dataset.from_list([{"words": "['a', 'b']", "tags": "['X', 'Y']"}]), [], "train"), "tags")


@pytest.mark.parametrize(
    "text",
    [
        "['EU' 'rejects' 'German']",
        "['EU'\n 'rejects']",
        "",
        "[",
        "[1",
        "[__import__('os')]",
        "[" * 500 + "]" * 500,
        "{'a': array([1])}",
        "[1, 2",
        "f()",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert parsed(text) == text


@pytest.mark.parametrize("write", [json.dumps, str])
def test_answers_that_are_the_text_of_an_object(tmp_path: Path, write: Any) -> None:
    rows = [
        {"question": f"Where is {at}?", "context": f"It is in London {at}.", "answers": write({"text": ["London"], "answer_start": [9]})}
        for at in range(40)
    ]
    found = load_data(table(tmp_path / "rows.csv", rows))
    assert found.task.kind is TaskKind.QUESTIONS
    assert found.test.references[0].texts == ("London",)
    rows[3]["answers"] = "{'text': array(['London'], dtype=object)}"
    with pytest.raises(DataError, match=r"Row 4 of train .* holds text that is neither JSON nor a Python literal, \"{'text': array"):
        load_data(table(tmp_path / "rows.csv", rows))
