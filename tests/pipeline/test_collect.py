"""Statistics in parts give the plan of a run that reads all rows itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunekit
from prunekit import cli
from prunekit.errors import ParameterError, StatisticsError
from prunekit.pipeline.compress import make_plan
from prunekit.plan import Plan
from prunekit.stats.record import Statistics
from tests.lines import CASES, checkpoint, data


def words(command: str, model: str, rows: str, *more: str) -> list[str]:
    return [command, str(checkpoint(model)), "--data", str(data(rows)), *more, "-q"]


@pytest.mark.parametrize("case", ["base", "tokens"])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_give_the_plan_of_a_run(case: str, parts: int, tmp_path: Path) -> None:
    model, rows, recipe = CASES[case]
    paths = [tmp_path / f"part-{part}.safetensors" for part in range(parts)]
    for part, path in enumerate(paths, 1):
        assert cli.main(words("collect", model, rows, "--shard", f"{part}/{parts}", "-o", str(path))) == 0
    whole = tmp_path / "whole.safetensors"
    if parts > 1:
        assert cli.main(["merge", *map(str, reversed(paths)), "-o", str(whole), "-q"]) == 0
    else:
        whole = paths[0]
    at_once = Statistics.load(prunekit.collect(checkpoint(model), data(rows), out=tmp_path / "at-once"))
    found = Statistics.load(whole)
    scale = np.abs(at_once.moments.comoment).max()
    assert np.abs(found.moments.comoment - at_once.moments.comoment).max() <= 1e-10 * scale
    # Whatever part a row is in, it is padded with the same others.
    assert np.array_equal(found.train.sample.rows, at_once.train.sample.rows)
    assert found.validation is not None
    assert at_once.validation is not None
    assert np.array_equal(found.validation.sample.rows, at_once.validation.sample.rows)
    plan = make_plan(checkpoint(model), data(rows), statistics=whole, **recipe)
    assert plan.digest == make_plan(checkpoint(model), data(rows), **recipe).digest


def test_a_part_without_rows_of_validation(tmp_path: Path) -> None:
    # Sixty rows are one batch, which one part has.
    model, rows, recipe = CASES["base"]
    paths = [prunekit.collect(checkpoint(model), data(rows), shard=f"{part}/3", out=tmp_path / str(part)) for part in (1, 2, 3)]
    assert [Statistics.load(path).validation is None for path in paths] == [False, True, True]
    found = prunekit.merge([paths[2], paths[0], paths[1]], out=tmp_path / "whole")
    assert make_plan(checkpoint(model), data(rows), statistics=found, **recipe).readout is not None


def test_a_part_alone_makes_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, rows, _ = CASES["base"]
    part = prunekit.collect(checkpoint(model), data(rows), shard="2/2", out=tmp_path / "part")
    out = tmp_path / "plan.json"
    assert cli.main([*words("plan", model, rows, "--statistics", str(part)), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert "are of part 2 of 2 alone. Put all of them together first: prunekit merge" in said
    assert said.count("\n") == 1
    assert not out.exists()
    with pytest.raises(StatisticsError, match="part 2 of 2 alone"):
        make_plan(checkpoint(model), data(rows), statistics=part)


@pytest.mark.parametrize(
    "shard", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4 ", "01/4", "1.0/4", "1/4/4", "1/9999999", "1/65537", "\u0661/4"]
)
def test_what_is_no_part_is_refused_before_any_work(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ParameterError, match="'shard' parameter of collect must be a part and their number, such as '1/4'"):
        prunekit.collect("nowhere", "nothing", shard=shard, out=tmp_path / "out")
    assert cli.main(["collect", "nowhere", "--data", "nothing", f"--shard={shard}", "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shard": "1/400"}, "one of at most 5 parts, as many as train has batches"),
        ({"task": "embedding"}, "of a task whose labels neurons are chosen for"),
        ({"metric": "f1"}, "'metric' parameter of collect must be left out"),
        ({"keep": "10%"}, "'keep' parameter of collect must be left out"),
    ],
)
def test_what_cannot_be_collected_is_refused(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=says):
        prunekit.collect(checkpoint("base"), data("topics"), out=tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_parts_of_other_rows_or_options_do_not_fit(tmp_path: Path) -> None:
    one = prunekit.collect(checkpoint("base"), data("topics"), shard="1/2", out=tmp_path / "1")
    others: list[tuple[str, dict[str, Any], str]] = [
        ("text", {}, "data"),
        ("topics", {"max_length": 8}, "tokens|max_length"),
        ("topics", {"pooling": "cls"}, "pooling"),
    ]
    for number, (rows, options, says) in enumerate(others):
        other = prunekit.collect(checkpoint("base"), data(rows), shard="2/2", out=tmp_path / f"other-{number}", **options)
        with pytest.raises(StatisticsError, match=f"are of different ({says})"):
            prunekit.merge([one, other], out=tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_the_plan_says_what_it_was_made_on(tmp_path: Path) -> None:
    found = prunekit.collect(checkpoint("base"), data("topics"), out=tmp_path / "statistics")
    assert (
        cli.main([*words("plan", "base", "topics", "--keep", "20% neurons", "--statistics", str(found)), "-o", str(tmp_path / "p.json")])
        == 0
    )
    assert Plan.load(tmp_path / "p.json").provenance["statistics"]["rows"] == 300
    assert json.loads((tmp_path / "p.json").read_text())["readout"]["pooling"] == "mean"
