"""A short run of every target, and everything that ever failed."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

#: Examples of each target; `python -m tests.fuzz` runs as many as are asked for.
EXAMPLES = int(os.environ.get("PRUNEKIT_FUZZ", "100"))
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.txt"))


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_read_or_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        target.run(data.draw(target.examples))

    run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_failed_once_fails_no_more(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    target = TARGETS[path.stem]
    for line in path.read_text(encoding="utf-8").splitlines():
        target.run(ast.literal_eval(line))
