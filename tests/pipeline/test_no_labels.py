"""Text without labels for a fine-tuned model: its own answers stand for them, and the report says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunekit import cli
from prunekit.data.load import load_data
from prunekit.metrics import Metric
from prunekit.runtime.scores import divergence
from prunekit.tasks import Task, TaskKind
from tests.lines import answers, checkpoint, dense, quick, sentences, write_rows

HEADS = {"sequence": 2, "tokens": 3, "pairs": 1}


def texts(folder: Path, name: str, count: int = 160) -> Path:
    """Rows of text alone; of pairs and of words as their models read them."""
    words = sentences(count, 5)
    if name == "tokens":
        rows: list[dict[str, Any]] = [{"tokens": row} for row in words]
    else:
        rows = [{"text": " ".join(row)} for row in words]
        if name == "pairs":
            rows = [{**row, "text_pair": " ".join(other)} for row, other in zip(rows, sentences(count, 6), strict=True)]
    write_rows(folder, {"texts": rows})
    return folder / "texts.jsonl"


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_cut_by_its_own_answers(tmp_path: Path, name: str, capsys: Any) -> None:
    out, data = tmp_path / "slim", texts(tmp_path / "rows", name)
    command = ["compress", str(checkpoint(name)), "--data", str(data), "--keep", "60% params", "--recover", "none", "--out", str(out)]
    with quick():
        assert cli.main(command) == 0
    assert "no labels were seen" in " ".join(capsys.readouterr().out.split())
    report = json.loads((out / "report.json").read_text())
    assert not report["labelled"]
    assert "no labels were seen" in report["verdict"]
    assert any(note.startswith("no labels were seen") for note in report["notes"])
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["dense"]["value"] == pytest.approx(1.0)
    assert rows["dense"]["divergence"] == pytest.approx(0.0, abs=1e-9)
    assert rows["slim"]["divergence"] > 0
    assert rows["slim"]["divergence"] < rows["random"]["divergence"]
    assert report["metric"] == ("pearson" if name == "pairs" else "agreement")
    assert "divergence from dense" in (out / "report.md").read_text()


def test_agreement_is_the_share_of_rows_with_the_same_answer(tmp_path: Path) -> None:
    out, data = tmp_path / "slim", texts(tmp_path / "rows", "sequence")
    with quick():
        command = ["compress", str(checkpoint("sequence")), "--data", str(data), "--keep", "60% params", "--recover", "1epochs"]
        assert cli.main([*command, "--dtype", "fp32", "--out", str(out)]) == 0
    import prunekit

    found = load_data(data, labels=("LABEL_0", "LABEL_1"), fine_tuned=True, answers=TaskKind.CLASSIFICATION)
    test = [text.split() for text in found.test.texts]
    ours, theirs = (answers(model, test) for model in (prunekit.load(out), dense("sequence")))
    slim = {row["name"]: row for row in json.loads((out / "report.json").read_text())["rows"]}["slim"]
    assert slim["value"] == pytest.approx((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    assert slim["divergence"] == pytest.approx(divergence(found.task, ours, theirs), rel=1e-3)


def test_divergence_is_the_textbooks() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(2, 50, 3))
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (theirs, ours))
    classes = Task(TaskKind.CLASSIFICATION, Metric.AGREEMENT, ("a", "b", "c"))
    assert divergence(classes, ours, theirs) == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())
    p, q = (1 / (1 + np.exp(-x)) for x in (theirs, ours))
    sets = Task(TaskKind.LABELS, Metric.AGREEMENT, ("a", "b", "c"))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert divergence(sets, ours, theirs) == pytest.approx(each.sum(axis=1).mean())
    values = Task(TaskKind.REGRESSION, Metric.PEARSON)
    assert divergence(values, ours[:, :1], theirs[:, :1]) == pytest.approx(((ours[:, 0] - theirs[:, 0]) ** 2).mean() / theirs[:, 0].var())
    assert divergence(classes, ours, ours) == 0.0


def test_sets_agree_where_all_labels_do() -> None:
    task = Task(TaskKind.LABELS, Metric.AGREEMENT, ("a", "b"))
    labels = np.array([[True, False], [False, False], [True, True]])
    assert task.score(np.array([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]), labels) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "extra", "says"),
    [
        ("base", [], "No column is named as a label column is"),
        ("sequence", ["--label", "label"], "'label' parameter of load_data must be a column of the data"),
    ],
)
def test_what_needs_labels_says_so(tmp_path: Path, name: str, extra: list[str], says: str, capsys: Any) -> None:
    data = texts(tmp_path / "rows", "sequence")
    assert cli.main(["compress", str(checkpoint(name)), "--data", str(data), *extra, "--out", str(tmp_path / "slim")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_labels_for_another_task_are_labels() -> None:
    tagged = {"tokens": [[f"a{at}", f"b{at}"] for at in range(40)], "ner_tags": [["x", "y"]] * 40}
    assert load_data(tagged, answers=TaskKind.CLASSIFICATION).labelled
    named = {"text": [f"text {at}" for at in range(40)], "label": ["x", "y"] * 20}
    assert load_data(named, answers=TaskKind.TOKENS).labelled


def test_agreement_with_labels_is_refused(tmp_path: Path, capsys: Any) -> None:
    rows = [{"text": " ".join(words), "label": at % 2} for at, words in enumerate(sentences(60, 1))]
    folder = write_rows(tmp_path / "rows", {"rows": rows})
    command = ["compress", str(checkpoint("sequence")), "--data", str(folder / "rows.jsonl"), "--metric", "agreement"]
    assert cli.main([*command, "--out", str(tmp_path / "slim")]) == 2
    assert "agreement is with the dense model" in capsys.readouterr().err


def test_bench_needs_the_texts_alone(tmp_path: Path, capsys: Any) -> None:
    data = texts(tmp_path / "rows", "sequence")
    assert cli.main(["bench", str(checkpoint("sequence")), "--data", str(data), "--time-budget", "0.01"]) == 0
    assert "batch 1, data" in capsys.readouterr().out
