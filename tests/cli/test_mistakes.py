"""What the command line says of a slip: what was meant, where that can be told, and nothing where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunekit import cli


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("compress --kep 10%", "No such option: --kep. Did you mean --keep? See 'prunekit compress --help'."),
        ("compress --lables a", "Did you mean --label?"),
        ("compress --speed 3", "Did you mean --speedup?"),
        ("compress --model a", "Did you mean MODEL, which stands without a flag?"),
        ("compress --num-train-epochs 3", "Did you mean --recover?"),
        ("plan --output-dir a", "Did you mean --out?"),
        ("export a --sequence-length 9", "Did you mean --max-length?"),
        ("compress --device cuda", "No such option: --device. What is measured runs on the processor"),
        ("compress --batch-size 8", "No such option: --batch-size. Batches are made up by the rows' lengths"),
        ("bench a --foo", "No such option: --foo. See 'prunekit bench --help'."),
        ("show a --verfy", "Did you mean --verify?"),
        ("compress --keep 0.1", "Did you mean '10%'?"),
        ("compress --keep 10", "Did you mean '10%'?"),
        ("compress --keep 40params", "Did you mean '40% params'?"),
        ("compress --keep 3x", "Did you mean --speedup 3x?"),
        ("compress --keep 30% params", "must be in quotes where it has two words: --keep '30% params'. Got ['30%', 'params'] instead."),
        ("compress a --keep=8 MB", "must be in quotes where it has two words: --keep '8 MB'."),
        ("compress --recover 10 min a", "must be in quotes where it has two words: --recover '10 min'."),
        ("compress --max-drop 1 %", "must be in quotes where it has two words: --max-drop '1 %'."),
        ("compress --dtype int-8", "Did you mean 'int8'?"),
    ],
)
def test_what_was_meant(
    arguments: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments.split()) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", ["compress --keep ten", "compress --keep 200%", "compress --keep", "compress a --keep"])
def test_nothing_is_suggested_where_nothing_can_be_told(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments.split()) == 2
    assert "Did you mean" not in capsys.readouterr().err
