from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError

from prunekit.errors import OutputError, ParameterError, StatisticsError
from prunekit.exporters.manifest import write_manifest
from prunekit.exporters.verify import verify
from prunekit.pipeline import hub
from prunekit.pipeline.result import Result
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.model import Report
from prunekit.report.tradeoff import tradeoff
from tests.lines import line
from tests.report.samples import report


def test_metrics_are_flat_and_those_of_the_report() -> None:
    result = line("uniform")
    found, told = result.metrics, result.report
    assert all(type(value) is float for value in found.values())
    assert json.loads(json.dumps(found)) == found
    slim, low, rival = told.row("slim"), told.low, told.dense_low
    assert slim is not None
    assert low is not None
    assert rival is not None
    assert next(iter(found)) == "accuracy"
    assert found["accuracy"] == slim.value
    assert found["retained_of_dense"] == told.retained("slim", "dense")
    assert found["int8_accuracy"] == low.value
    assert found["int8_flips"] == low.flips
    assert found["dense_int8_bytes"] == rival.bytes
    assert found["speedup_batch_1"] == told.latency[0].ratio("slim").value
    assert found["int8_speedup_batch_32"] == told.latency[1].ratio("slim int8").value
    assert found["kept_params"] == told.slim.params / told.dense.params
    assert {f"{row.name}_accuracy" for row in told.rows if row.name not in ("slim", "slim-low", "dense-low")} <= found.keys()


def test_a_result_is_short_where_it_is_shown() -> None:
    result = line("sequence")
    shown = repr(result)
    assert shown.startswith(f"Result({str(result.path)!r}, accuracy=")
    assert len(shown) < len(str(result.path)) + 140
    assert result.verdict == result.report.verdict


def test_the_picture_is_svg_with_a_point_for_each_file(tmp_path: Path) -> None:
    picture = line("uniform").plot()
    picture.save(tmp_path / "tradeoff.svg")
    root = ET.fromstring((tmp_path / "tradeoff.svg").read_text(encoding="utf-8"))
    assert picture._repr_svg_() == picture.svg
    spaces = {"s": "http://www.w3.org/2000/svg"}
    titles = [title.text or "" for title in root.findall(".//s:circle/s:title", spaces)]
    assert [title.partition(": ")[2].partition(",")[0] for title in titles] == ["dense", "dense", "slim", "slim"]
    assert {title.split(", ")[1] for title in titles} == {"fp32", "int8"}
    # One colour each, and names from outside are escaped.
    both = tradeoff({"<b>one</b>": line("uniform").report, "two": line("sequence").report}).svg
    assert "&lt;b&gt;one" in both
    assert ET.fromstring(both).findall(".//s:g[@class='c1']", spaces)
    with pytest.raises(StatisticsError, match="nothing to draw"):
        tradeoff({"bare": report(rows=(), paired=())})


class Hub:
    """Stands in for the hub: keeps what is put there."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, **options: Any) -> None:
        CALLS.append((repo_id, {**options, "token": self.token}))

    def create_commit(self, repo_id: str, operations: list[huggingface_hub.CommitOperationAdd], *, commit_message: str) -> Any:
        files = {}
        for each in operations:
            with each.as_file() as file:
                files[each.path_in_repo] = file.read()
        CALLS.append((repo_id, {"files": files, "message": commit_message}))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


CALLS: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture
def pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A result in a directory of its own, and a hub that is none."""
    CALLS.clear()
    monkeypatch.setattr(hub, "HfApi", Hub)
    made = line("uniform")
    shutil.copytree(made.path, tmp_path / "slim")
    return Result(tmp_path / "slim", made.plan, made.report, made.model)


def test_the_hub_gets_the_directory_with_a_complete_card(pushed: Result) -> None:
    recipe = (pushed.path / "recipe.yaml").read_text(encoding="utf-8")
    fields = {**yaml.safe_load(recipe), "model": "somebody/dense", "data": "glue", "data_config": "sst2"}
    (pushed.path / "recipe.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    write_manifest(pushed.path)
    (pushed.path / "handler.py").write_text("mine")
    where = pushed.push_to_hub("me/slim", license="apache-2.0", language=["en", "de"], private=True, token="secret")
    assert where == "https://hub/me/slim/commit/1"
    (made, options), (_, put) = CALLS
    assert (made, options) == ("me/slim", {"private": True, "exist_ok": True, "token": "secret"})
    text = put["files"]["README.md"].decode()
    card = huggingface_hub.ModelCard(text)
    assert card.data.to_dict().items() >= {
        "base_model": "somebody/dense", "datasets": ["glue"], "license": "apache-2.0", "language": ["en", "de"],
        "pipeline_tag": "text-classification", "metrics": ["accuracy"],
    }.items()  # fmt: skip
    plain, low = card.data.eval_results or []
    assert (plain.metric_name, plain.metric_value, plain.dataset_type, plain.dataset_config) == (
        "accuracy, fp32", pushed.report.files[0].value, "glue", "sst2",
    )  # fmt: skip
    assert (low.metric_name, low.metric_value) == ("accuracy, int8", pushed.report.files[1].value)
    assert "## How to load it" in text
    assert text.count("---\n") == 2
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "manifest.json", "plan.json"} <= put["files"].keys()
    # The manifest knows the new card, and nothing that somebody put beside it, which is not put there either.
    assert "handler.py" not in put["files"]
    found = verify(pushed.path)
    assert found is not None
    assert found.path == "handler.py"
    (pushed.path / "handler.py").unlink()
    assert verify(pushed.path) is None
    # And it may be put there again.
    pushed.push_to_hub("me/slim", license="mit", language="en")
    assert huggingface_hub.ModelCard(CALLS[-1][1]["files"]["README.md"].decode()).data.license == "mit"


