"""How many rows a recovery takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.training import pool
from prunekit.training.checkpoints import claim
from prunekit.training.distill import recover
from prunekit.training.pool import affordable
from tests.training.rows import dense, encoded, slim


class Clock:
    """A clock that a model moves: `asked` seconds an answer of the teacher, `step` seconds a step of the slim model."""

    def __init__(self, asked: float, step: float) -> None:
        self._now, self._times, self._begun = 0.0, iter([asked, asked, step, step]), False

    def __call__(self) -> float:
        if self._begun:
            self._now += next(self._times)
        self._begun = not self._begun
        return self._now


def count(effort: Effort, teacher: bool = True) -> int:
    return affordable(ModelView.of(slim().model), ModelView.of(dense()) if teacher else None, encoded("train"), effort, "cpu", None)


def test_so_many_rows_as_three_passes_leave_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAST", 4)
    rows = encoded("train")
    tokens = next(iter(rows.sample(pool.ROWS, 0).batches(pool.TOKENS, pool.ROWS))).inputs["input_ids"].size
    a_row = (0.5 + 3 * 0.1) / tokens * rows.lengths.mean()
    for wanted in (20, 50):
        monkeypatch.setattr(pool.time, "perf_counter", Clock(0.5, 0.1))
        assert count(Effort("seconds", (wanted + 0.5) * a_row)) == wanted < len(rows)
    # Nothing is left behind by the trial.
    assert all(parameter.grad is None for parameter in slim().model.parameters())


def test_where_time_is_no_limit_all_rows_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAST", 4)
    rows = len(encoded("train"))
    assert count(Effort("epochs", 0.1)) == rows
    assert count(Effort("seconds", 1e-9), teacher=False) == rows
    assert count(Effort("seconds", 1e-9)) == 4
    assert count(Effort("seconds", 1e9)) == rows


def test_a_run_goes_on_with_the_rows_that_it_began_with(tmp_path: Path) -> None:
    assert claim(tmp_path / "run", "ours", lambda: 17) == 17
    assert claim(tmp_path / "run", "ours", lambda: 99) == 17


def test_a_run_that_was_killed_as_it_began_begins_again(tmp_path: Path) -> None:
    (tmp_path / "recover.half").write_text('{"key"')
    assert claim(tmp_path, "ours", lambda: 17) == 17
    assert [path.name for path in tmp_path.iterdir()] == ["recover.json"]


def test_training_sees_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunekit.training.distill.affordable", lambda *_: 16)
    found = recover(slim().model, dense(), encoded("train"), plan=slim().plan, effort="5epochs", validation=encoded("validation"))
    # Sixteen rows are a batch.
    assert (found.steps, found.epochs) == (5, 5.0)
