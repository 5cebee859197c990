from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prunekit.metrics import Metric
from prunekit.pipeline.compress import compress
from prunekit.pipeline.paired import paired
from prunekit.pipeline.records import Answers
from prunekit.report.model import Paired
from prunekit.tasks import Task, TaskKind
from tests import lines
from tests.lines import checkpoint, data

TASK = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("a", "b"))


def answers(right: np.ndarray) -> Answers:
    """To rows that are all of class 0."""
    return Answers(np.eye(2)[np.where(right, 0, 1)], np.zeros(len(right), dtype=np.int64))


def pair(found: tuple[Paired, ...], name: str, against: str) -> Paired:
    (one,) = (each for each in found if (each.name, each.against) == (name, against))
    return one


def test_shares_and_differences_have_the_interval_of_the_paired_rows() -> None:
    generator = np.random.default_rng(0)
    dense = generator.random(2000) < 0.9
    slim, random = (np.where(generator.random(2000) < share, ~dense, dense) for share in (0.02, 0.06))
    found = paired(TASK, {"dense": answers(dense), "slim": answers(slim), "random": answers(random)}, seed=0)
    assert [(each.name, each.against, each.by) for each in found] == [
        ("slim", "dense", "share"),
        ("random", "dense", "share"),
        ("slim", "random", "difference"),
    ]
    share, difference = pair(found, "slim", "dense"), pair(found, "slim", "random")
    assert share.value == pytest.approx(slim.mean() / dense.mean())
    # The delta method and the normal distribution are near for 2,000 rows.
    error = np.std(slim - share.value * dense) / np.sqrt(2000) / dense.mean()
    assert (share.high - share.low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    gaps = slim.astype(float) - random
    assert difference.value == pytest.approx(gaps.mean())
    assert (difference.high - difference.low) / 2 == pytest.approx(1.96 * gaps.std() / np.sqrt(2000), rel=0.15)
    assert difference.differs


def test_the_same_answers_do_not_differ_and_a_reference_of_nothing_has_no_shares() -> None:
    right = np.arange(40) % 3 > 0
    same = paired(TASK, {"dense": answers(right), "slim": answers(right), "random": answers(right)}, seed=0)
    assert not any(each.differs for each in same)
    none = paired(TASK, {"dense": answers(np.zeros(40, dtype=bool)), "slim": answers(right)}, seed=0)
    assert none == ()


def test_a_trained_model_is_compared_with_baselines_as_it_was_before(tmp_path: Path) -> None:
    with lines.quick():
        found = compress(checkpoint("sequence"), data("text"), keep="40% params", recover="1epochs", dtype="fp32", out=tmp_path / "slim")
        plain = compress(checkpoint("sequence"), data("text"), keep="40% params", recover="none", dtype="fp32", out=tmp_path / "plain")
    before, alone = found.report.row("untrained"), plain.report.row("slim")
    assert before is not None
    assert alone is not None
    # What was kept before training is the model of a run that does not train.
    assert (before.value, before.low, before.high) == (alone.value, alone.low, alone.high)
    assert plain.report.row("untrained") is None
    against = {each.against: each.name for each in found.report.paired if each.by == "difference"}
    assert against == {"random": "untrained", "magnitude": "untrained", "bag": "slim"}
    assert {each.name for each in plain.report.paired if each.by == "difference"} == {"slim"}
    assert "random choice, not trained" in (tmp_path / "slim" / "report.md").read_text()
    assert any("compared with the slim model as it was before training" in note for note in found.report.notes)