def test_the_hub_is_not_told_paths_of_this_machine(pushed: Result, tmp_path: Path) -> None:
    recipe = Recipe.load(pushed.path / "recipe.yaml")
    assert recipe.model is not None
    assert recipe.data is not None
    secret = "/srv/clients/acme"
    known = {**pushed.plan.provenance, "model": f"{secret}/dense", "data": {**pushed.plan.provenance["data"], "source": f"{secret}/rows"}}
    plan = pushed.plan.model_copy(update={"provenance": {"composed": [known, known]}})
    recipe.model_copy(update={"model": f"{secret}/dense", "data": f"{secret}/rows"}).save(pushed.path / "recipe.yaml")
    plan.save(pushed.path / "plan.json")
    (pushed.path / "frontier").mkdir()
    plan.save(pushed.path / "frontier" / "p50.json")
    write_manifest(pushed.path)
    before = {name: (pushed.path / name).read_bytes() for name in ("recipe.yaml", "plan.json", "frontier/p50.json")}
    pushed.push_to_hub("me/slim", license="mit", language="en")
    files = CALLS[-1][1]["files"]
    own = str(Path(recipe.model).parent).encode()
    assert not [name for name, content in files.items() if b"acme" in content or own in content]
    down = tmp_path / "down"
    for name, content in files.items():
        (down / name).parent.mkdir(parents=True, exist_ok=True)
        (down / name).write_bytes(content)
    # The copy is complete and verified, its plan is the same, and its recipe names no model or data of the hub.
    assert verify(down) is None
    assert Plan.load(down).digest == plan.digest
    assert Plan.load(down).provenance["composed"][0]["data"]["sha256"] == known["data"]["sha256"]
    told = Recipe.load(down / "recipe.yaml")
    assert (told.model, told.data) == ("./dense", "./rows")
    assert told.replace(model=recipe.model, data=recipe.data) == recipe
    assert {name: (pushed.path / name).read_bytes() for name in before} == before
    assert verify(pushed.path) is None


def test_license_and_language_come_from_the_base_models_card(pushed: Result) -> None:
    base = pushed.path.parent / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: fr\n---\n# Base\n", encoding="utf-8")
    fields = {**yaml.safe_load((pushed.path / "recipe.yaml").read_text(encoding="utf-8")), "model": str(base)}
    (pushed.path / "recipe.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    pushed.push_to_hub("me/slim")
    data = huggingface_hub.ModelCard(CALLS[-1][1]["files"]["README.md"].decode()).data
    assert (data.license, data.language) == ("mit", "fr")
    # A path on somebody's disk is no name of a model, nor of a data set.
    assert data.base_model is None
    assert data.datasets is None


@pytest.mark.parametrize(
    ("repo", "told", "says"),
    [
        ("me/slim", {"language": "en"}, "The 'license' parameter of push_to_hub must be given"),
        ("me/slim", {"license": "mit"}, "The 'language' parameter of push_to_hub must be given"),
        ("slim", {"license": "mit", "language": "en"}, "The 'repo_id' parameter of push_to_hub must be 'user/name'"),
        ("../slim/x", {"license": "mit", "language": "en"}, "must be 'user/name'"),
    ],
)
def test_what_the_card_would_lack_is_said_before_anything_is_uploaded(repo: str, told: dict[str, str], says: str, pushed: Result) -> None:
    before = (pushed.path / "README.md").read_bytes()
    with pytest.raises(ParameterError, match=says):
        pushed.push_to_hub(repo, **told)
    assert not CALLS
    assert (pushed.path / "README.md").read_bytes() == before


def test_what_the_hub_refuses_is_one_line(pushed: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("403 Forbidden:\nnot yours")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    assert issubclass(HfHubHTTPError, OSError)
    with pytest.raises(OutputError, match="'me/slim' cannot be written: 403 Forbidden: not yours"):
        pushed.push_to_hub("me/slim", license="mit", language="en")


def test_reports_read_from_files_are_drawn_too() -> None:
    result = line("uniform")
    again = Report.from_json((result.path / "report.json").read_text(encoding="utf-8"))
    assert tradeoff({again.data: again}).svg == result.plot().svg
