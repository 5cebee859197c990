"""Reports that go to a file, or alone to the standard output."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunekit import cli
from prunekit.benchmark.results import Benchmark
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


@pytest.mark.needs("onnxruntime")
def test_a_benchmark_on_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["bench", str(checkpoint("sequence")), "--length", "5", "--time-budget", "0.001", "--batch-size", "2"]
    assert cli.main([*asked, "--json", "-"]) == 0
    said = capsys.readouterr()
    assert Benchmark.from_json(said.out).labels == ("batch 2, 5 tokens",)
    assert "sequence" in said.err
    assert cli.main([*asked, "--json", "-", "--csv", "-"]) == 2
    assert "The 'csv' parameter of bench must be another file than that of json" in capsys.readouterr().err
