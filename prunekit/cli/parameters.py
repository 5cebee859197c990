"""Options of the commands: those declared in `prunekit.recipe.options`, and a few others that commands share.

The declarations are read from ``options.json``, which ``python docs/make_cli.py`` writes: pydantic takes longer to import than
``--help`` may take.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from prunekit.cli.mistakes import check_quoted
from prunekit.recipe.option import Group, Option
from prunekit.validation.arguments import called

DECLARED = tuple(
    Option(**{**row, "commands": tuple(row["commands"]), "choices": tuple(row["choices"])})
    for row in json.loads(Path(__file__).with_name("options.json").read_text(encoding="utf-8"))
)

_WHOLE = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)


def whole_number(text: str | int) -> int:
    """Parse a whole number, in digits alone: `int` would read 1_0 as 10, and the digits of any script."""
    if isinstance(text, int):  # an option's default
        return text
    if _WHOLE.fullmatch(text) is None:
        raise typer.BadParameter(f"{text[:40]!r} is not a whole number")
    return int(text)


def number(text: str | float) -> float:
    """Parse a finite number, in digits alone."""
    if isinstance(text, float):
        return text
    if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise typer.BadParameter(f"{text[:40]!r} is not a number")
    return float(text)


def option(*names: str, group: Group, choices: Sequence[str] = (), **settings: Any) -> Any:
    """Return a `typer.Option` under a heading of ``--help``; its help text gives the default, if any; a shell completes choices."""
    return typer.Option(*names, rich_help_panel=group, show_default=False, autocompletion=_completion(choices), **settings)


def _completion(choices: Sequence[str]) -> Callable[[str], list[str]] | None:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete if choices else None


RecipeFile = Annotated[
    Path | None,
    option("--recipe", group="Other options", metavar="FILE", help="YAML file of these options; those given here take precedence."),
]
Out = Annotated[
    Path, option("--out", "-o", "--output-dir", group="Output", metavar="DIR", help="Directory to write [default: prunekit-out].")
]
Overwrite = Annotated[bool, option("--overwrite", group="Output", help="Replace what prunekit wrote there before.")]
Quiet = Annotated[bool, option("--quiet", "-q", group="Other options", help="Print the name of what was written and nothing else.")]
Json = Annotated[
    Path | None,
    option("--json", group="Output", metavar="FILE", help="The report, here too; '-': on the standard output, and all else on stderr."),
]
Verbose = Annotated[bool, option("--verbose", "-v", group="Other options", help="Print each stage as it begins, and every note.")]
DryRun = Annotated[
    bool, option("--dry-run", group="Other options", help="Check everything, print what would be done and how long it takes, and stop.")
]


class Grouped(TyperCommand):
    """Command whose help lists options under headings, and that refuses values of two words without quotes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of the command."""
        check_quoted(args, str(self.name))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading, in the order of `prunekit.recipe.option.Group`."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Arguments", *get_args(Group))}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                heading = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Other options"
                sections[heading].append(record)
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def with_options(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, a function that takes ``**options``, the declared options that it does not have of its own.

    Every default is None, "not given", and what was not given is not passed on: a recipe's value is replaced by one that was given,
    and the defaults themselves are the Recipe's. Errors of options name the command.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        own_names = {parameter.name for parameter in own}
        taken = [row for row in DECLARED if command in row.commands and row.typed and row.name not in own_names]

        @functools.wraps(function)
        def call(**values: Any) -> None:
            unset = {row.name for row in taken if values[row.name] in (None, [], ())}
            with called(command):
                function(**{name: value for name, value in values.items() if name not in unset})

        arguments = [_parameter(row) for row in taken if row.positional]
        options = [_parameter(row) for row in taken if not row.positional]
        first = [parameter for parameter in own if parameter.default is parameter.empty]
        last = [parameter for parameter in own if parameter.default is not parameter.empty]
        parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*first, *arguments, *options, *last)]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


_TYPES = {"text": str, "texts": list[str], "whole": int, "number": float, "flag": bool}
_PARSERS = {"whole": whole_number, "number": number}


def _parameter(declared: Option) -> inspect.Parameter:
    settings: dict[str, Any] = {"help": declared.help, "metavar": declared.metavar or None, "parser": _PARSERS.get(declared.kind)}
    parameter = (
        typer.Argument(**settings)
        if declared.positional
        else option(declared.flag, group=declared.group, choices=declared.choices, **settings)
    )
    annotation = cast(Any, Annotated)[_TYPES[declared.kind] | None, parameter]
    return inspect.Parameter(declared.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
