from __future__ import annotations

import io
import itertools
import re
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from prunekit.report.progress import Stages, _BarText, stages
from prunekit.report.time_left import Expected


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond passes between two looks at the clock."""
    ticks = itertools.count()
    monkeypatch.setattr("prunekit.report.progress.time", SimpleNamespace(perf_counter=lambda: next(ticks) / 1000))


def run(stage: Stages) -> None:
    stage.expect([Expected("read train", 20.0), Expected("recover", 300.0, bounded=True), Expected("score", 10.0)])
    with stage("read train", unit="rows"):
        for done in (1000, 2000):
            stage.step(done, 2000)
            with stage("sample"):
                stage.step(1, 7)
    with stage("recover", unit="%"):
        stage.step(512, 1000, "step 40, accuracy 0.91")
        stage.detail("a detail")


def test_a_line_a_stage_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with stages(True) as stage:
        run(stage)
        with stage("score"):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "this takes about 6 min"
    assert re.fullmatch(r"read train: 0\.0 s, 2,000 rows, about 5 min left", lines[1])
    assert re.fullmatch(r"recover: 0\.0 s, step 40, accuracy 0\.91, about \d+ s left", lines[2])
    assert re.fullmatch(r"score: 0\.0 s", lines[3])
    assert stage.seconds.keys() == {"sample", "read train", "recover", "score"}


def test_more_and_less_is_said_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with stages(True, verbose=True) as stage:
        run(stage)
    said = capsys.readouterr().err
    assert "expected: recover, 5 min at most" in said
    assert "read train ...\n" in said
    assert "a detail" in said
    with stages(False, verbose=True) as stage:
        run(stage)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_one_bar_for_all_and_the_stage_beneath_it() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bars = Progress(TextColumn("{task.description}"), BarColumn(), _BarText(), console=console, auto_refresh=False)
    stage = Stages(bars)
    stage.expect([Expected("read train", 20.0), Expected("recover", 300.0, bounded=True)])

    def shown() -> list[str]:
        with console.capture() as captured:
            console.print(bars.get_renderable())
        return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() for line in captured.get().splitlines()]

    with stage("read train", unit="rows"):
        # Before anything is known of its size the stage says how long it has been at it.
        whole, beneath = shown()
        assert whole.startswith("in all")
        assert whole.endswith("about 5 min left")
        assert beneath.startswith("read train")
        assert beneath.endswith("1 s")
        stage.step(512, 2048)
        assert shown()[1].endswith("512/2,048 rows")
    with stage("recover", unit="%"):
        stage.step(512, 1000, "step 40, accuracy 0.91")
        assert shown()[1].endswith("51%, step 40, accuracy 0.91")
        assert not any("?" in line for line in shown())
    assert len(shown()) == 1
