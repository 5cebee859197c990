"""The Python of the README and the pages is run, page by page, on a tiny model in the place of the reader's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunekit.pipeline.compress import make_plan
from tests.lines import checkpoint, data, dense, quick, tokenizer_of

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.needs("onnxruntime")


def blocks(page: str) -> list[str]:
    return FENCE.findall((ROOT / page).read_text(encoding="utf-8"))


def execute(page: str, number: int, names: dict[str, Any], *changes: tuple[str, str]) -> None:
    """Run one block of a page, with some words of it changed, which must be there."""
    block = blocks(page)[number]
    for old, new in changes:
        assert old in block
        block = block.replace(old, new)
    with quick():
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as the pages suppose it: a model in path/to/model, rows, and what an earlier command wrote."""
    shutil.copytree(checkpoint("sequence"), tmp_path / "path" / "to" / "model")
    shutil.copytree(data("text"), tmp_path / "rows")
    monkeypatch.chdir(tmp_path)
    return tmp_path


#: What a tiny random model may lose is not what a page is about, nor is how long it is trained.
ROWS = '"rows.csv"', '"rows"'


def test_readme(desk: Path) -> None:
    names: dict[str, Any] = {}
    execute("README.md", 0, names, ('keep="10%", max_drop="2%"', 'keep="60%", recover="none"'), ROWS)
    assert names["model"].config.num_labels == 2
    execute("README.md", 1, names)
    assert names["outputs"][0].shape == (1, 2)
    execute("docs/deploy.md", 0, names)
    assert names["logits"].shape == (2, 2)


def test_quickstart(desk: Path) -> None:
    names: dict[str, Any] = {}
    execute("docs/quickstart.md", 0, names, ('keep=["10%", "20 MB"]', 'keep=["60%", "8 MB"], recover="none"'), ROWS)
    assert names["result"].path == Path("half")
    assert [path.name for path in sorted(desk.glob("*.json"))] == ["half.json", "plan.json"]


def test_training(desk: Path) -> None:
    plan = make_plan("path/to/model", "rows", keep="60% params")
    names = {"dense": dense("sequence"), "plan": plan, "tokenizer": tokenizer_of(), "texts": ["ba du ba"] * 60}
    execute("docs/training.md", 0, names, ("10min", "2epochs"))
    assert names["found"].epochs == 2
