"""A search in the dense model's index, and in one's own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

import prunekit
from prunekit import cli
from prunekit.arch.embedding import Embedding
from prunekit.data.batches import encode
from prunekit.data.retrieval import Retrieval
from prunekit.data.rows import Rows
from prunekit.errors import ParameterError
from prunekit.pipeline.inputs import load_inputs
from prunekit.pipeline.records import Run
from prunekit.pipeline.retrieval import retrieved, searched
from prunekit.recipe import Recipe
from prunekit.report.model import Report
from prunekit.report.progress import Stages
from prunekit.runtime.scores import outputs_of_file
from tests.data.test_retrieval import write
from tests.lines import quick, sentences, write_rows
from tests.pipeline.test_embedding import dense, texts


def unit(generator: np.random.Generator, rows: int, width: int = 8) -> np.ndarray:
    found = generator.normal(size=(rows, width))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def task(generator: np.random.Generator, queries: int, documents: int, judged: int = 5) -> Retrieval:
    pairs = [(query, document) for query in range(queries) for document in generator.permutation(documents)[:judged]]
    return Retrieval(
        queries=("",) * queries,
        documents=("",) * documents,
        query=np.array([query for query, _ in pairs]),
        document=np.array([document for _, document in pairs]),
        grade=np.where(np.arange(len(pairs)) % judged == 0, 1.0, generator.integers(0, 2, len(pairs))),
    )


def test_against_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    asked, ours, index = task(generator, 12, 300), unit(generator, 12), unit(generator, 300)
    (found,) = searched(asked, {"dense": (ours, index)})
    truth = np.zeros((12, 300))
    truth[asked.query, asked.document] = asked.grade
    scores = ours @ index.T
    # Of grades 0 and 1 both ways to count gains are the same.
    assert found.ndcg == pytest.approx(ndcg_score(truth, scores, k=10))
    order = np.argsort(-scores, axis=1)
    relevant = np.take_along_axis(truth, order, axis=1) > 0
    assert found.recall == pytest.approx((relevant[:, :100].sum(axis=1) / relevant.sum(axis=1)).mean())
    # A first relevant document beyond what is looked at has a place there, and is worth next to nothing.
    assert found.mrr == pytest.approx((1 / (relevant.argmax(axis=1) + 1)).mean(), abs=0.01)
    assert (found.overlap, found.share, found.queries, found.documents) == (1.0, None, 12, 300)


def test_whose_index_and_how_much_of_dense() -> None:
    generator = np.random.default_rng(1)
    asked, theirs = task(generator, 30, 60), (unit(generator, 30), unit(generator, 60))
    turn = np.linalg.qr(generator.normal(size=(8, 8)))[0]
    rows = searched(asked, {"dense": theirs, "slim": tuple(each @ turn for each in theirs), "slim-low": theirs})  # type: ignore[dict-item]
    found = {(row.name, row.index): row for row in rows}
    assert list(found) == [("dense", "dense"), ("slim", "dense"), ("slim", "own"), ("slim-low", "dense"), ("slim-low", "own")]
    # Turned vectors find the same among themselves, and nothing among those that were not turned.
    whole = found["dense", "dense"]
    assert found["slim", "own"].ndcg == pytest.approx(whole.ndcg)
    assert found["slim", "own"].share == pytest.approx(1.0)
    assert found["slim", "dense"].overlap < 0.6 < found["slim", "own"].overlap == 1.0
    assert found["slim-low", "dense"] == whole.model_copy(update={"name": "slim-low", "share": 1.0, "share_low": 1.0, "share_high": 1.0})
    apart = searched(asked, {"dense": theirs, "slim": theirs}, own_space=True)
    assert [(row.name, row.index) for row in apart] == [("dense", "dense"), ("slim", "own")]


@pytest.mark.needs("onnxruntime")
def test_from_the_command_line(tmp_path: Path) -> None:
    words = [" ".join(each) for each in sentences(40, 3)]
    corpus = [{"_id": str(at), "text": text} for at, text in enumerate(words)]
    queries = [{"_id": f"q{at}", "text": " ".join(text.split()[:3])} for at, text in enumerate(words[:12])]
    qrels = [{"query-id": f"q{at}", "corpus-id": str(at), "score": 1} for at in range(12)]
    place = write(tmp_path / "search", corpus=corpus, queries=queries, qrels=qrels)
    model = dense(tmp_path / "dense", Embedding("mean", prompts={"query": "ba ", "passage": "bo "}))
    data = write_rows(tmp_path / "data", {"train": texts(200, 0), "test": texts(40, 1)})
    arguments = ["compress", model, "--task", "embedding", "--data", data, "--keep", "60%", "--recover", "none", "--dtype", "fp32"]
    with quick():
        assert cli.main([*map(str, arguments), "--retrieval", str(place), "--out", str(tmp_path / "slim"), "--quiet"]) == 0
    report = Report.from_json((tmp_path / "slim" / "report.json").read_text())
    assert [(row.name, row.index) for row in report.retrieval] == [("dense", "dense"), ("slim", "dense"), ("slim", "own")]
    assert all(0 <= row.ndcg <= 1 and row.queries == 12 and row.documents == 40 for row in report.retrieval)
    assert "of the nDCG@10 of dense in dense's index" in report.verdict
    for page in ("report.md", "report.html"):
        assert "Retrieval, 12 queries, 40 documents" in (tmp_path / "slim" / page).read_text()
    assert json.loads((tmp_path / "slim" / "report.json").read_text())["retrieval"][0]["name"] == "dense"


@pytest.mark.needs("onnxruntime")
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_lengths_count_where_the_model_compares_by_products(similarity: str, tmp_path: Path) -> None:
    words = [" ".join(each) for each in sentences(40, 3)]
    place = write(
        tmp_path / "search",
        corpus=[{"_id": str(at), "text": text} for at, text in enumerate(words)],
        queries=[{"_id": f"q{at}", "text": text} for at, text in enumerate(words[:12])],
        qrels=[{"query-id": f"q{at}", "corpus-id": str(at), "score": 1} for at in range(12)],
    )
    model = dense(tmp_path / "dense", Embedding("cls", normalize=False, similarity=similarity))
    data = write_rows(tmp_path / "data", {"train": texts(60, 0)})
    recipe = Recipe(model=str(model), data=str(data), task="embedding", retrieval=str(place))
    inputs = load_inputs(recipe, None, Stages())
    file = SimpleNamespace(path=prunekit.export(model, tmp_path / "out").path / "onnx" / "model.onnx")
    text, files = SimpleNamespace(tokenizer=inputs.loaded.tokenizer), SimpleNamespace(dense=file, slim=file, low=None)
    run = Run(recipe, inputs, tmp_path, Stages())
    found = retrieved(run, text, files)[0]  # type: ignore[arg-type]  # what it reads of them
    rows = Rows(labels=np.zeros(40), texts=tuple(words))
    vectors = outputs_of_file(file.path, encode(rows, inputs.loaded.tokenizer, max_length=inputs.max_length, per_token=False))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert inputs.retrieval is not None
    by = {"dot": vectors, "cosine": vectors / lengths}
    values = {name: searched(inputs.retrieval, {"dense": (each[:12], each)})[0].ndcg for name, each in by.items()}
    assert found.ndcg == pytest.approx(values[similarity])
    # A text is nearest to itself by the cosine alone.
    assert values["dot"] < values["cosine"] == pytest.approx(1.0)


def test_it_is_for_embedders_and_read_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ParameterError, match="The 'retrieval' parameter of compress must be given for an embedder only"):
        Recipe(retrieval="search")
    model, data = dense(tmp_path / "dense"), write_rows(tmp_path / "data", {"train": texts(50, 0)})
    arguments: list[Any] = [
        "compress",
        model,
        "--task",
        "embedding",
        "--data",
        data,
        "--retrieval",
        tmp_path / "none",
        "--out",
        tmp_path / "slim",
    ]
    assert cli.main([*map(str, arguments), "--quiet"]) == 2
    assert "is no directory" in capsys.readouterr().err
    assert not (tmp_path / "slim").exists()
