"""Tables as spreadsheets, databases and benchmarks write them: numbers, names and files that are easily read as something else."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pytest

from prunekit.data.load import load_data
from prunekit.errors import DataError
from prunekit.tasks import TaskKind

TEXTS = [f"text number {at}" for at in range(40)]
SCORES = [at % 5 + 0.5 for at in range(40)]


def table(labels: list[Any], **more: Any) -> dict[str, list[Any]]:
    return {"text": TEXTS[: len(labels)], "score": labels, **more}


@pytest.mark.parametrize("written", ["{:.1f}", "{:.1f} ", "{:.0%}"])
@pytest.mark.parametrize("options", [{}, {"task": "regression"}, {"answers": TaskKind.REGRESSION}])
def test_numbers_that_are_written_otherwise_are_no_names(written: str, options: dict[str, Any], tmp_path: Path) -> None:
    scores = [written.format(score).replace(".", ",") for score in SCORES]
    path = tmp_path / "rows.csv"
    path.write_text("text;score\n" + "".join(f"{text};{score}\n" for text, score in zip(TEXTS, scores, strict=True)))
    with pytest.raises(DataError, match=r"'score' of train holds numbers that are not written as such, such as '\S+ ?': write"):
        load_data(path, **options)
    assert load_data(path, task="text-classification").task.labels == tuple(sorted(set(scores)))


@pytest.mark.parametrize("names", [("01", "02"), ("1,5", "a,5"), ("1", "2"), ("10% off", "20% off")])
def test_names_and_codes_stay_classes(names: tuple[str, str]) -> None:
    assert load_data(table([names[at % 2] for at in range(40)])).task.labels == names


def test_names_that_a_data_set_declares_are_names() -> None:
    names = ["10%", "20%"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [at % 2 for at in range(len(TEXTS))]}, features=features)
    assert load_data(rows).task.labels == tuple(names)


def test_decimals_of_a_database_are_numbers() -> None:
    found = load_data(table([Decimal(str(score)) for score in SCORES]))
    assert found.task.kind is TaskKind.REGRESSION
    assert set(found.train.labels) <= set(SCORES)


def test_numbers_of_train_may_be_text_elsewhere() -> None:
    other = {"text": ["one", "two"], "score": ["1", "0"]}
    found = load_data({"train": table([0, 1] * 20), "validation": table([0, 1]), "test": other})
    assert found.test.labels.tolist() == [1, 0]


def test_names_that_differ_in_case_or_white_space_alone_are_said() -> None:
    notes = load_data(table(["good", "good ", "bad", "Good"] * 10)).notes
    assert "labels: Good, good, 'good ' are classes of their own, and differ in case or white space alone" in notes
    assert not any("white space alone" in note for note in load_data(table(["good", "bad"] * 20)).notes)


def test_files_that_are_no_splits_are_named(tmp_path: Path) -> None:
    for name in ("train", "holdout", "dev_matched", "dev_mismatched"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{text},{at % 2}\n" for at, text in enumerate(TEXTS)))
    found = load_data(tmp_path)
    assert found.notes[0] == "not read, no names of splits: dev_mismatched, holdout"
    assert len(found.test) == 40  # dev_matched, as GLUE's own archive calls it


def test_a_file_in_another_encoding_is_refused_with_a_cure(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text;label\ncafé;a\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"cannot be read as CSV: 'utf-8' codec .*\. Save it as UTF-8"):
        load_data(path)
    path.write_text("text;label\ncafé;a\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"or convert it: iconv -f UTF-16 -t UTF-8\.$"):
        load_data(path)


def test_columns_with_blanks_in_their_names_are_shown_as_they_are() -> None:
    with pytest.raises(DataError, match=r"Name one of text, ' label', '': --label"):
        load_data({"text": TEXTS, " label": [0, 1] * 20, "": TEXTS})


@pytest.mark.parametrize("mark", [",", "; ", "|"])
def test_names_that_are_joined_in_one_text_are_no_label(mark: str) -> None:
    cells = [mark.join(names) for names in (("a", "b"), ("b", "c"), ("a", "c"), ("a", "b", "c"), ("b",))]
    with pytest.raises(DataError, match=r"holds several names in one text, such as 'a.+b'\. Give a list .*: \[\"a\", \"b\"\]\.$"):
        load_data(table(cells * 8), task="multi-label-classification")
    names = ("one", "two, or more")
    assert load_data(table([names[at % 2] for at in range(40)]), task="multi-label-classification").task.labels == names


@pytest.mark.parametrize("names", [("data",), ("train", "test")])
def test_lists_of_objects_by_name_are_no_columns(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({name: [{"text": text, "label": at % 2} for at, text in enumerate(TEXTS)] for name in names}))
    with pytest.raises(
        DataError, match=rf"lists of objects by name \({', '.join(names)}\): write each to a file of its own, as train\.json"
    ):
        load_data(path)
