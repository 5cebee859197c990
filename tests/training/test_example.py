"""The example scripts, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import prunekit
from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.data import encode, load_data
from prunekit.pipeline.predict import outputs_of_model
from prunekit.plan import Plan
from prunekit.training.buckets import tensors
from prunekit.training.teacher import answer
from tests import lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = lines.model_of("BertForSequenceClassification")
    # Random masks would differ between processes.
    made.config.hidden_dropout_prob = made.config.attention_probs_dropout_prob = 0.0
    return lines.save(made, tmp_path_factory.mktemp("model"))


def script(root: Path, command: list[str], name: str, *given: object) -> str:
    out = str(given[2])
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_DATASETS_CACHE": out}
    whole = [*command, str(root / "docs" / "examples" / name), *map(str, given)]
    done = subprocess.run(whole, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run(root: Path, command: list[str], model: Path, out: Path, batch: int) -> Plan:
    said = script(root, command, "prune_while_training.py", model, lines.data("topics"), out, "--steps", 8, "--batch", batch)
    plan = Plan.load(out / "slim" / "plan.json")
    assert f"plan {plan.digest}" in said
    assert prunekit.load(out / "slim") is not None
    return plan


@pytest.mark.timeout(300)  # three trainings, each of which starts Python and torch anew
def test_two_processes_find_the_plan_of_one(root: Path, model: Path, tmp_path: Path) -> None:
    alone = run(root, [sys.executable], model, tmp_path / "one", 16)
    # `accelerate launch --cpu` starts two only where there is MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    together = run(root, launch, model, tmp_path / "two", 8)
    assert together.digest == alone.digest
    assert sum(len(units) for units in alone.ffn.values()) < 3 * 32


@pytest.mark.parametrize(("start", "rows"), [("sequence", "text"), ("tokens", "tokens")])
def test_a_model_is_fine_tuned_on_texts_and_words_and_read_as_prunekit_reads_it(start: str, rows: str, root: Path, tmp_path: Path) -> None:
    # The data is labelled by this very model, so that a wrong place for a label would show; it must not move far.
    model, folder = lines.checkpoint(start), lines.data(rows)
    said = script(root, [sys.executable], "fine_tune.py", model, folder, tmp_path / "dense", "--epochs", 1, "--learning-rate", 1e-6)
    loaded = load_model(str(tmp_path / "dense"))
    assert not torch.equal(loaded.model.classifier.weight, lines.dense(start).classifier.weight)
    data = load_data(str(folder), labels=loaded.labels)
    assert data.task.labels == loaded.labels
    held = encode(data.validation, loaded.tokenizer, max_length=128, per_token=data.task.per_token)
    batch = held.batch(np.arange(len(held)))
    inputs = tensors(batch)
    with torch.no_grad():
        found = answer(ModelView.of(loaded.model), inputs, inputs["first"], states=False).logits.numpy()
    score = data.task.score(found, batch.labels)
    assert f"accuracy on validation: {score:.4f}" in said
    assert score > 0.8


def test_a_model_is_fine_tuned_on_questions_and_scored_as_prunekit_scores_it(root: Path, tmp_path: Path) -> None:
    splits = {}
    for at, (name, count) in enumerate({"train": 40, "validation": 20}.items()):
        contexts = [" ".join(word for words in lines.sentences(12, 50 * at + row) for word in words) for row in range(count)]
        splits[name] = [
            {"question": "banal dupos", "context": context, "answers": {"text": [context[6:11]], "answer_start": [6]}}
            for context in contexts
        ]
    folder = lines.write_rows(tmp_path / "asked", splits)
    given = [lines.checkpoint("base"), folder, tmp_path / "dense", "--task", "question-answering", "--epochs", 1, "--max-length", 48]
    said = script(root, [sys.executable], "fine_tune.py", *given)
    loaded = load_model(str(tmp_path / "dense"))
    assert loaded.spans
    data = load_data(str(folder))
    held = encode(data.validation, loaded.tokenizer, max_length=48, per_token=False)
    score = data.task.score(held.every(outputs_of_model(ModelView.of(loaded.model), held, 2)), held.every_label)
    assert f"answer-f1 on validation: {score:.4f}" in said
