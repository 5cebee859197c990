"""Writes docs/cli.md, and tests/cli/options.txt, from the commands themselves: ``python docs/make_cli.py``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from prunekit.cli import app

ROOT = Path(__file__).resolve().parent.parent

_HEAD = """# Command line

This page is made by `python docs/make_cli.py` from the commands themselves; edit the help in `prunekit/cli/` instead.

Exit codes: 0 done; 1 a constraint that cannot be met; 2 a mistake in what was asked, with one line on stderr;
130 interrupted, and nothing was written.
"""


def commands(command: Any, path: str = "prunekit") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, groups before what they hold."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def _parameters(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.name != "help"]


def _flag(parameter: Any) -> str:
    name = ", ".join(parameter.opts) if parameter.opts[0].startswith("-") else ""
    return " ".join(filter(None, [name, "" if getattr(parameter, "is_flag", False) else parameter.metavar or ""]))


def reference() -> str:
    """docs/cli.md."""
    parts = [_HEAD]
    for path, command in commands(typer.main.get_command(app)):
        parts.append(f"## {path}\n\n{inspect.cleandoc(command.help or '')}\n")
        rows = [f"| `{_flag(parameter)}` | {parameter.help} |" for parameter in _parameters(command)]
        rows += [f"| [`{path} {name}`](#{f'{path} {name}'.replace(' ', '-')}) | command |" for name in getattr(command, "commands", {})]
        if rows:
            parts.append("\n".join(["| option | what it is |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def options() -> str:
    """tests/cli/options.txt: one line a parameter; what a script of a user's may rely on."""
    lines = []
    for path, command in commands(typer.main.get_command(app)):
        lines.append(path)
        lines += [f"{path} {_flag(parameter)}{' ...' if parameter.multiple else ''}" for parameter in _parameters(command)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(reference(), encoding="utf-8")
    (ROOT / "tests" / "cli" / "options.txt").write_text(options(), encoding="utf-8")
