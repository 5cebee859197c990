"""`--baselines`: what the slim model is compared with is trained as it is, several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunekit.errors import ParameterError
from prunekit.metrics import Metric
from prunekit.pipeline import decide, evaluate, models
from prunekit.pipeline.compress import compress, dry_run
from prunekit.pipeline.records import Answers
from prunekit.pipeline.result import Result
from prunekit.pruning.iterative import IterativePruner
from prunekit.recipe import Recipe
from prunekit.report.base import RowName
from prunekit.tasks import Task, TaskKind
from prunekit.training import distill
from tests import lines
from tests.lines import checkpoint, data


def made(tmp_path: Path, model: str, **parameters: Any) -> Result:
    with lines.quick():
        return compress(checkpoint(model), data("text"), dtype="fp32", out=tmp_path / "slim", baselines=True, **parameters)


def draws(result: Result, name: RowName) -> tuple[float, ...]:
    row = result.report.row(name)
    assert row is not None
    # The row is that of the median.
    assert not row.draws or row.value == sorted(row.draws)[len(row.draws) // 2]
    return row.draws


@pytest.mark.parametrize("keep", ["40%", "40% neurons"])
def test_all_are_trained_alike_and_so_is_the_dense_model_without_a_head(keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, int]] = []
    recover = distill.recover

    def counted(model: Any, *rest: Any, **named: Any) -> Any:
        trained.append((sum(each.numel() for each in model.parameters()), named["seed"]))
        return recover(model, *rest, **named)

    monkeypatch.setattr(distill, "recover", counted)
    result = made(tmp_path, "base", keep=keep, recover="1epochs", seed=3)
    assert len(draws(result, "random")) == len(draws(result, "magnitude")) == 3
    # Random and magnitude three times each, the slim model, and the dense one, than which none is larger.
    assert [seed for _, seed in trained] == [3, 4, 5, 3, 4, 5, 3, 3]
    assert trained[-1][0] == max(size for size, _ in trained)
    report = result.report
    # What is largest is cut once, whatever it is trained.
    shrunk = [name for name in report.stages if name.startswith("shrink, ")]
    assert shrunk == (["shrink, random", "shrink, random 2", "shrink, random 3", "shrink, magnitude"] if keep == "40%" else [])
    against = {each.against: each.name for each in report.paired if each.by == "difference"}
    assert against == {"random": "slim", "magnitude": "slim", "bag": "slim"}
    assert report.pair("slim", "tuned") is not None
    assert all(report.row(name).trained for name in ("random", "magnitude"))  # type: ignore[union-attr]
    page = (result.path / "report.md").read_text()
    assert "of that of dense trained for as long" in report.verdict
    assert "all draws" in page
    assert "random choice, not trained" not in page
    assert "were not trained" not in page


def test_without_training_three_are_drawn_and_what_is_largest_is_one(tmp_path: Path) -> None:
    result = made(tmp_path, "sequence", keep="40% params", recover="none")
    assert len(draws(result, "random")) == 3
    assert draws(result, "magnitude") == ()
    assert result.report.row("tuned") is None
    assert not result.report.row("random").trained  # type: ignore[union-attr]


def test_draws_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[str] = []
    baseline = models.baseline

    def kept(*arguments: Any) -> Any:
        found = baseline(*arguments)
        plans.append(found.plan.digest)
        return found

    monkeypatch.setattr(models, "baseline", kept)
    made(tmp_path, "sequence", keep="40% params", recover="none")
    # Three at random, and the largest.
    assert len(set(plans)) == len(plans) == 4


def test_the_answers_that_stay_are_the_median_s() -> None:
    task = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("a", "b"))
    labels = np.zeros(10, dtype=np.int64)
    right = {"random": 3, "random 2": 9, "random 3": 6}
    test = {name: Answers(np.eye(2)[np.where(np.arange(10) < count, 0, 1)], labels) for name, count in right.items()}
    test["slim"] = test["random 2"]
    found = evaluate._draws(task, test, several=True)
    assert found == {"random": (0.3, 0.9, 0.6)}
    assert set(test) == {"random", "slim"}
    assert task.score(*test["random"]) == pytest.approx(0.6)


def test_a_dry_run_says_how_long_they_take(tmp_path: Path) -> None:
    recipe = {"model": checkpoint("base"), "data": data("text"), "keep": "40%", "recover": "10min"}
    with lines.quick():
        plain, more = (dry_run(Recipe(**recipe, baselines=each), out=tmp_path / "slim") for each in (False, True))
    assert more.forecast is not None
    assert plain.forecast is not None
    assert more.forecast.seconds > 3 * plain.forecast.seconds


def test_a_plan_leaves_nothing_to_draw() -> None:
    with pytest.raises(ParameterError, match="baselines"):
        Recipe(plan="plan.json", baselines=True)


def test_the_statistics_of_the_choice_are_not_held_while_the_slim_model_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, held = list[IterativePruner](), list[bool]()
    fork, recover = IterativePruner.fork, distill.recover

    def forked(self: IterativePruner, *rest: Any, **named: Any) -> IterativePruner:
        starts.append(self)
        return fork(self, *rest, **named)

    def counted(*rest: Any, **named: Any) -> Any:
        held.append(any(each._sensitivities is not None or each._dense_calls is not None for each in starts))
        return recover(*rest, **named)

    monkeypatch.setattr(IterativePruner, "fork", forked)
    monkeypatch.setattr(distill, "recover", counted)
    with lines.quick():
        compress(checkpoint("sequence"), data("text"), dtype="fp32", out=tmp_path / "slim", keep="40% params", recover="1epochs")
    assert starts
    assert held == [False]


def test_baselines_are_the_same_where_their_statistics_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, held = {}, list[bool]()
    starts = list[IterativePruner]()
    fork, prune = IterativePruner.fork, decide.prune_to_targets

    def forked(self: IterativePruner, *rest: Any, **named: Any) -> IterativePruner:
        starts.append(self)
        return fork(self, *rest, **named)

    def pruned(*rest: Any, tighten: Any = None, **named: Any) -> None:
        held.append(starts[-1]._sensitivities is not None)
        prune(*rest, tighten=tighten, **named)

    monkeypatch.setattr(IterativePruner, "fork", forked)
    monkeypatch.setattr(decide, "prune_to_targets", pruned)
    for most in (2**30, 0):
        monkeypatch.setattr(decide, "_SHARED", most)
        recipe = {"keep": "40% params", "dtype": "fp32", "recover": "none"}
        with lines.quick():
            found[most] = compress(checkpoint("sequence"), data("text"), out=tmp_path / str(most), **recipe).report
    scores = [{row.name: row.value for row in report.rows} for report in found.values()]
    assert scores[0] == scores[1]
    assert {"random", "magnitude"} <= scores[0].keys()
    # The slim model, and the two baselines.
    assert held == [True] * 3 + [False] * 3
