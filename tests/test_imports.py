from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import prunekit

HEAVY = {"torch", "transformers", "numpy", "scipy", "sklearn", "datasets", "onnx", "onnxruntime", "pydantic", "rich", "pandas", "yaml"}


def loaded(code: str, root: Path) -> set[str]:
    """Top-level packages in memory after `code`, in a fresh interpreter."""
    probe = f"{code}\nimport sys, json\nprint()\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=root, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_itself_loads_nothing_heavy(root: Path) -> None:
    assert not loaded("import prunekit; dir(prunekit); prunekit.__version__", root) & HEAVY


def test_what_decides_needs_no_torch(root: Path) -> None:
    decide = ("analyzers.registry", "arch", "budget", "errors", "metrics", "plan", "probes.selection", "recipe", "stats.moments", "tasks")
    assert not loaded("import " + ", ".join(f"prunekit.{module}" for module in decide), root) & {"torch", "transformers"}


def test_help_loads_nothing_heavy(root: Path) -> None:
    commands = [[], ["bench"], ["compress"], ["plan"], ["apply"], ["export"], ["show"]]
    code = f"from prunekit.cli import main\nfor command in {commands!r}:\n    assert main([*command, '--help']) == 0"
    assert not loaded(code, root) & HEAVY


def test_public_names_are_loaded_on_first_use(root: Path) -> None:
    assert "pydantic" in loaded("import prunekit; prunekit.Plan", root)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        prunekit.prune  # noqa: B018


def test_no_module_hides_a_public_name(root: Path) -> None:
    # A submodule's import binds its name on the package, and would hide the function of the same name.
    modules = {path.stem for path in (root / "prunekit").iterdir()}
    assert not modules & (set(prunekit.__all__) - {"__version__"})


def test_names_that_became_packages_are_where_they_were() -> None:
    # As code written for the modules imports them, and as a pickle names them.
    assert pickle.loads(b"cprunekit.recipe\nRecipe\n.") is prunekit.Recipe
    assert pickle.loads(b"cprunekit.metrics\nMetric\n.")("f1") == "f1"
    with pytest.raises(ImportError, match="cannot import name 'Recipes'"):
        from prunekit.recipe import Recipes  # type: ignore[attr-defined]  # no such name  # noqa: F401
