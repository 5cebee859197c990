"""The pages that tell how to add something are followed to the letter, in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


class Copy:
    """A copy of the package in which a page is followed."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        shutil.copytree(root / "prunekit", folder / "prunekit", ignore=shutil.ignore_patterns("__pycache__"))

    def follow(self, page: str) -> tuple[int, int]:
        """Write the page's files, and add its lines where it says; how many files are new, and how many are changed."""
        text = (self._root / "docs" / page).read_text(encoding="utf-8")
        files = re.findall(r"file, `(prunekit/[\w/]+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
        for name, code in files:
            assert not (self._folder / name).exists()
            (self._folder / name).write_text(code, encoding="utf-8")
        changes = re.findall(r"in `(prunekit/[\w/]+\.py)`[^:`]*:\n\n```diff\n(.*?)```", text, re.DOTALL)
        for name, change in changes:
            before, after = (
                "".join(line[1:] or "\n" for line in change.splitlines(keepends=True) if not line.startswith(sign)) for sign in "+-"
            )
            present = (self._folder / name).read_text(encoding="utf-8")
            assert present.count(before) == 1
            (self._folder / name).write_text(present.replace(before, after), encoding="utf-8")
        return len(files), len({name for name, _ in changes})

    def run(self, code: str) -> str:
        """Standard output of a program that imports the copy, and the tests' own helpers."""
        environment = {**os.environ, "PYTHONPATH": str(self._root)}
        # With -c the working directory comes before PYTHONPATH.
        done = subprocess.run([sys.executable, "-c", code], cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Copy:
    return Copy(root, tmp_path)


def test_an_analyzer_is_a_file_and_a_line(copy: Copy) -> None:
    assert copy.follow("add-an-analyzer.md") == (1, 1)
    shown = copy.run(
        """
import sys
import numpy as np
from prunekit.analyzers.base import Observations, Subject, plain
from prunekit.analyzers.registry import ANALYZERS, find
from prunekit.plan import Source
from prunekit.report.plots import draw
from prunekit.stats.collected import Collected
from tests.analyzers.subjects import TASK, store
(analyzer,) = find(["outliers"])
print(ANALYZERS.index(analyzer))
rows = np.float32(np.random.default_rng(0).normal(size=(60, 12)) * np.r_[10.0, np.ones(11)])
source = Source(model_type="bert", layers=2, hidden=4, heads=1, ffn=4, vocabulary=10)
result = analyzer.run(Observations(TASK, Subject("made up", source, Collected.of(store(rows), np.arange(60) % 2, 2))))
print(result.summary()[0])
print(str(draw(result.figures()[0])).count("<svg"), sorted(plain(result)), "torch" in sys.modules)
"""
    )
    assert shown.splitlines()[0] == "2"
    assert re.match(r"the strongest neuron holds at most \d+% of a layer's variance", shown.splitlines()[1])
    assert shown.splitlines()[2] == "1 ['share'] False"


def test_an_architecture_is_a_file_and_a_line(copy: Copy) -> None:
    assert copy.follow("add-an-architecture.md") == (1, 1)
    shown = copy.run(
        """
import random
import torch
from prunekit.arch.view import ModelView
from prunekit.transforms.apply import apply
from tests.models import CASES, batch_of, build
from tests.plans import UNITS, random_plan
CASES["ernie"] = ("ErnieConfig", {"use_task_id": True, "task_type_vocab_size": 3}, "Ernie")
model = build("ernie", "ForSequenceClassification")
view = ModelView.of(model)
assert set(view.roles()) == {name for name, _ in model.named_parameters()}
slim = apply(model, random_plan(view, UNITS, random.Random(0)))
with torch.no_grad():
    logits = slim(**{name: tensor for name, tensor in batch_of().items() if name in view.inputs}).logits
print(tuple(logits.shape), bool(torch.isfinite(logits).all()))
print(sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters()))
"""
    )
    assert shown.splitlines() == ["(3, 3) True", "True"]


def test_a_kind_of_task_is_a_name_and_a_record(copy: Copy) -> None:
    assert copy.follow("add-a-task.md") == (0, 1)
    shown = copy.run(
        """
import sys
import numpy as np
from prunekit.tasks import Task, TaskKind
kind = TaskKind("star-rating")
task = Task(kind, kind.traits.metrics[0])
outputs, labels = np.array([[1.2], [1.4], [3.9], [5.1]]), np.array([1.0, 1.0, 4.0, 5.0])
print(task.score(outputs, labels), Task(TaskKind.REGRESSION, task.metric).score(outputs, labels) < 1)
print(task.interval(outputs, labels).value, "torch" in sys.modules)
"""
    )
    assert shown.splitlines() == ["1.0 True", "1.0 False"]
