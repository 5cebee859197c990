"""From a model and data to an analysis: what is written, what is said, and what is refused."""

from __future__ import annotations

import functools
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import prunekit
from prunekit import cli
from prunekit.analyzers.registry import ANALYZERS
from prunekit.errors import ParameterError, StatisticsError
from prunekit.pipeline.analyze import Analysis, analyze
from prunekit.stats import rows as row_stores
from prunekit.stats.collect import collect
from prunekit.stats.record import Statistics
from tests.lines import checkpoint, data, model_of, sentences, tokenizer_of, write_rows

FILES = {"analysis.json", "analysis.html", "statistics.safetensors", "manifest.json"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A fine-tuned model and another one of the same shape."""
    base = tmp_path_factory.mktemp("models") / "base"
    model_of("BertForSequenceClassification", seed=1).save_pretrained(base)
    tokenizer_of().save_pretrained(base)
    return checkpoint("sequence"), base


@pytest.fixture(scope="module")
def found(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    out = tmp_path_factory.mktemp("out") / "analysis"
    rows = pd.DataFrame({"text": ["bana dupo", "morik", "reba tef bana"]})
    return analyze(pair[0], data("text"), compare=pair[1], out_of_domain=rows, rows=80, out=out, pooling="mean")


def test_every_analyzer_says_and_shows_something(found: Analysis) -> None:
    written = json.loads((found.path / "analysis.json").read_text())
    assert {path.name for path in found.path.iterdir()} == FILES
    assert set(found.results) | set(found.skipped) == {analyzer.name for analyzer in ANALYZERS}
    assert {"cka", "rsa", "clusters", "ablation", "importance"} <= set(found.results)
    assert set(written["analyzers"]) == set(found.results)
    assert written["notes"]
    for name, result in found.results.items():
        assert written["analyzers"][name] == result.to_json()
        assert all(line and "\n" not in line for line in result.summary())
        for figure in result.figures():
            assert figure.title
            assert figure.note.endswith(".")


def test_the_page_stands_alone(found: Analysis) -> None:
    page = (found.path / "analysis.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert "<script" not in page
    assert page.count("<figure>") == page.count("</figure>") == sum(len(result.figures()) for result in found.results.values())
    # Every figure says something to those who do not see it, and nothing is drawn at NaN.
    assert "nan" not in re.sub(r">[^<]*<", "><", page).lower()


def test_the_statistics_are_those_of_the_rows(found: Analysis) -> None:
    assert found.statistics is not None
    read = Statistics.load(found.path / "statistics.safetensors")
    assert read.moments.count == 80
    np.testing.assert_array_equal(read.moments.comoment, found.statistics.moments.comoment)


def test_a_model_over_the_limit_is_said_and_leaves_no_statistics(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Analysis
) -> None:
    for module in ("analyzers.base", "pipeline.analyze", "pipeline.observations"):
        monkeypatch.setattr(importlib.import_module(f"prunekit.{module}"), "LARGEST_COMOMENT", 1000)
    parts = analyze(pair[0], data("text"), analyzers=["cka", "clusters"], rows=80, out=tmp_path / "a", pooling="mean")
    assert parts.statistics is None
    assert {path.name for path in parts.path.iterdir()} == FILES - {"statistics.safetensors"}
    assert "it is made in parts, and statistics.safetensors is not written; 0 MB for the tree" in (parts.path / "analysis.json").read_text()
    alone = analyze(pair[0], data("text"), analyzers=["cka"], rows=80, out=tmp_path / "alone", pooling="mean")
    said = next(note for note in alone.page.notes if note.startswith("memory: "))
    assert "it is not made" in said
    assert "tree" not in said
    whole = analyze(pair[0], data("text"), rows=80, out=tmp_path / "b", pooling="mean")
    assert {"probes", "neurons"} <= set(whole.skipped)
    assert "dimensions, cka and clusters do without" in whole.skipped["probes"]
    assert whole.results["dimensions"].to_json()["model"] == found.results["dimensions"].to_json()["model"]
    with pytest.raises(ParameterError, match=r"'probes' instead\. It needs the co-moment of all neurons"):
        analyze(pair[0], data("text"), analyzers=["probes"], rows=80, out=tmp_path / "c", pooling="mean")
    assert parts.results["clusters"].to_json()["counts"] == found.results["clusters"].to_json()["counts"]


def tree_rows(rows: int, seed: int) -> list[dict[str, object]]:
    """Words whose tags are their ends, in chains."""
    found: list[dict[str, object]] = []
    for words in sentences(rows, seed):
        names = ["root", *(word[:2] for word in words[1:])]
        found.append({"tokens": words, "tags": [word[-3:] for word in words], "head": list(range(len(words))), "deprel": names})
    return found


@pytest.mark.parametrize("kind", ["text", "trees"])
def test_rows_in_a_file_give_what_rows_in_memory_give(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stores, "_CHUNK_BYTES", 7 * 4 * 64)
    given: dict[str, str] = {}
    if kind == "text":
        model, task = checkpoint("sequence"), data("text")
    else:
        rows = {name: tree_rows(40, at) for at, name in enumerate(("train", "validation", "test"))}
        model, task, given = checkpoint("base"), write_rows(tmp_path / "rows", rows), {"tags": "tags"}
    memory = analyze(model, task, rows=60, out=tmp_path / "a", **given)
    monkeypatch.setattr(importlib.import_module("prunekit.pipeline.observations"), "collect", functools.partial(collect, limit=0))
    file = analyze(model, task, rows=60, out=tmp_path / "b", **given)
    assert ("syntax" in memory.results) == (kind == "trees")
    assert {name: result.to_json() for name, result in file.results.items()} == {
        name: result.to_json() for name, result in memory.results.items()
    }


def test_outside_text_is_compared_too(found: Analysis) -> None:
    rsa = found.results["rsa"].to_json()
    assert len(rsa["outside"]) == len(rsa["inside"]) == 4
    assert rsa["outside_tokens"] < rsa["tokens"]


def test_the_same_again_gives_the_same(found: Analysis, pair: tuple[Path, Path], tmp_path: Path) -> None:
    again = analyze(pair[0], data("text"), compare=pair[1], analyzers=["clusters", "cka"], rows=80, out=tmp_path / "a", pooling="mean")
    for name in ("clusters", "cka"):
        assert again.results[name].to_json() == found.results[name].to_json()


def test_what_needs_a_second_model_is_skipped_and_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    alone = analyze(pair[0], data("text"), rows=40, out=tmp_path / "a", pooling="mean")
    assert "--compare" in alone.skipped["rsa"]
    assert "not run: rsa" in (alone.path / "analysis.html").read_text()
    with pytest.raises(ParameterError, match=r"'analyzers'.*--compare"):
        analyze(pair[0], data("text"), analyzers=["rsa"], rows=40, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"analyzers": ["ckka"]}, "'analyzers' parameter of analyze must be of cka"),
        ({"rows": 0}, "'rows' parameter of analyze must be a whole number from 1 to"),
        ({"keep": "10%"}, "'keep' parameter of analyze"),
        ({"out_of_domain": {"text": ["a"]}}, "'out_of_domain' parameter of analyze"),
    ],
)
def test_mistakes_are_one_line(given: dict[str, object], match: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=match):
        analyze(pair[0], data("text"), out=tmp_path / "a", **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_one_row_is_an_error_of_one_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="more than one row"):
        analyze(pair[0], data("text"), analyzers=["cka"], rows=1, out=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_an_analysis_is_replaced_only_where_that_is_asked_for(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "a"
    arguments = ["analyze", str(pair[0]), "--data", str(data("text")), "--analyzers", "clusters", "--rows", "40", "-o", str(out), "-q"]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 2
    assert cli.main([*arguments, "--overwrite"]) == 0


def test_the_terminal_says_what_the_page_says(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a"
    assert (
        cli.main(["analyze", str(pair[0]), "--data", str(data("text")), "--analyzers", "cka,clusters", "--rows", "40", "-o", str(out)]) == 0
    )
    said = capsys.readouterr().out
    for result in json.loads((out / "analysis.json").read_text())["analyzers"]:
        assert result in ("cka", "clusters")
    assert "Correlated neurons" in said
    assert str(out / "analysis.html") in said


def test_public_names() -> None:
    assert prunekit.analyze is analyze
