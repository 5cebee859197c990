"""Rows with any number of labels, through every command; labels are lists of names or columns of 0 and 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from prunekit import cli
from prunekit.pipeline.inputs import load_inputs
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.session import OnnxSession
from tests.lines import checkpoint, model_of, quick, save, sentences, tokenizer_of, write_rows

NAMES = ("ba", "du", "mo", "re")


def rows(count: int, seed: int, *, columns: bool = False) -> list[dict[str, Any]]:
    """A row has the label of each first syllable that two of its words have; many have none."""
    found, generator = [], np.random.default_rng(seed + 40)
    for words in sentences(count, seed):
        counts = [sum(word[:2] == name for word in words) for name in NAMES]
        there = [(count >= 2) != (generator.random() < 0.03) for count in counts]
        labels = [name for name, yes in zip(NAMES, there, strict=True) if yes]
        told = {name: int(yes) for name, yes in zip(NAMES, there, strict=True)} if columns else {"labels": labels}
        found.append({"text": " ".join(words), **told})
    return found


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    return write_rows(folder, {"train": rows(300, 0), "validation": rows(80, 1), "test": rows(80, 2)})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head for the four labels, fitted to the rows by ridge regression on the model's own pooled vector."""
    made = model_of("BertForSequenceClassification", 4)
    made.config.problem_type = "multi_label_classification"
    made.config.id2label, made.config.label2id = dict(enumerate(NAMES)), {name: at for at, name in enumerate(NAMES)}
    train, tokenizer, vectors = rows(300, 0), tokenizer_of(), []
    with torch.no_grad():
        for row in train:
            vectors.append(made.bert(**tokenizer(row["text"], return_tensors="pt")).pooler_output[0].numpy())
        x = np.hstack([np.array(vectors), np.ones((len(train), 1))])
        y = np.array([[4.0 * (name in row["labels"]) - 2.0 for name in NAMES] for row in train])
        solution = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
        made.classifier.weight.copy_(torch.from_numpy(solution[:-1].T))
        made.classifier.bias.copy_(torch.from_numpy(solution[-1]))
    return save(made, tmp_path_factory.mktemp("many"))


def told(out: Path, test: list[dict[str, Any]]) -> tuple[float, float]:
    """Micro and macro F1 of the file that ships with the thresholds in its config, by scikit-learn."""
    config = json.loads((out / "config.json").read_text())
    batch = tokenizer_of()([row["text"] for row in test], padding=True, return_tensors="np", return_token_type_ids=True)
    logits = OnnxSession(out / "onnx" / "model.onnx")({name: batch[name] for name in batch})["logits"]
    predicted = 1 / (1 + np.exp(-logits.astype(np.float64))) >= np.array(config["thresholds"])
    names = [config["id2label"][str(at)] for at in range(len(NAMES))]
    actual = np.array([[name in row["labels"] for name in names] for row in test])
    return f1_score(actual, predicted, average="micro"), f1_score(actual, predicted, average="macro")


@pytest.mark.parametrize(("base", "keep"), [(False, "60% params"), (True, "30% neurons")])
def test_a_directory_with_thresholds(tmp_path: Path, lists: Path, model: Path, base: bool, keep: str, capsys: Any) -> None:
    out = tmp_path / "slim"
    source = checkpoint("base") if base else model
    with quick():
        assert cli.main(["compress", str(source), "--data", str(lists), "--keep", keep, "--recover", "2epochs", "--out", str(out)]) == 0
    assert "micro F1" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    by_name = {row["name"]: row for row in report["rows"]}
    micro, macro = told(out, rows(80, 2))
    assert by_name["slim"]["value"] == pytest.approx(micro, abs=1e-6)
    assert by_name["slim"]["beside"]["f1"] == pytest.approx(macro, abs=1e-6)
    assert set(by_name) >= {"slim", "random", "magnitude", "untrained", "bag", "oracle" if base else "dense"}
    if base:
        assert by_name["slim"]["value"] > by_name["random"]["value"]
    assert report["kind"] == "multi-label-classification"
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert all(0 < each < 1 for each in config["thresholds"])
    card = (out / "README.md").read_text()
    assert "any number of 4 labels" in card
    assert "chosen on validation" in card
    assert 'config.get("thresholds", 0.5)' in card


def test_columns_of_zeros_and_ones_are_lists(tmp_path: Path, lists: Path) -> None:
    from prunekit.data.load import load_data

    splits = {"train": rows(300, 0, columns=True), "validation": rows(80, 1, columns=True), "test": rows(80, 2, columns=True)}
    folder = write_rows(tmp_path / "rows", splits)
    found, same = load_data(folder, label="ba,du,mo,re"), load_data(lists)
    assert found.task.labels == same.task.labels == NAMES
    assert np.array_equal(found.test.labels, same.test.labels)
    # A CSV's cells are text.
    text = "\n".join(["text,ba,du,mo,re", *(",".join(map(str, row.values())) for row in rows(300, 0, columns=True))])
    (tmp_path / "rows.csv").write_text(text)
    assert load_data(tmp_path / "rows.csv", label="ba, du, mo, re").task == found.task


