"""Streams that are closed, full, or attached to a terminal that would obey what it is shown."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prunekit import cli
from prunekit.cli.base import say
from prunekit.cli.output_files import STDOUT, standard_output, write_file
from prunekit.errors import ExportError
from prunekit.plan import Plan, Source

_ASKED = [sys.executable, "-m", "prunekit", "compress", "--keep", "ten"]


def shell(redirect: str, folder: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """A mistake, with a stream as the shell makes it."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = f'exec "$@" {redirect}'
    return subprocess.run(["sh", "-c", command, "sh", *_ASKED], capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "1>&- 2>&-", ">/dev/full 2>&1"])
def test_the_exit_code_is_all_that_is_left(redirect: str, tmp_path: Path, root: Path) -> None:
    done = shell(redirect, tmp_path, root)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert not list(tmp_path.iterdir())


def test_a_closed_standard_error_is_no_file_that_is_opened_next(tmp_path: Path, root: Path) -> None:
    code = "from prunekit import cli; cli.main(['--version']); file = open('next', 'w'); print(file.fileno())"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    asked = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert int(done.stdout.split()[-1]) > 2


def test_a_terminal_that_does_not_know_a_character_is_shown_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Plan(source=Source(model_type="b\u00e9rt", layers=4, hidden=8, heads=2, ffn=16, vocabulary=30)).save(tmp_path / "plan.json")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.main(["show", str(tmp_path / "plan.json")]) == 0
    assert b"b\\xe9rt" in raw.getvalue()


def test_what_is_written_to_the_standard_output_is_what_a_file_would_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with standard_output((STDOUT,)) as stdout:
        write_file(STDOUT, '"\u00e9"', stdout)
    stdout.flush()
    assert raw.getvalue() == '"\u00e9"'.encode()


def test_what_a_terminal_would_obey_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    say("a\x1b[2Jb\nc\x07")
    assert capsys.readouterr().out == "a\\x1b[2Jb\nc\\x07\n"
    source = Source(model_type="bert\x1b[31m", layers=4, hidden=8, heads=2, ffn=16, vocabulary=30)
    (tmp_path / "plan.json").write_text(Plan(source=source, layers=(0, 1)).to_json(), encoding="utf-8")
    assert cli.main(["show", str(tmp_path / "plan.json")]) == 0
    assert "bert\\x1b[31m" in capsys.readouterr().out

    def export(*_: object, **__: object) -> None:
        raise ExportError("a library says \x1b]0;title\x07\x9b31m and\r\nmore")

    monkeypatch.setattr("prunekit.exporters.export.export", export)
    assert cli.main(["export", "model"]) == 2
    assert capsys.readouterr().err == "error: a library says \\x1b]0;title\\x07\\u009b31m and more\n"
