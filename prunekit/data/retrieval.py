"""Queries, a corpus and relevance judgements, on which an embedder is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.columns import read_columns
from prunekit.data.files import SUFFIXES, read_table
from prunekit.data.labels import as_number
from prunekit.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

#: More is refused: every query is compared with every document. docs/limits.md has them.
DOCUMENTS, QUERIES = 200_000, 20_000
_IDS = ("_id", "id", "doc_id", "document_id", "query_id", "qid")
_TEXTS = ("text", "query", "question", "content", "body")
_OF_QUERY = ("query-id", "query_id", "query", "qid")
_OF_DOCUMENT = ("corpus-id", "corpus_id", "document", "document_id", "doc_id", "docid")
_GRADES = ("score", "relevance", "grade", "label")
_POSITION = "position"


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Queries, documents and relevance judgements.

    Attributes
    ----------
    queries, documents : tuple of str
        Only queries that have a relevant document; documents with their title in front.
    query, document : int64 ndarray of shape (judgements,)
        Of each judgement, the index of its query, ascending, and of its document.
    grade : float64 ndarray of shape (judgements,)
        Relevance, 0 or more.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    query: NDArray[np.int64]
    document: NDArray[np.int64]
    grade: NDArray[np.float64]


def read_retrieval(place: str | Path) -> Retrieval:
    """Read a directory as BEIR lays it out: ``corpus``, ``queries`` and ``qrels`` (or ``qrels/test``), each CSV, TSV, JSONL or Parquet.

    Corpus: ``_id`` (or ``id``), ``text``, and ``title`` where there is one. Queries: ``_id``, ``text``. Judgements: ``query-id``,
    ``corpus-id``, and ``score``, the grade (all are 1 without it); or ``position``, of which 1 is the best.

    Raises
    ------
    DataError
        Something that is missing, duplicate or too large, and judgements of unknown queries or documents, in one line.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise DataError(f"The retrieval data {str(place)!r} is no directory: it needs corpus, queries and qrels.")
    documents = _texts(_file(folder, "corpus"), "documents", DOCUMENTS)
    queries = _texts(_file(folder, "queries"), "queries", QUERIES)
    judgements = _judgements(_file(folder, "qrels"), list(queries), list(documents))
    relevant = {query for query, _, grade in judgements if grade > 0}
    if not relevant:
        raise DataError(f"No query of {str(place)!r} has a relevant document: there is nothing to find.")
    kept = {number: at for at, number in enumerate(sorted(relevant))}
    ordered = sorted((kept[query], document, grade) for query, document, grade in judgements if query in kept)
    texts = list(queries.values())
    return Retrieval(
        queries=tuple(texts[number] for number in kept),
        documents=tuple(documents.values()),
        query=np.array([query for query, _, _ in ordered], dtype=np.int64),
        document=np.array([document for _, document, _ in ordered], dtype=np.int64),
        grade=np.array([grade for _, _, grade in ordered], dtype=np.float64),
    )


def _file(folder: Path, name: str) -> Path:
    """Return the file of a name; of judgements also that of test in a folder of their own."""
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    if name == "qrels":
        paths += [folder / name / f"test{suffix}" for suffix in SUFFIXES]
    files = [path for path in paths if path.is_file()]
    if len(files) != 1:
        count = "no" if not files else "more than one"
        raise DataError(f"The retrieval data {str(folder)!r} has {count} file of {name}: it needs one, such as {name}.jsonl.")
    return files[0]


def _texts(path: Path, kind: str, most: int) -> dict[str, str]:
    table = read_table(path)
    if len(table) > most:
        raise DataError(f"{str(path)!r} has {len(table):,} {kind}, more than the {most:,} that are read: give fewer.")
    key, text = _column(table, _IDS, path), _column(table, _TEXTS, path)
    title = "title" if "title" in table.column_names else None
    columns = read_columns(table, [name for name in (key, text, title) if name is not None], str(path))
    texts: dict[str, str] = {}
    for row, name in enumerate(columns[key], 1):
        if name is None:
            raise DataError(f"Row {row} of {str(path)!r} has no {key!r}.")
        parts = [columns[column][row - 1] for column in (title, text) if column is not None]
        if any(part is not None and not isinstance(part, str) for part in parts):
            raise DataError(f"Row {row} of {str(path)!r} has no text in {text!r}.")
        content = " ".join(part.strip() for part in parts if part)
        if str(name) in texts:
            raise DataError(f"{str(path)!r} has {str(name)[:100]!r} twice, in row {row} again: each of the {kind} needs an id of its own.")
        if not content and kind == "queries":
            raise DataError(f"Row {row} of {str(path)!r} is empty.")
        texts[str(name)] = content
    return texts


def _judgements(path: Path, queries: Sequence[str], documents: Sequence[str]) -> list[tuple[int, int, float]]:
    table = read_table(path)
    query, document = _column(table, _OF_QUERY, path), _column(table, _OF_DOCUMENT, path)
    graded = next((name for name in (*_GRADES, _POSITION) if name in table.column_names), None)
    columns = read_columns(table, [name for name in (query, document, graded) if name is not None], str(path))
    numbers = {name: {key: at for at, key in enumerate(known)} for name, known in ((query, queries), (document, documents))}
    what, least = ("position", 1) if graded == _POSITION else ("grade", 0)
    grades = [1.0] * len(table)
    if graded is not None:
        grades = [_grade(value, f"Row {row} of {str(path)!r} has the {what}", least) for row, value in enumerate(columns[graded], 1)]
    if graded == _POSITION:
        last = max(grades)
        grades = [last + 1 - grade for grade in grades]
    judgements: dict[tuple[int, int], float] = {}
    for row, (query_id, document_id, grade) in enumerate(zip(columns[query], columns[document], grades, strict=True), 1):
        for name, value, file in ((query, query_id, "queries"), (document, document_id, "corpus")):
            if str(value) not in numbers[name]:
                raise DataError(f"Row {row} of {str(path)!r} judges {str(value)[:100]!r}, which is not in {file}.")
        pair = numbers[query][str(query_id)], numbers[document][str(document_id)]
        if judgements.setdefault(pair, grade) != grade:
            raise DataError(f"Row {row} of {str(path)!r} judges a document anew, and otherwise, for the same query: keep one judgement.")
    return [(query_id, document_id, grade) for (query_id, document_id), grade in judgements.items()]


def _grade(value: Any, place: str, least: int) -> float:
    number: Any = as_number(value.strip() if isinstance(value, str) else value)
    try:
        # What is text still is no number in digits alone: Python would read 1_0, and the digits of any script.
        grade = math.nan if isinstance(number, str | bool) else float(number)
    except (TypeError, ValueError, OverflowError):
        grade = math.nan
    if not least <= grade <= 100:
        raise DataError(f"{place} {str(value)[:100]!r}: it must be a number from {least} to 100.")
    return grade


def _column(table: Dataset, names: Sequence[str], path: Path) -> str:
    column = next((name for name in names if name in table.column_names), None)
    if column is None:
        raise DataError(f"{str(path)!r} has none of the columns {', '.join(names)}. It has: {', '.join(table.column_names)[:200]}.")
    return column
