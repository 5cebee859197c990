from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from prunekit.report.tradeoff import Picture
from tests import lines

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "from-model-to-server.ipynb"


def cells(kind: str) -> list[str]:
    """The sources of the notebook's cells of a kind."""
    return ["".join(cell["source"]) for cell in json.loads(PAGE.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def shown(source: str, names: dict[str, Any]) -> object:
    """Run a cell as a notebook does; the value of its last line, where that is an expression."""
    body, _, last = source.rpartition("\n")
    try:
        value = compile(last, "last", "eval")
    except SyntaxError:
        exec(compile(source, "cell", "exec"), names)
        return None
    exec(compile(body, "cell", "exec"), names)
    return eval(value, names)


@pytest.mark.needs("onnxruntime")
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    # Its server is on this machine, wherever requests go otherwise.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    names: dict[str, Any] = {"__name__": "__main__"}
    with lines.quick():
        values = [shown(source, names) for source in cells("code")]
    said = capsys.readouterr().out
    assert float(re.findall(r"loss ([0-9.]+)", said)[0]) < 0.3
    assert "Slim: " in said
    assert values[-1] == {"label": "fruit"}
    assert any(isinstance(value, Picture) for value in values)
    metrics = next(value for value in values if isinstance(value, dict) and "accuracy" in value)
    assert metrics["accuracy"] > 0.8
    assert metrics["kept_params_layers"] <= 0.3
    assert [answer["label"] for answer in next(value for value in values if isinstance(value, list))] == ["fruit", "tools"]
    assert {"model.onnx", "model_quantized.onnx"} <= set(os.listdir(tmp_path / "slim" / "onnx"))


def test_it_is_kept_without_outputs() -> None:
    for cell in json.loads(PAGE.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", "\n".join(cells("markdown")))
    assert links
    assert all((PAGE.parent / link).is_file() for link in links)