def test_plan_apply_export_analyze_and_bench(tmp_path: Path, lists: Path, model: Path) -> None:
    plan, slim, file = tmp_path / "plan.json", tmp_path / "slim", tmp_path / "file"
    with quick():
        assert cli.main(["plan", str(model), "--data", str(lists), "--keep", "60% params", "--out", str(plan)]) == 0
        told = ["--plan", str(plan), "--data", str(lists), "--recover", "none"]
        assert cli.main(["apply", str(model), *told, "--max-drop", "60%", "--metric", "f1", "--out", str(slim)]) == 0
    report = json.loads((slim / "report.json").read_text())
    assert report["metric"] == "f1"
    shipped = {row["name"]: row for row in report["rows"]}["slim"]
    # An export of the slim directory uses the thresholds of its config, and so scores the same.
    assert cli.main(["export", str(slim), "--data", str(lists), "--dtype", "int8", "--out", str(file)]) == 0
    scores = json.loads((file / "export.json").read_text())["scores"]
    assert scores["fp32"]["value"] == pytest.approx(shipped["beside"]["micro-f1"], abs=1e-9)
    assert cli.main(["analyze", str(model), "--data", str(lists), "--out", str(tmp_path / "seen")]) == 0
    seen = json.loads((tmp_path / "seen" / "analysis.json").read_text())
    assert set(seen["skipped"]) >= {"neurons", "dimensions"}
    assert "any number" in seen["skipped"]["neurons"]
    assert set(seen["analyzers"]) >= {"probes", "importance", "ablation"}
    assert seen["analyzers"]["probes"]["model"]["upto"][-1] > 0.5


def test_own_answers_are_those_above_the_models_own_thresholds(tmp_path: Path, lists: Path, model: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    # Of the four labels one is always predicted, and one never.
    (folder / "config.json").write_text(json.dumps({**config, "thresholds": [0.0, 1.0, 0.5, 0.5]}))
    texts = [json.dumps({"text": json.loads(line)["text"]}) for line in (lists / "train.jsonl").read_text().splitlines()]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    inputs = load_inputs(Recipe(model=str(folder), data=str(tmp_path / "texts.jsonl"), keep=("60% params",)), None, Stages())
    labels = inputs.encoded["train"].labels
    assert labels[:, 0].all()
    assert not labels[:, 1].any()
    assert 0 < labels[:, 2:].mean() < 1


@pytest.mark.parametrize(
    ("change", "option", "says"),
    [
        ({"labels": None}, None, "has no list of labels"),
        ({"labels": ["ba", "ba"]}, None, "names the label ba twice"),
        ({"labels": ["ba", ""]}, None, "a label without a name"),
        ({"labels": [["ba"]]}, None, "cannot be read"),
        ({"ba": 2}, "ba,du,mo,re", "must hold 0 or 1 in each row. Row 1 holds 2"),
        ({"ba": 0.5}, "ba,du,mo,re", "must hold 0 or 1 in each row. Row 1 holds 0.5"),
        ({"ba": None}, "ba,du,mo,re", "must hold 0 or 1 in each row. Row 1 holds nothing"),
        ({}, "ba,du,ba", "named once. Got 'ba' instead"),
        ({}, "ba,mi", "several with commas between"),
        ({}, "ba,", "several with commas between"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path: Path, change: dict[str, Any], option: str | None, says: str, capsys: Any) -> None:
    splits = {"train": rows(40, 0, columns=option is not None), "test": rows(20, 1, columns=option is not None)}
    splits["train"][0] |= change
    folder = write_rows(tmp_path / "rows", splits)
    extra = [] if option is None else ["--label", option]
    assert cli.main(["compress", str(checkpoint("base")), "--data", str(folder), *extra, "--out", str(tmp_path / "slim")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "slim").exists()


def test_a_method_for_single_labels_is_refused(tmp_path: Path, lists: Path, capsys: Any) -> None:
    command = ["compress", str(checkpoint("base")), "--data", str(lists), "--method", "dalvi2020", "--keep", "20% neurons"]
    assert cli.main([*command, "--out", str(tmp_path / "slim")]) == 2
    error = capsys.readouterr().err
    assert "dalvi2020" in error
    assert error.count("\n") == 1


def test_one_label_a_row_is_a_set_for_a_head_with_many(tmp_path: Path, model: Path) -> None:
    single = [{**row, "label": (row["labels"] or ["re"])[0]} for row in rows(120, 0)]
    folder = write_rows(tmp_path / "rows", {"train": [{"text": row["text"], "label": row["label"]} for row in single]})
    from prunekit.pipeline.inputs import load_inputs
    from prunekit.recipe import Recipe
    from prunekit.report.progress import stages

    with stages(False) as stage:
        found = load_inputs(Recipe(model=str(model), data=str(folder / "train.jsonl")), None, stage)
    assert found.own_head
    assert found.data.task.many
    assert (np.asarray(found.data.train.labels).sum(axis=1) == 1).all()
