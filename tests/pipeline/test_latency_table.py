from __future__ import annotations

import errno
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from prunekit.arch.view import ModelView
from prunekit.exporters.onnx import InputSpace
from prunekit.pipeline import latency_table as tables
from prunekit.pipeline.latency_table import CACHE, Timed, cache_folder, latency_table
from prunekit.plan import Plan
from prunekit.pruning.latency_model import Widths
from prunekit.transforms.apply import apply
from tests import lines
from tests.models import FFN, HEADS, VOCABULARY, build

LAYERS = 2
FULL, GONE = Widths((HEADS,) * LAYERS, (FFN,) * LAYERS), Widths((0,) * LAYERS, (0,) * LAYERS)


@pytest.fixture(scope="module")
def timed() -> Timed:
    model = build("bert", "ForSequenceClassification", num_hidden_layers=LAYERS)
    view = ModelView.of(model)
    space = InputSpace(VOCABULARY, pad_id=1, max_length=32)
    return Timed(model, model, Plan(source=view.source), view.inputs, space, np.arange(3, 19))


def test_a_table_is_measured_once_and_says_how(timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    assert cache_folder() == tmp_path
    told: list[tuple[int, int]] = []
    with lines.quick():
        table = latency_table(timed, 1, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == len(told)
    assert 0 < table.share(GONE) < table.share(FULL)
    (path,) = (tmp_path / "latency").iterdir()
    kept = json.loads(path.read_text())
    assert {"processor", "threads", "packages", "shapes"} <= kept["key"].keys()
    assert kept["date"]
    assert len(kept["measured"]) == len(told)

    def refuse(*_: object) -> Path:
        raise AssertionError("measured again")

    monkeypatch.setattr(Timed, "export", refuse)
    assert latency_table(timed, 1) == table
    # Another shape is another table, and what is broken is not read.
    with pytest.raises(AssertionError, match="measured again"):
        latency_table(timed, 4)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(AssertionError, match="measured again"):
        latency_table(timed, 1)


def test_a_table_that_cannot_be_written_leaves_nothing(timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    monkeypatch.setattr(Timed, "export", lambda _, model, path: path)
    monkeypatch.setattr(Timed, "share", lambda *_: 0.5)
    latency_table(timed, 1)
    assert not list((tmp_path / "latency").iterdir())


@pytest.mark.needs("onnxruntime")
def test_a_share_is_measured(timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_SECONDS", 0.0)
    dense = timed.export(timed.model, tmp_path / "dense.onnx")
    slim = timed.export(apply(timed.model, timed.plan_of(Widths((1,) * LAYERS, (1,) * LAYERS))), tmp_path / "slim.onnx")
    # Which is faster is the machine's to say, and not a test's.
    assert timed.share(dense, slim, 1) > 0


def test_a_share_is_the_time_of_the_slim_file_over_that_of_the_dense_one(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def run(path: Path, _: int) -> None:
        now[0] += {"dense.onnx": 4.0, "slim.onnx": 1.0}[path.name]

    monkeypatch.setattr(tables, "_SECONDS", 0.0)
    monkeypatch.setattr(tables, "load_files", lambda files, *_: {name: partial(run, path) for name, path in files.items()})
    monkeypatch.setattr(tables, "stopwatch", lambda *_: lambda: now[0])
    for batch in (1, 4):
        assert timed.share(Path("dense.onnx"), Path("slim.onnx"), batch) == pytest.approx(0.25)


def test_lengths_are_those_of_the_data(timed: Timed) -> None:
    shapes = timed.shapes(4)
    assert {rows for rows, _ in shapes} == {4}
    assert np.mean([length for _, length in shapes]) == pytest.approx(timed.lengths.mean(), abs=1)


def test_a_plan_has_the_widths_that_are_asked_for(timed: Timed) -> None:
    plan = timed.plan_of(Widths((HEADS, 0), (3, FFN)))
    assert plan.heads == {1: ()}
    assert plan.ffn == {0: (0, 1, 2)}
