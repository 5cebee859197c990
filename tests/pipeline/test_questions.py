"""Extractive question answering: windows, spans, heads at both ends, through every command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import prunekit
from prunekit import cli
from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.data.rows import Rows
from prunekit.exporters.layout import CARD
from prunekit.metrics.spans import Reference, answered_text
from prunekit.pipeline.predict import outputs_of_model
from prunekit.runtime.scores import outputs_of_file
from prunekit.runtime.session import OnnxSession
from prunekit.tasks import TaskKind
from tests import lines
from tests.lines import model_of, quick, save, sentences, tokenizer_of, write_rows

ROWS = {"train": 60, "validation": 40, "test": 40}
LESS: dict[str, Any] = {"max_length": 48, "dtype": "fp32", "recover": "none"}


def decided() -> Any:
    """A model that is sure of places, as a trained one is: what a token is counts for more than what stands around it."""
    model = model_of("BertForQuestionAnswering")
    with torch.no_grad():
        for name, parameter in model.bert.named_parameters():
            if name.endswith(("value.weight", "attention.output.dense.weight")):
                parameter.mul_(0.05)
        model.qa_outputs.weight.mul_(60.0)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(decided(), tmp_path_factory.mktemp("questions"))


def rows_of(model: Any, count: int, seed: int, *, unanswered: bool = False) -> list[dict[str, Any]]:
    """Questions that the model answers right, but for a fifth of them; contexts are longer than a window."""
    generator = np.random.default_rng(seed + 40)
    contexts = [" ".join(word for words in sentences(8, seed * 1000 + at) for word in words) for at in range(count // 2)]
    contexts = [context for context in contexts for _ in range(2)]
    questions = [" ".join(words[:3]) for words in sentences(count, seed + 7)]
    empty = np.empty(count, dtype=object)
    empty[:] = [Reference(context) for context in contexts]
    asked = Rows(labels=empty, texts=tuple(questions), pairs=tuple(contexts))
    split = encode(asked, tokenizer_of(), max_length=48, per_token=False)
    spans = split.every(outputs_of_model(ModelView.of(model), split, 2))
    found = []
    for at, (span, context) in enumerate(zip(spans, contexts, strict=True)):
        start = int(span[0])
        text = context[start : span[1]]
        if generator.random() < 0.2:
            text, start = context[:5], 0
        answers: dict[str, list[Any]] = {"text": [text], "answer_start": [start]}
        if unanswered and at % 4 == 0:
            answers = {"text": [], "answer_start": []}
        found.append({"id": str(at), "title": "t", "context": context, "question": questions[at], "answers": answers})
    return found


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dense = decided()
    splits = {name: rows_of(dense, count, at) for at, (name, count) in enumerate(ROWS.items())}
    return write_rows(tmp_path_factory.mktemp("asked"), splits)


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory, model: Path, asked: Path) -> Path:
    out = tmp_path_factory.mktemp("slim") / "slim"
    command = ["compress", str(model), "--data", str(asked), "--keep", "60% params", "--recover", "1epochs", "--max-length", "48"]
    with quick():
        assert cli.main([*command, "--dtype", "fp32", "--out", str(out)]) == 0
    return out


def train_rows(asked: Path) -> list[dict[str, Any]]:
    """As they are in the file."""
    return [json.loads(line) for line in (asked / "train.jsonl").read_text().splitlines()]


def split_of(asked: Path) -> Encoded:
    """As the model reads it."""
    data = load_data(asked, answers=TaskKind.QUESTIONS, fine_tuned=True)
    return encode(data.test, tokenizer_of(), max_length=48, per_token=False)


def test_a_model_keeps_its_head_and_is_judged_by_answers(slim: Path, asked: Path) -> None:
    report = json.loads((slim / "report.json").read_text())
    assert (report["kind"], report["metric"]) == ("question-answering", "answer-f1")
    found = {row["name"]: row for row in report["rows"]}
    assert set(found) == {"dense", "slim", "untrained", "random", "magnitude"}
    assert found["slim"]["n"] == ROWS["test"]
    assert found["dense"]["value"] > 0.7
    assert any("windows of at most 48 tokens" in note for note in report["notes"])
    compared = {(pair["name"], pair["metric"]) for pair in report["paired"] if (pair["against"], pair["by"]) == ("dense", "share")}
    assert {("slim", None), ("slim", "exact-match")} <= compared
    low, high = found["slim"]["intervals"]["exact-match"]
    assert 0 <= low <= found["slim"]["beside"]["exact-match"] <= high <= 1
    assert "slim: share of dense, exact match" in (slim / "report.md").read_text()
    # By hand, of the file that ships: every question in its windows, the best sum, the text, and SQuAD's count.
    data = load_data(asked, answers=TaskKind.QUESTIONS, fine_tuned=True)
    split = encode(data.test, tokenizer_of(), max_length=48, per_token=False)
    assert split.windows is not None
    assert len(split) > len(data.test)
    spans = split.every(outputs_of_file(slim / "onnx" / "model.onnx", split))
    texts = [answered_text(span, reference) for span, reference in zip(spans, data.test.references, strict=True)]
    exact = np.mean([text == reference.texts[0] for text, reference in zip(texts, data.test.references, strict=True)])
    assert found["slim"]["beside"]["exact-match"] == pytest.approx(exact)
    assert found["slim"]["value"] == pytest.approx(data.task.score(spans, split.every_label))
    assert any("divergence" in note and "after" in note for note in report["notes"])


def test_what_is_written_loads_elsewhere(slim: Path, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, stock = prunekit.load(slim), transformers.AutoModelForQuestionAnswering.from_pretrained(slim).eval()
    session = OnnxSession(slim / "onnx" / "model.onnx")
    assert session.outputs == ("start_logits", "end_logits")
    batch = next(
        encode(load_data(asked, answers=TaskKind.QUESTIONS, fine_tuned=True).test, tokenizer_of(), max_length=48, per_token=False).batches()
    )
    given = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    with torch.no_grad():
        for model in (own, stock):
            answer = model(**given)
            for name, array in session(batch.inputs).items():
                mask = batch.attention_mask.astype(bool)
                np.testing.assert_allclose(answer[name].numpy()[mask], array[mask], atol=1e-4, rtol=1e-4)
    card = (slim / CARD).read_text()
    assert "pipeline_tag: question-answering" in card
    assert "ORTModelForQuestionAnswering" in card
    example = card.split("```python\n")[1].split("```")[0]
    assert "start_logits" in example
    monkeypatch.chdir(slim.parent)
    exec(compile(example, "card", "exec"), {})


def test_plan_apply_export_analyze_and_bench(tmp_path: Path, model: Path, asked: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "slim"
    read = ["--data", str(asked), "--max-length", "48", "--stride", "5"]
    given, untrained = ["apply", str(model), "--plan", str(plan)], ["--recover", "none"]
    with quick():
        assert cli.main(["plan", str(model), *read, "--keep", "50% params", "--out", str(plan)]) == 0
        assert cli.main([*given, *read, *untrained, "--metric", "exact-match", "--out", str(out)]) == 0
        assert cli.main([*given, *untrained, "--dtype", "fp32", "--out", str(tmp_path / "cut")]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["metric"] == "exact-match"
    assert {row["name"] for row in report["rows"]} == {"dense", "slim", "slim-low", "dense-low", "random"}
    assert cli.main(["export", str(out), "--data", str(asked), "--out", str(tmp_path / "file")]) == 0
    scores = json.loads((tmp_path / "file" / "export.json").read_text())["scores"]
    assert 0 <= scores["fp32"]["low"] <= scores["fp32"]["value"] <= scores["fp32"]["high"] <= 1
    assert cli.main(["analyze", str(model), *read, "--out", str(tmp_path / "seen")]) == 0
    seen = json.loads((tmp_path / "seen" / "analysis.json").read_text())
    assert set(seen["analyzers"]) >= {"cka", "clusters", "importance"}
    assert "ablation" in seen["skipped"]
    command = ["bench", str(out), str(model), "--data", str(asked), "--time-budget", "0.1"]
    assert cli.main(command) == 0


def test_a_vocabulary_that_shrinks_spells_the_same_answers(tmp_path: Path, model: Path, asked: Path) -> None:
    with quick():
        found = prunekit.compress(model, asked, vocabulary="data", **LESS, out=tmp_path / "slim")
    rows = {row.name: row for row in found.report.rows}
    assert rows["slim"].value == pytest.approx(rows["dense"].value)


def test_words_that_train_lacks_make_more_windows(tmp_path: Path, model: Path, asked: Path) -> None:
    rows = train_rows(asked)[:40]
    test = [{**row, "context": f"{row['context']} {' '.join(lines.WORDS[12:] * 4)}"} for row in rows]
    folder = write_rows(tmp_path / "rows", {"train": rows, "validation": rows[:20], "test": test})
    with quick():
        found = prunekit.compress(model, folder, vocabulary="data", **LESS, out=tmp_path / "slim")
    assert found.report.latency


def test_questions_without_an_answer(tmp_path: Path, model: Path) -> None:
    dense = decided()
    folder = write_rows(tmp_path / "rows", {name: rows_of(dense, 24, at, unanswered=True) for at, name in enumerate(ROWS)})
    with quick():
        found = prunekit.compress(model, folder, keep="60% params", **LESS, out=tmp_path / "slim")
    assert any("6 of 24 questions have no answer" in note for note in found.report.notes)
    test = load_data(folder, answers=TaskKind.QUESTIONS, fine_tuned=True).test
    assert test.silent
    assert sum(not each.texts for each in test.references) == 6


def test_contexts_without_answers_are_imitated(tmp_path: Path, model: Path, asked: Path) -> None:
    rows = [{name: row[name] for name in ("context", "question")} for row in train_rows(asked)]
    folder = write_rows(tmp_path / "rows", {"texts": rows})
    with quick():
        found = prunekit.compress(model, folder / "texts.jsonl", keep="60% params", **LESS, out=tmp_path / "slim")
    assert not found.report.labelled
    values = {row.name: row.value for row in found.report.rows}
    assert values["dense"] == 1.0
    assert "no labels were seen" in found.report.verdict


def test_a_model_in_memory_and_the_splits(model: Path, asked: Path, tmp_path: Path) -> None:
    rows = train_rows(asked)
    columns = {name: [row[name] for row in rows] for name in ("question", "context", "answers")}
    plan = prunekit.make_plan(load_model(model).model, columns, tokenizer=tokenizer_of(), keep="50% params", max_length=48)
    assert plan.readout is None
    data = load_data(columns, seed=2)
    assert data.task.kind is TaskKind.QUESTIONS
    sides = [set(split.pairs or ()) for split in data.splits.values()]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    # The nested file, and answers as a list of objects, say the same.
    nested = {
        "version": "1.1",
        "data": [
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": row["context"],
                        "qas": [
                            {
                                "id": row["id"],
                                "question": row["question"],
                                "answers": [{"text": row["answers"]["text"][0], "answer_start": row["answers"]["answer_start"][0]}],
                            }
                        ],
                    }
                    for row in rows
                ],
            }
        ],
    }
    (tmp_path / "squad.json").write_text(json.dumps(nested))
    assert load_data(tmp_path / "squad.json", seed=2).provenance["sha256"] == data.provenance["sha256"]


def changed(rows: list[dict[str, Any]], at: int, **change: Any) -> None:
    rows[at] = {**rows[at], **change}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda rows: changed(rows, 2, answers={"text": ["nowhere"], "answer_start": [3]}),
            "Row 3 of train .* has the answer 'nowhere' at character 3",
        ),
        (lambda rows: changed(rows, 2, answers={"text": ["banal"], "answer_start": [-5]}), "at character -5"),
        (lambda rows: changed(rows, 2, answers={"text": ["banal"], "answer_start": [10**9]}), "at character 1000000000"),
        (lambda rows: changed(rows, 2, answers={"text": ["banal"], "answer_start": []}), "as many texts as starts"),
        (lambda rows: changed(rows, 2, answers={"text": ["a"], "answer_start": [None]}), "texts and whole numbers"),
        (lambda rows: changed(rows, 2, context="  "), "'context' of train is empty in 1 row, first in row 3"),
        (lambda rows: changed(rows, 2, question=None), "'question' of train is empty in 1 row, first in row 3"),
        (lambda rows: [row.update(answers="banal") for row in rows], "neither JSON nor a Python literal, .banal."),
        (lambda rows: [row.update(answers=7) for row in rows], "It holds a int"),
        # What nobody has answered is not what has no answer.
        (lambda rows: changed(rows, 2, answers=None), "Row 3 of train .* It holds nothing"),
        (lambda rows: [row.update(answers={"texts": ["a"]}) for row in rows], "an object with texts"),
        (lambda rows: [row.pop("context") for row in rows], "has no column 'context': questions need question, context and answers"),
        (lambda rows: [row.pop("question") for row in rows], "has no column 'question'"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path: Path, model: Path, asked: Path, change: Any, says: str, capsys: Any) -> None:
    rows = train_rows(asked)
    change(rows)
    folder = write_rows(tmp_path / "rows", {"train": rows, "test": train_rows(asked)[:4]})
    refused(["compress", str(model), "--data", str(folder), "--out", str(tmp_path / "slim")], says, capsys)
    assert not (tmp_path / "slim").exists()


def refused(command: list[str], says: str, capsys: Any) -> None:
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error), error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--stride", "40", "--max-length", "48"], "The 'stride' parameter .* at most half of the"),
        (["--max-length", "65"], "'max_length' parameter .* at most 64, the longest row that the model takes"),
        (["--keep", "10% neurons"], "which has no classifier to read neurons"),
        (["--pooling", "mean"], "left out for question-answering"),
        (["--method", "dalvi2020"], "prunekit for question-answering"),
        (["--metric", "accuracy"], "one of answer-f1, exact-match"),
        (["--dims", "4"], "given for an embedder only"),
        (["--tokens", "question"], "left out"),
        (["--label", "title"], "text that is neither JSON nor a Python literal"),
        (["--group", "nothing"], "a column of the data"),
    ],
)
def test_options_that_do_not_fit(options: list[str], says: str, model: Path, asked: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["compress", str(model), "--data", str(asked), "--task", "question-answering", *options]
    refused([*command, "--out", str(tmp_path / "slim")], says, capsys)


def test_a_model_without_the_head_is_refused_and_none_loses_it(model: Path, asked: Path, tmp_path: Path, capsys: Any) -> None:
    out = ["--out", str(tmp_path / "slim")]
    for bare in (lines.checkpoint("base"), lines.checkpoint("sequence")):
        command = ["compress", str(bare), "--data", str(asked), "--task", "question-answering", *out]
        refused(command, "fine-tuned for question answering.*fine_tune.py MODEL DATA OUT --task question-answering", capsys)
    refused(["compress", str(lines.checkpoint("base")), "--data", str(asked), *out], "fine-tuned for question answering", capsys)
    # Its head is for questions: other data is not read past it.
    refused(["compress", str(model), "--data", str(lines.data("topics")), *out], "questions need question, context and answers", capsys)
    command = ["compress", str(lines.checkpoint("base")), "--data", str(lines.data("topics")), "--stride", "3", *out]
    refused(command, "left out where no questions", capsys)
