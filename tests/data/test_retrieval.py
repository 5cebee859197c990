"""Queries, a corpus and judgements, as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunekit.data import retrieval
from prunekit.data.retrieval import read_retrieval
from prunekit.errors import DataError

CORPUS = [
    {"_id": "d1", "title": "Wings", "text": "of birds"},
    {"_id": "d2", "title": "", "text": "tables"},
    {"_id": "d3", "text": "chairs"},
]
QUERIES = [{"_id": "q1", "text": "what flies"}, {"_id": "q2", "text": "what stands"}, {"_id": "q3", "text": "nobody knows"}]
QRELS = [
    {"query-id": "q2", "corpus-id": "d3", "score": 1},
    {"query-id": "q2", "corpus-id": "d2", "score": 2},
    {"query-id": "q1", "corpus-id": "d1", "score": 1},
    {"query-id": "q3", "corpus-id": "d1", "score": 0},
]


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in {"corpus": CORPUS, "queries": QUERIES, "qrels": QRELS, **changes}.items():
        if rows is not None:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_what_is_read(tmp_path: Path) -> None:
    found = read_retrieval(write(tmp_path))
    assert found.documents == ("Wings of birds", "tables", "chairs")
    # A query for which nothing is relevant says nothing of a search.
    assert found.queries == ("what flies", "what stands")
    assert list(zip(found.query.tolist(), found.document.tolist(), found.grade.tolist(), strict=True)) == [(0, 0, 1), (1, 1, 2), (1, 2, 1)]


def test_the_layout_of_beir(tmp_path: Path) -> None:
    write(tmp_path, qrels=None)
    (tmp_path / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(str(value) for value in row.values()) for row in QRELS)]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    found, plain = read_retrieval(tmp_path), read_retrieval(write(tmp_path / "plain"))
    assert found.queries == plain.queries
    np.testing.assert_array_equal(found.grade, plain.grade)


def test_positions_count_from_the_best_and_without_grades_all_are_relevant(tmp_path: Path) -> None:
    rows = [{"query": "q1", "document": "d1", "position": 1}, {"query": "q1", "document": "d2", "position": 4}]
    assert read_retrieval(write(tmp_path / "a", qrels=rows)).grade.tolist() == [4.0, 1.0]
    bare = [{name: value for name, value in row.items() if name != "position"} for row in rows]
    assert read_retrieval(write(tmp_path / "b", qrels=bare)).grade.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corpus": None}, "has no file of corpus"),
        ({"corpus": [{"_id": "d1"}]}, "has none of the columns text, query"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "has 'd1' twice, in row 4 again"),
        ({"corpus": [*CORPUS, {"_id": None, "text": "stools"}]}, "Row 4 of .* has no '_id'"),
        ({"corpus": [{"_id": "d1", "text": 5}]}, "Row 1 of .* has no text in 'text'"),
        ({"queries": [{"_id": "q1", "text": " "}]}, "Row 1 of .* is empty"),
        ({"qrels": [{"query-id": "q9", "corpus-id": "d1"}]}, "Row 1 of .* judges 'q9', which is not in queries"),
        ({"qrels": [{"query-id": "q1", "corpus-id": "d9"}]}, "Row 1 of .* judges 'd9', which is not in corpus"),
        ({"qrels": [{**QRELS[0], "score": "very"}]}, "Row 1 of .* has the grade 'very'"),
        ({"qrels": [{**QRELS[0], "score": "1_0"}]}, "Row 1 of .* has the grade '1_0'"),
        ({"qrels": [{**QRELS[0], "score": "\u0661"}]}, "Row 1 of .* has the grade"),
        ({"qrels": [{**QRELS[0], "score": -1}]}, "Row 1 of .* has the grade '-1'"),
        ({"qrels": [{**QRELS[0], "score": 1e9}]}, "Row 1 of .* has the grade"),
        ({"qrels": [{"query": "q1", "document": "d1", "position": 0}]}, "has the position '0': it must be a number from 1 to 100"),
        ({"qrels": [QRELS[0], {**QRELS[0], "score": 3}]}, "Row 2 of .* judges a document anew"),
        ({"qrels": [QRELS[3]]}, "No query of .* has a relevant document"),
        ({"qrels": []}, "is empty"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says) as found:
        read_retrieval(write(tmp_path, **changes))
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 500


def test_more_than_can_be_searched_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "DOCUMENTS", 2)
    with pytest.raises(DataError, match="has 3 documents, more than the 2 that are read"):
        read_retrieval(write(tmp_path))


def test_what_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no directory: it needs corpus, queries and qrels"):
        read_retrieval(tmp_path / "none")
