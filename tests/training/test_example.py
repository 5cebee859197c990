"""The example script, as a user runs it: in one process, and in two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import prunekit
from prunekit.plan import Plan
from tests import lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = lines.model_of("BertForSequenceClassification")
    # Random masks would differ between processes.
    made.config.hidden_dropout_prob = made.config.attention_probs_dropout_prob = 0.0
    return lines.save(made, tmp_path_factory.mktemp("model"))


def run(root: Path, command: list[str], model: Path, out: Path, batch: int) -> Plan:
    script = str(root / "docs" / "examples" / "prune_while_training.py")
    rows = lines.data("topics")
    given = [*command, script, str(model), str(rows), str(out), "--steps", "8", "--batch", str(batch)]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_DATASETS_CACHE": str(out)}
    done = subprocess.run(given, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    plan = Plan.load(out / "slim" / "plan.json")
    assert f"plan {plan.digest}" in done.stdout
    assert prunekit.load(out / "slim") is not None
    return plan


def test_two_processes_find_the_plan_of_one(root: Path, model: Path, tmp_path: Path) -> None:
    alone = run(root, [sys.executable], model, tmp_path / "one", 16)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    together = run(root, [*launch, "--mixed_precision", "no", "--dynamo_backend", "no"], model, tmp_path / "two", 8)
    assert together.digest == alone.digest
    assert sum(len(units) for units in alone.ffn.values()) < 3 * 32
