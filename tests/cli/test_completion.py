"""What a shell completes, asked as the script of ``--show-completion`` asks."""

from __future__ import annotations

import pytest

from prunekit import cli
from prunekit.metrics import Metric


def completed(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_PRUNEKIT_COMPLETE", "complete_bash")
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("prunekit comp", {"compress"}),
        ("prunekit compress --dr", {"--drop", "--dry-run"}),
        ("prunekit compress --out", {"--out", "--output-dir"}),
        ("prunekit compress --dtype i", {"int8", "int8-static"}),
        ("prunekit compress --keep 10% --metric ", set(Metric)),
        ("prunekit compress --multiple-of 1", {"1", "16"}),
        ("prunekit export model --device ", {"cpu", "cuda"}),
        ("prunekit compress --text ", set()),
    ],
)
def test_options_and_choices(line: str, offered: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(completed(line, monkeypatch, capsys)) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_calls_the_program(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "")
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--show-completion"])
    assert not stopped.value.code
    assert "_PRUNEKIT_COMPLETE=complete_" + shell in capsys.readouterr().out
