"""Data and labels through the whole line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunekit.errors import DataError
from prunekit.metrics import Metric
from prunekit.pipeline.compress import Result, compress, run
from prunekit.pipeline.early import Sources
from prunekit.recipe import Recipe
from tests import lines


def rows_of(name: str, split: str) -> list[dict[str, object]]:
    return [json.loads(text) for text in (lines.data(name) / f"{split}.jsonl").read_text().splitlines()]


def test_swapped_labels_stop_the_line_and_leave_nothing(tmp_path: Path) -> None:
    swapped = {
        split: {"text": [row["text"] for row in rows], "label": [1 - row["label"] for row in rows]}  # type: ignore[operator]
        for split in lines.ROWS
        for rows in [rows_of("text", split)]
    }
    with pytest.raises(DataError, match="not in the order of the model's classes"):
        compress(lines.checkpoint("sequence"), swapped, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A token task of BIO tags whose rows are in memory, some cut."""
    names = {"LABEL_0": "O", "LABEL_1": "B-X", "LABEL_2": "I-X"}
    data = {
        split: ([row["tokens"] for row in rows], [[names[tag] for tag in row["tags"]] for row in rows])  # type: ignore[attr-defined]
        for split in lines.ROWS
        for rows in [rows_of("tokens", split)]
    }
    with lines.quick():
        asked: dict[str, Any] = {"keep": "40%", "max_length": 6, "recover": "none", "dtype": "fp32"}
        return compress(lines.checkpoint("base"), data, out=tmp_path_factory.mktemp("tagged") / "out", **asked)


def test_entities_are_scored_on_every_word(tagged: Result) -> None:
    report = tagged.report
    assert report.metric is Metric.ENTITY_F1
    words = sum(len(row["tokens"]) for row in rows_of("tokens", "test"))  # type: ignore[arg-type]
    assert {row.n for row in report.rows} == {words}
    assert all(row.words is not None and row.low <= row.value <= row.high for row in report.rows)
    assert any("count as wrong" in note for note in report.notes)
    assert any("the tags are BIO" in note for note in report.notes)


def test_data_in_memory_is_named_by_its_fingerprint_and_needed_again(tagged: Result, tmp_path: Path) -> None:
    assert tagged.report.data.startswith("data in memory (sha256 ")
    recipe = Recipe.load(tagged.path / "recipe.yaml")
    assert recipe.data is not None
    assert recipe.data.startswith("memory:")
    with pytest.raises(DataError, match="was in memory"):
        run(recipe, out=tmp_path / "again")
    other = {"text": [f"ba du {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    with pytest.raises(DataError, match="was made on other rows in memory"):
        run(recipe, out=tmp_path / "again", sources=Sources(other))
