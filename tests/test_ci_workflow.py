from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer
import yaml

from prunekit import cli


def test_the_ready_workflow_is_yaml_and_its_commands_exist(root: Path) -> None:
    workflow = yaml.safe_load((root / "docs" / "ci" / "prunekit-bench.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    lines = [step["run"] for step in job["steps"] if step.get("run", "").startswith("prunekit ")]
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {line.split()[1] for line in lines} == {"compress", "bench"}
    for line in lines:
        words = shlex.split(line)
        command = commands[words[1]]
        # Parsed by the command itself: options, and the types of their values.
        context = command.make_context(words[1], words[2:])
        assert context.params["data"] == "data/"
    # A push keeps its own model, and none that was restored before.
    restored = next(step for step in job["steps"] if "cache/restore" in step.get("uses", ""))
    assert restored["if"] == "github.event_name == 'pull_request'"
    assert all(step.get("uses") is None or re.fullmatch(r"actions/[\w/-]+@v\d+", step["uses"]) for step in job["steps"])
