"""A plan from the statistics that an analysis wrote: the same plan, and no run of the model; what does not fit is refused."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from prunekit import cli
from prunekit.errors import ParameterError, StatisticsError
from prunekit.pipeline.analyze import analyze
from prunekit.pipeline.compress import make_plan
from prunekit.plan import Plan
from prunekit.stats.collect import collect
from tests import lines
from tests.lines import CASES, checkpoint, data

_HOME = tempfile.TemporaryDirectory(prefix="prunekit-statistics-")


def statistics(model: str, rows: str, *, most: int = 2000, analyzers: str = "probes", **parameters: Any) -> Path:
    """Those of an analysis, made once in a process."""
    out = Path(_HOME.name) / "-".join(map(str, (model, rows, most, analyzers, *parameters.values())))
    if not out.exists():
        analyze(checkpoint(model), data(rows), out=out, rows=most, analyzers=[analyzers], **parameters)
    return out / "statistics.safetensors"


def collected_splits() -> Any:
    return patch("prunekit.pipeline.neurons.collect", side_effect=collect)


@pytest.mark.parametrize("case", ["base", "tokens"])
def test_the_plan_is_the_one_of_a_run(case: str) -> None:
    model, rows, recipe = CASES[case]
    with collected_splits() as runs:
        found = make_plan(checkpoint(model), data(rows), statistics=statistics(model, rows), **recipe)
    assert not runs.called
    direct = make_plan(checkpoint(model), data(rows), **recipe)
    assert found.digest == direct.digest
    assert {key for key, value in found.provenance.items() if direct.provenance.get(key) != value} == {"statistics"}


def test_a_budget_of_params_is_met_after_it() -> None:
    model, rows, recipe = CASES["both"]
    kept = statistics(model, rows, pooling="mean", seed=1)
    found = make_plan(checkpoint(model), data(rows), statistics=kept, **recipe)
    direct = make_plan(checkpoint(model), data(rows), **recipe)
    assert found.readout == direct.readout
    assert found.digest == direct.digest


def test_of_a_part_of_the_rows_the_plan_is_that_of_these_rows(tmp_path: Path) -> None:
    kept = statistics("base", "topics", most=40)
    assert cli.main(["plan", str(checkpoint("base")), "--data", str(data("topics")), "--keep", "20%", "--statistics", str(kept),
                     "-o", str(tmp_path / "plan.json"), "-q"]) == 0  # fmt: skip
    found = Plan.load(tmp_path / "plan.json")
    assert found.provenance["statistics"] == {"rows": 40, "kept": 40}
    assert found.readout is not None
    assert 1 <= found.readout.size <= 12


def copied(folder: Path, seed: int) -> Path:
    """Another checkpoint of the same shape."""
    return lines.save(lines.model_of(seed=seed), folder / "other")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"data": "text"}, StatisticsError, "are of other data, .*topics.*Run prunekit analyze on these"),
        ({"model": "other"}, StatisticsError, "are of another model, .*base.*its weights are not those of .*other"),
        ({"pooling": "cls"}, StatisticsError, "of other options: pooling was 'mean', and is 'cls' here"),
        ({"max_length": 8}, StatisticsError, "of other options: max_length was 64, and is 8 here"),
        ({"layers": "0-1"}, ParameterError, "'statistics' parameter of plan must be left out with layers or drop"),
        ({"keep": "40% params"}, ParameterError, "'statistics' parameter of plan must be left out where no budget counts neurons"),
        ({"file": "absent"}, StatisticsError, "The statistics '.*absent' cannot be read"),
        ({"file": "cka"}, StatisticsError, "no rows of validation.*with 'neurons' among --analyzers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_one_line(
    given: dict[str, Any], error: type[Exception], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"keep": "20%", **given}
    model = copied(tmp_path, 1) if options.pop("model", None) else checkpoint("base")
    rows = data(options.pop("data", "topics"))
    named = options.pop("file", None)
    kept = tmp_path / "absent" if named == "absent" else statistics("base", "topics", analyzers=named or "probes")
    with pytest.raises(error, match=says):
        make_plan(model, rows, statistics=kept, **options)
    (tmp_path / "place").mkdir()
    out = tmp_path / "place" / "plan.json"
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.main(["plan", str(model), "--data", str(rows), "--statistics", str(kept), *flags, "-o", str(out)]) == 2
    assert re.search(rf"^error: .*{says}.*\n\Z", capsys.readouterr().err, re.MULTILINE)
    assert not list(out.parent.iterdir())


def test_a_plan_is_not_written_over_that_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(checkpoint("sequence"), tmp_path / "model"))
    monkeypatch.chdir(folder)
    assert cli.main(["plan", ".", "--data", str(data("text")), "--keep", "60% params"]) == 2
    assert "'out' parameter of plan must be a file outside of the model's directory" in capsys.readouterr().err
    assert not (folder / "plan.json").exists()
