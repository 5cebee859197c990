"""How many rows a recovery takes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState

from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.errors import ParameterError
from prunekit.pipeline.recovery import clear_checkpoints
from prunekit.training import pool
from prunekit.training.checkpoints import claim, write_outcome
from prunekit.training.distill import recover
from prunekit.training.loop import Distiller, Pace
from prunekit.training.pool import affordable, fewer, judgeable
from prunekit.validation.scratch import locked
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
    monkeypatch.setattr(pool, "AGAIN", np.inf)
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
    # Altered copies join them.
    assert count(Effort("seconds", 1e9)) == pool.POOL
    passes = 2.5 * pool.ALTERED_PASSES
    assert count(Effort("seconds", 1e9, passes)) == int(2.5 * rows)
    assert count(Effort("seconds", 1e9, 1.0)) == rows


def test_a_run_goes_on_with_the_rows_that_it_began_with(tmp_path: Path) -> None:
    assert claim(tmp_path / "run", "ours", lambda: (17, 3)) == (17, 3)
    assert claim(tmp_path / "run", "ours", lambda: (99, 9)) == (17, 3)


def test_a_run_that_was_killed_as_it_began_begins_again(tmp_path: Path) -> None:
    (tmp_path / "recover.half").write_text('{"key"')
    assert claim(tmp_path, "ours", lambda: (17, 3)) == (17, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["recover.json"]


def test_training_sees_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunekit.training.distill.affordable", lambda *_: 16)
    found = recover(slim().model, dense(), encoded("train"), plan=slim().plan, effort="5epochs", validation=encoded("validation"))
    # Sixteen rows are a batch.
    assert (found.steps, found.epochs) == (5, 5.0)


def test_of_lists_whole_ones_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encoded("train")
    lists = replace(rows, queries=np.repeat(np.arange(len(rows)), 5)[: len(rows)])
    monkeypatch.setattr(pool, "POOL", len(rows) // 2)
    for found in (fewer(lists, 23, 0), pool.pool(lists, 0)):
        assert found.queries is not None
        _, counts = np.unique(found.queries, return_counts=True)
        assert set(counts[:-1]) == {5}
        assert (np.diff(found.queries) >= 0).all()
    assert 19 <= len(fewer(lists, 23, 0)) <= 23
    assert len(fewer(lists, 1, 0)) in (5, len(rows) % 5)


def test_what_is_not_a_checkpoint_of_ours_stays(tmp_path: Path) -> None:
    recover(slim().model, dense(), encoded("train"), effort="1epochs", validation=encoded("validation"), checkpoints=tmp_path)
    (tmp_path / "checkpoint-notes").mkdir()
    (tmp_path / "checkpoint-7").mkdir()
    write_outcome(tmp_path, slim().model, {})
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-notes"}


@pytest.mark.parametrize("limit", ["_MOST_JUDGED", "_JUDGED_TOKENS"])
def test_a_large_validation_split_leaves_time_to_train(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    judge = Distiller.judge

    def seen(self: Distiller) -> tuple[float, float]:
        held.append(len(self.learner.held))
        return judge(self)

    monkeypatch.setattr(Distiller, "judge", seen)
    most = 8 if limit == "_MOST_JUDGED" else int(8.5 * encoded("validation").lengths.mean())
    monkeypatch.setattr(f"prunekit.training.distill.{limit}", most)
    recover(slim().model, dense(), encoded("train"), effort="1epochs", validation=encoded("validation"))
    assert set(held) == {8}


def test_a_slow_evaluation_is_not_followed_by_another_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("prunekit.training.loop.time.perf_counter", lambda: now[0])
    pace, state = Pace(Effort("seconds", 100.0), None), TrainerState()

    def stops_at(seconds: float) -> bool:
        now[0], control = seconds, TrainerControl()
        pace.on_step_end(None, state, control)
        return bool(control.should_evaluate)

    pace.on_train_begin(None, state, TrainerControl())
    assert not stops_at(9.0)
    assert stops_at(11.0)
    now[0] = 41.0
    pace.on_evaluate(None, state, TrainerControl())
    assert not stops_at(42.0)
    assert stops_at(51.0)


def test_a_run_without_a_checkpoint_gives_way(tmp_path: Path) -> None:
    assert claim(tmp_path, "ours", lambda: (17, 3)) == (17, 3)
    assert claim(tmp_path, "theirs", lambda: (5, 2)) == (5, 2)
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ParameterError, match="must be those of this very run"):
        claim(tmp_path, "ours", lambda: (17, 3))


def test_checkpoints_of_earlier_runs_go_with_the_artefact(tmp_path: Path) -> None:
    names = {"ours": ".slim.recover-0123456789ab", "held": ".slim.recover-0123456789ac", "theirs": ".slim.recover-0123456789ad"}
    for name in names.values():
        (tmp_path / name).mkdir()
    for name in ("ours", "held"):
        (tmp_path / names[name] / "recover.json").write_text("{}")
    lock = locked(tmp_path / names["held"])
    assert lock is not None
    clear_checkpoints(tmp_path / "slim")
    os.close(lock)
    assert {path.name for path in tmp_path.iterdir()} == {names["held"], names["theirs"]}


def test_all_judgements_take_a_fifth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAST_JUDGED", 4)
    monkeypatch.setattr(pool, "AGAIN", np.inf)
    held = encoded("validation")
    tokens = next(iter(held.sample(pool.TRIED[1], 0).batches(*pool.TRIED))).inputs["input_ids"].size
    a_row = (0.5 + 11 * 0.1) / tokens * held.lengths.mean()
    views = ModelView.of(slim().model), ModelView.of(dense())
    for wanted in (6, 9):
        with monkeypatch.context() as patch:
            patch.setattr(pool.time, "perf_counter", Clock(0.5, 0.1))
            assert judgeable(*views, held, Effort("seconds", 5 * (wanted + 0.5) * a_row), "cpu") == wanted < len(held)
        monkeypatch.setattr(pool, "AGAIN", 0.0)  # a run that takes a share of the time is not repeated
        with monkeypatch.context() as patch:
            clock = Clock(0.5, 0.5)
            patch.setattr(pool.time, "perf_counter", clock)
            judgeable(*views, held, Effort("seconds", 1.0), "cpu")
        assert clock() == 1.0
        monkeypatch.setattr(pool, "AGAIN", np.inf)
    assert judgeable(*views, held, Effort("seconds", 1e-9), "cpu") == 4
    # Pairs whose vectors are compared with their scores elsewhere are rows as any others here.
    held = replace(held, starts=np.array([0, len(held)]))
    assert judgeable(*views, held, Effort("seconds", 1e-9), "cpu") == 4
    assert judgeable(*views, held, Effort("seconds", 1e9), "cpu") == judgeable(*views, held, Effort("epochs", 0.1), "cpu") == len(held)


def test_a_run_whose_time_is_up_before_its_first_step_is_judged_after_it() -> None:
    pace, state, control = Pace(Effort("seconds", 1e-9), None), TrainerState(global_step=1), TrainerControl()
    pace.on_train_begin(None, TrainerState(), control)
    pace.on_step_end(None, state, control)
    assert control.should_evaluate
    assert control.should_save
    assert control.should_training_stop


def test_a_run_is_judged_on_so_many_rows_and_once_at_each_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    judge = Distiller.judge
    monkeypatch.setattr(Distiller, "judge", lambda self: (held.append(len(self.learner.held)), judge(self))[1])
    monkeypatch.setattr("prunekit.training.distill.judgeable", lambda *_: 8)
    found = recover(slim().model, dense(), encoded("train"), plan=slim().plan, effort="1epochs", validation=encoded("validation"))
    assert found.after > found.before
    # Before, and at each step of so short a run; what is said of the best is what was found at its stop.
    assert held == [8] * (1 + found.steps)


def test_the_time_begins_before_the_first_judgement_and_the_warm_up_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("prunekit.training.loop.time.perf_counter", lambda: now[0])
    pace, state, control = Pace(Effort("seconds", 100.0), None), TrainerState(), TrainerControl()
    now[0] = 40.0
    pace.on_train_begin(None, state, control)
    assert pace.elapsed == 40.0
    for seconds, rate in ((40.0, 1e-3), (41.5, 0.5), (43.0, 1.0), (71.5, 0.5)):
        now[0] = seconds
        pace.on_step_end(None, state, control)
        assert pace.rate(0) == pytest.approx(rate)
    # A run that goes on falls from where it was.
    later = Pace(Effort("seconds", 100.0), None)
    goes_on = TrainerState(global_step=4, stateful_callbacks={"Pace": pace.state()})
    later.on_train_begin(None, goes_on, control)
    assert later.rate(0) == pytest.approx(0.5)
    now[0] = 100.0
    later.on_step_end(None, goes_on, control)
    assert control.should_training_stop
