"""Reports that go to a file, or alone to the standard output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunekit import cli
from prunekit.benchmark.results import Benchmark
from prunekit.cli.output_files import write_file
from prunekit.errors import OutputError
from tests.lines import checkpoint, line


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that prints on its way, as libraries do."""
    report = line("base").report

    def run(recipe: Any, **options: Any) -> Any:
        print("a library says something")
        return SimpleNamespace(path=options["out"], report=report)

    monkeypatch.setattr("prunekit.pipeline.compress.run", run)


@pytest.mark.usefixtures("reported")
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_the_report_is_all_that_is_on_the_standard_output(quiet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compress", "--json", "-", *quiet]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads(line("base").report.to_json())
    assert "a library says something" in said.err
    assert "prunekit-out" in said.err


@pytest.mark.usefixtures("reported")
def test_the_report_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compress", "--json", str(tmp_path / "report.json")]) == 0
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == line("base").report.to_json()
    assert "a library says something" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--json", "none/report.json"], "The 'json' parameter of compress must be a file in a directory that exists"),
        (["--json", "."], "The 'json' parameter of compress must be a file in a directory"),
        (["--json", "out/report.json", "--out", "out"], "The 'json' parameter of compress must be a file outside of the output directory"),
        (["--json", "-", "--dry-run"], "The 'json' parameter of compress must be left out beside --dry-run"),
        (["--json", "x" * 5000], "The 'json' parameter of compress must be a path that can exist"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_any_work(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    assert cli.main(["compress", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err


@pytest.mark.parametrize("read", ["rows.jsonl", "data/train.jsonl", "recipe.yaml", "link.jsonl"])
def test_what_is_read_is_never_replaced(read: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for name in ("rows.jsonl", "data/train.jsonl", "recipe.yaml"):
        (tmp_path / name).write_text("seed: 1\n")
    (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
    data = tmp_path / ("data" if read.startswith("data") else "rows.jsonl")
    asked = ["compress", "--data", str(data), "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]
    assert cli.main([*asked, "--json", str(tmp_path / read)]) == 2
    assert "must be another file than one that is read" in capsys.readouterr().err
    assert (tmp_path / read).read_text() == "seed: 1\n"


@pytest.mark.parametrize("name", ["model", "lr=0.1", "a:b=c"])
def test_a_model_is_never_replaced_by_a_benchmark(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    assert cli.main(["bench", f"a={tmp_path / name}", "--csv", str(tmp_path / name / "config.json")]) == 2
    assert "The 'csv' parameter of bench must be another file than one that is read" in capsys.readouterr().err


@pytest.mark.usefixtures("reported")
def test_a_report_is_replaced_only_where_that_is_asked_for_and_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "report.json"
    asked = ["compress", "--json", str(place)]
    place.touch()  # as `mktemp` leaves it
    assert cli.main(asked) == 0
    written = place.read_text(encoding="utf-8")
    assert cli.main(asked) == 2
    assert "must be a new file. Got" in capsys.readouterr().err
    assert cli.main([*asked, "--overwrite"]) == 0
    assert place.read_text(encoding="utf-8") == written
    for text in ("thesis", '{"thesis": 1}', "[]", "\x00"):
        place.write_text(text, encoding="utf-8")
        assert cli.main([*asked, "--overwrite"]) == 2
        assert "prunekit did not write what is there" in capsys.readouterr().err
        assert place.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("of", [["compress"], ["bench", "absent"]])
def test_what_is_no_file_is_neither_waited_for_nor_replaced(of: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        assert cli.main([*of, "--json", str(place)]) == 2
        assert "must be a regular file, or '-' for the standard output" in capsys.readouterr().err
    assert not Path("/dev/null").is_file()


@pytest.mark.needs("linux")
def test_where_no_file_can_be_made_is_said_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compress", "--json", "/proc/report.json"]) == 2
    assert "must be a file in a directory that exists and can be written" in capsys.readouterr().err


def test_a_job_summary_that_nobody_reads_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "pipe"))
    assert cli.main(["bench", "absent"]) == 2
    assert "GITHUB_STEP_SUMMARY" in capsys.readouterr().err


def test_a_file_is_written_beside_whatever_is_there(tmp_path: Path) -> None:
    (tmp_path / ".a.json.part").write_text("mine")
    (tmp_path / "a.json").write_text("old")
    write_file(tmp_path / "a.json", "new", sys.stdout)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {".a.json.part": "mine", "a.json": "new"}


@pytest.mark.needs("linux")
def test_a_file_that_the_disk_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("old")

    def full(path: Path, text: str, **_: Any) -> int:
        return Path("/dev/full").write_bytes(text.encode() * 10_000)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"a\.json' cannot be written: No space left on device"):
        write_file(tmp_path / "a.json", "new", sys.stdout)
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "old"}


@pytest.mark.needs("onnxruntime")
def test_a_benchmark_on_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["bench", str(checkpoint("sequence")), "--length", "5", "--time-budget", "0.001", "--batch-size", "2"]
    assert cli.main([*asked, "--json", "-"]) == 0
    said = capsys.readouterr()
    assert Benchmark.from_json(said.out).labels == ("batch 2, 5 tokens",)
    assert "sequence" in said.err
    assert cli.main([*asked, "--json", "-", "--csv", "-"]) == 2
    assert "The 'csv' parameter of bench must be another file than that of json" in capsys.readouterr().err
