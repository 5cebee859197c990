from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def hooks(root: Path) -> dict[str, dict[str, Any]]:
    (repository,) = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    return {hook["id"]: hook for hook in repository["hooks"]}


def test_the_hooks_are_what_check_runs(hooks: dict[str, dict[str, Any]], root: Path) -> None:
    check = (root / "check").read_text(encoding="utf-8")
    for hook in hooks.values():
        if hook["id"] != "news":
            assert " ".join(word for word in shlex.split(hook["entry"]) if word != "--force-exclude").split(" --check")[0] in check


@pytest.mark.parametrize(("file", "code"), [("changelog.d/a-word.fixed.md", 0), ("changelog.d/README.md", 1), ("prunekit/b.py", 1)])
def test_a_change_of_the_package_has_a_news_fragment(
    file: str, code: int, hooks: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("prunekit/a.py", file):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n", encoding="utf-8")
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, check=True)
    assert subprocess.run(shlex.split(hooks["news"]["entry"]), check=False).returncode == code
