"""Cross-encoders with one output on lists by query: orders are judged, distilled, and kept whole by every split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunekit import cli
from prunekit.data.batches import encode
from prunekit.data.load import load_data
from prunekit.metrics import Metric
from prunekit.metrics.ranked import by_query
from prunekit.runtime.session import OnnxSession
from prunekit.tasks import TaskKind
from prunekit.training.objective import listwise
from tests.lines import answers, checkpoint, dense, quick, sentences, tokenizer_of, write_rows


def rows(queries: int, seed: int, *, each: int = 6) -> list[dict[str, Any]]:
    """Lists in which the two texts that the dense model puts first are relevant; rows of a query do not stand together."""
    asked, texts = sentences(queries, seed), sentences(queries * each, seed + 50)
    asked = [[*words, f"{'abcdefghijklmnopqrstuvwxyz'[at % 26]}{at}"] for at, words in enumerate(asked)]
    pairs = [(asked[at % queries], words) for at, words in enumerate(texts)]
    scores = answers(dense("pairs"), [a for a, _ in pairs], [b for _, b in pairs])[:, 0].reshape(each, queries)
    scores += np.random.default_rng(seed).normal(0, 0.2 * scores.std(), scores.shape)
    relevant = (np.argsort(np.argsort(-scores, axis=0), axis=0) < 2).ravel()
    return [{"query": " ".join(a), "text": " ".join(b), "label": int(label)} for (a, b), label in zip(pairs, relevant, strict=True)]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    return write_rows(folder, {"train": rows(40, 0), "validation": rows(15, 100), "test": rows(15, 200)})


def test_a_cross_encoder_is_judged_by_query(tmp_path: Path, lists: Path, capsys: Any) -> None:
    out = tmp_path / "slim"
    command = ["compress", str(checkpoint("pairs")), "--data", str(lists), "--keep", "60% params", "--recover", "2epochs"]
    with quick():
        assert cli.main([*command, "--out", str(out)]) == 0
    assert "nDCG@10" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["kind"] == "text-ranking"
    found = {row["name"]: row for row in report["rows"]}
    assert set(found) >= {"dense", "slim", "untrained", "random", "magnitude", "bag"}
    test = load_data(lists, answers=TaskKind.REGRESSION).test
    encoded = encode(test, tokenizer_of(), max_length=64, per_token=False)
    session, scores = OnnxSession(out / "onnx" / "model.onnx"), np.empty(len(test))
    for batch in encoded.batches():
        scores[batch.rows] = session(batch.inputs)["logits"][:, 0]
    assert encoded.every_start is not None
    for metric, value in (
        (Metric.NDCG, found["slim"]["value"]),
        *((each, found["slim"]["beside"][each.value]) for each in (Metric.MRR, Metric.MAP)),
    ):
        assert value == pytest.approx(np.nanmean(by_query(metric, scores, test.labels, encoded.every_start)), abs=1e-6)
    assert found["slim"]["value"] > found["bag"]["value"]
    assert any("queries, not rows, are drawn" in note for note in report["notes"])
    assert "pipeline_tag: text-ranking" in (out / "README.md").read_text()


def test_a_base_model_and_the_other_commands(tmp_path: Path, lists: Path) -> None:
    plan, slim = tmp_path / "plan.json", tmp_path / "slim"
    base = str(checkpoint("base"))
    with quick():
        assert cli.main(["plan", base, "--data", str(lists), "--task", "text-ranking", "--keep", "40% neurons", "--out", str(plan)]) == 0
        command = ["apply", base, "--plan", str(plan), "--data", str(lists), "--task", "text-ranking", "--metric", "map"]
        assert cli.main([*command, "--recover", "1epochs", "--out", str(slim)]) == 0
    shipped = {row["name"]: row for row in json.loads((slim / "report.json").read_text())["rows"]}["slim"]
    assert cli.main(["export", str(slim), "--data", str(lists), "--out", str(tmp_path / "file")]) == 0
    scores = json.loads((tmp_path / "file" / "export.json").read_text())["scores"]
    assert scores["fp32"]["value"] == pytest.approx(shipped["beside"]["ndcg@10"], abs=1e-9)


def test_a_query_is_on_one_side_of_every_cut(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "one", {"rows": rows(40, 0)})
    found = load_data(folder / "rows.jsonl", answers=TaskKind.REGRESSION, seed=1)
    assert found.task.kind is TaskKind.RANKING
    sides = [set(split.texts) for split in found.splits.values()]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    for split in found.splits.values():
        assert split.queries is not None
        assert len(np.unique(split.queries)) == 1 + np.count_nonzero(np.diff(split.queries))


def test_batches_keep_a_query_together(lists: Path) -> None:
    encoded = encode(load_data(lists, answers=TaskKind.REGRESSION).train, tokenizer_of(), max_length=64, per_token=False)
    assert encoded.queries is not None
    batches = encoded.list_batches(4096, 64)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(encoded)))
    assert all(len(batch) <= 64 for batch in batches)
    where = [set(encoded.queries[batch].tolist()) for batch in batches]
    assert sum(map(len, where)) == len(set().union(*where))
    # One that does not fit is divided.
    assert max(map(len, encoded.list_batches(4096, 4))) == 4


def test_the_listwise_divergence_is_that_of_each_query() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(7, 1, requires_grad=True), torch.randn(7, 1)
    queries = torch.tensor([5, 5, 5, 9, 9, 2, 2])
    expected = torch.stack(
        [
            torch.nn.functional.kl_div(ours[queries == q, 0].log_softmax(0), theirs[queries == q, 0].softmax(0), reduction="sum")
            for q in (5, 9, 2)
        ]
    ).mean()
    level = (ours - theirs).square().mean() / (theirs - theirs.mean()).square().mean()
    found = listwise(ours, theirs, queries)
    assert float(found.detach()) == pytest.approx(float((expected + level).detach()), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, ours)
    assert torch.isfinite(gradient).all()
    assert float(listwise(theirs, theirs, queries)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda splits: splits["test"][0].update(label=-1), "must be from 0, not relevant, to 10"),
        (lambda splits: splits["test"][0].update(label=99), "must be from 0, not relevant, to 10"),
        (lambda splits: splits["test"][0].update(query=None), "column 'query' of test is empty"),
        (lambda splits: splits.update(test=splits["test"][::15]), "has one query alone"),
        (lambda splits: splits.update(test=splits["test"][:15]), "has one row: there is no order"),
        (lambda splits: [row.update(label=0) for row in splits["test"]], "No query of test has a relevant row"),
        (lambda splits: splits["test"].append({**splits["train"][0], "text": "banal dupos"}), "a group must be in one split"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path: Path, change: Any, says: str, capsys: Any) -> None:
    splits = {"train": rows(12, 0), "validation": rows(15, 100), "test": rows(15, 200)}
    for part in ("validation", "test"):
        for row in splits[part]:
            row["query"] += f" {part}"
    change(splits)
    folder = write_rows(tmp_path / "rows", splits)
    assert cli.main(["compress", str(checkpoint("pairs")), "--data", str(folder), "--out", str(tmp_path / "slim")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_ranking_needs_queries(tmp_path: Path, capsys: Any) -> None:
    part = [{"text": row["query"], "text_pair": row["text"], "label": row["label"]} for row in rows(12, 0)]
    folder = write_rows(tmp_path / "rows", {"rows": part})
    command = ["compress", str(checkpoint("pairs")), "--data", str(folder / "rows.jsonl"), "--task", "text-ranking"]
    assert cli.main([*command, "--out", str(tmp_path / "slim")]) == 2
    assert "query, query_id or qid by its name" in capsys.readouterr().err


def test_relevance_is_a_label_and_not_left_to_the_model(tmp_path: Path) -> None:
    part = [{"query": row["query"], "passage": row["text"], "relevance": row["label"]} for row in rows(40, 0)]
    folder = write_rows(tmp_path / "rows", {"rows": part})
    found = load_data(folder / "rows.jsonl", answers=TaskKind.REGRESSION, fine_tuned=True)
    assert (found.task.kind, found.labelled) == (TaskKind.RANKING, True)
    assert set(np.asarray(found.train.labels)) == {0.0, 1.0}
    # It is one only where no column is named as labels usually are.
    write_rows(tmp_path / "rows", {"rows": [{**row, "relevance": 0.5, "score": at % 2} for at, row in enumerate(part)]})
    assert set(np.asarray(load_data(folder / "rows.jsonl", answers=TaskKind.REGRESSION, fine_tuned=True).train.labels)) == {0.0, 1.0}


@pytest.mark.needs("onnxruntime")
def test_export_judges_lists_by_a_column_of_any_name(tmp_path: Path, lists: Path) -> None:
    renamed = {}
    for split in ("train", "validation", "test"):
        part = [json.loads(line) for line in (lists / f"{split}.jsonl").read_text().splitlines()]
        renamed[split] = [{"topic": row["query"], "text": row["query"], "text_pair": row["text"], "label": row["label"]} for row in part]
    data, model = write_rows(tmp_path / "rows", renamed), str(checkpoint("pairs"))
    named = ["export", model, "--data", str(data), "--group", "topic", "--metric", "mrr", "--out", str(tmp_path / "named"), "--quiet"]
    assert cli.main(named) == 0
    assert cli.main(["export", model, "--data", str(lists), "--metric", "mrr", "--out", str(tmp_path / "usual"), "--quiet"]) == 0
    found, usual = (json.loads((tmp_path / name / "export.json").read_text()) for name in ("named", "usual"))
    assert found["metric"] == "mrr"
    assert found["scores"] == usual["scores"]
