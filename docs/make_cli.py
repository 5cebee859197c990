"""Writes what follows from the declared options: ``python docs/make_cli.py``.

docs/cli.md and tests/cli/options.txt from the commands, prunekit/cli/options.json from `prunekit.recipe.options`, and
prunekit/__init__.pyi, with which an editor completes the public functions, from their signatures.
"""

from __future__ import annotations

import importlib
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

import prunekit
from prunekit.recipe.option import Group, Option
from prunekit.recipe.signatures import all_options

ROOT = Path(__file__).resolve().parent.parent

_HEAD = """# Command line

This page is made by `python docs/make_cli.py`: the options are declared in `prunekit/recipe/options.py`, and a command's own in
`prunekit/cli/`.

Exit codes: 0 done; 1 a constraint that cannot be met, a gate that failed, or a directory that is not as it was
written; 2 a mistake in what was asked, with one line on stderr; 130 interrupted, and nothing was written.
"""

_STUB = '''"""The public names, as an editor completes them; made by ``python docs/make_cli.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch.nn import Module

'''


def declared() -> str:
    """prunekit/cli/options.json."""
    return json.dumps([asdict(option) for option in all_options()], indent=1, ensure_ascii=False) + "\n"


def commands(command: Any, path: str = "prunekit") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, groups before what they hold."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def _app() -> Any:
    from prunekit.cli import app  # once options.json has been written

    return typer.main.get_command(app)


def _parameters(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.name != "help"]


def _flag(parameter: Any) -> str:
    name = ", ".join(parameter.opts) if parameter.opts[0].startswith("-") else ""
    return " ".join(filter(None, [name, "" if getattr(parameter, "is_flag", False) else parameter.metavar or ""]))


def _heading(parameter: Any) -> int:
    """Where a parameter stands in ``--help``: arguments, then heading by heading."""
    headings = typing.get_args(Group)
    return headings.index(parameter.rich_help_panel or headings[-1]) if parameter.param_type_name == "option" else -1


def _row(parameter: Any, options: dict[str, Option]) -> str:
    option = options.get(parameter.name)
    more = f" {option.more}" if option is not None and option.help == parameter.help and option.more else ""
    return f"| `{_flag(parameter)}` | {parameter.help}{more} |"


def reference() -> str:
    """docs/cli.md."""
    parts, options = [_HEAD], {option.name: option for option in all_options()}
    for path, command in commands(_app()):
        parts.append(f"## {path}\n\n{inspect.cleandoc(command.help or '')}\n")
        rows = [_row(parameter, options) for parameter in sorted(_parameters(command), key=_heading)]
        rows += [f"| [`{path} {name}`](#{f'{path} {name}'.replace(' ', '-')}) | command |" for name in getattr(command, "commands", {})]
        if rows:
            parts.append("\n".join(["| option | what it is |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def frozen() -> str:
    """tests/cli/options.txt: one line a parameter; what a script of a user's may rely on."""
    lines = []
    for path, command in commands(_app()):
        lines.append(path)
        lines += sorted(f"{path} {_flag(parameter)}{' ...' if parameter.multiple else ''}" for parameter in _parameters(command))
    return "\n".join(lines) + "\n"


def stub() -> str:
    """prunekit/__init__.pyi: functions that take options written out, and every other name as it is."""
    names, functions = [], []
    for name, module in sorted(vars(prunekit)["_PUBLIC"].items(), key=lambda item: (item[1], item[0])):
        value = getattr(importlib.import_module(module), name)
        if inspect.isfunction(value) and _takes_options(value):
            functions.append(_definition(name, value))
        else:
            names.append(f"from {module} import {name} as {name}\n")
    return _STUB + "".join(names) + "\n__version__: str\n\n" + "\n".join(functions)


def _takes_options(function: Any) -> bool:
    return "__signature__" in vars(function)


def _definition(name: str, function: Any) -> str:
    """A function as a stub has it: its signature, a parameter a line, and its docstring."""
    hints = typing.get_type_hints(inspect.unwrap(function))
    lines, named = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            lines.append("*")
            named = True
        kind = _written(hints.get(parameter.name, parameter.annotation))
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"{parameter.name}: {kind}{default}".replace("'", '"'))
    head = "".join(f"    {line},\n" for line in lines)
    said = textwrap.indent(inspect.cleandoc(function.__doc__ or ""), "    ")
    return f'def {name}(\n{head}) -> {_written(hints["return"])}:\n    """{said.strip()}\n    """\n'


def _written(kind: Any) -> str:
    """A type, as source."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_written(each) for each in args)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_written(each) for each in args)}]"
    return "None" if kind is types.NoneType else str(kind.__name__)


if __name__ == "__main__":
    (ROOT / "prunekit" / "cli" / "options.json").write_text(declared(), encoding="utf-8")
    (ROOT / "prunekit" / "__init__.pyi").write_text(stub(), encoding="utf-8")
    (ROOT / "docs" / "cli.md").write_text(reference(), encoding="utf-8")
    (ROOT / "tests" / "cli" / "options.txt").write_text(frozen(), encoding="utf-8")
