"""Usage errors: the option that was meant, where that can be inferred."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prunekit.errors import ParameterError
from prunekit.validation.suggestions import near

#: Options of other tools that some commands here lack, with the reason.
_NOT_HERE = {
    "device": "What is measured runs on the processor, training on a GPU where there is one; prunekit export makes files for either.",
    "batch_size": "Batches are made up by the rows' lengths; --batch is for budgets of latency.",
}

_UNITS = r"%|(?:neurons|params|macs|latency|[kmg]i?b|b)"
_TIMES = r"s|sec|min|h|epochs?"
#: Options whose value is a number and a word, with the words.
_WORDS = {"--keep": _UNITS, "--recover": _TIMES, "--max-drop": "%"}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?%?", re.ASCII)


def usage(error: Any) -> str:
    """Describe a usage error of Typer in a sentence, with the option that was meant."""
    name = getattr(error, "option_name", None)
    if name is None or not hasattr(error, "possibilities"):
        return str(error.format_message()).rstrip(".")
    asked = str(name).lstrip("-").replace("-", "_").lower()
    known = {parameter.name: parameter for parameter in error.ctx.command.params} if error.ctx else {}
    for flag in (flag for parameter in [*known.values()] for flag in parameter.opts if flag.startswith("--")):
        known.setdefault(flag.lstrip("-").replace("-", "_"), flag)
    meant = near(asked, known)
    hint = "" if meant is None else f"Did you mean {_typed(known[meant])}?"
    return f"No such option: {name}. {hint or _NOT_HERE.get(asked, '')}".rstrip(" .")


def _typed(parameter: Any) -> str:
    if isinstance(parameter, str):
        return parameter
    if parameter.param_type_name == "argument":
        return f"{parameter.metavar or parameter.name.upper()}, which stands without a flag"
    return str(next(flag for flag in parameter.opts if flag.startswith("--")))


def check_quoted(arguments: Sequence[str], of: str) -> None:
    """Refuse ``--keep 30% params`` without quotes, whose second word would be read as MODEL.

    Raises
    ------
    ParameterError
    """
    for at, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in _WORDS:
            continue
        value, *rest = [value, *arguments[at + 1 :]] if equals else [*arguments[at + 1 :], ""]
        word = rest[0] if rest else ""
        if _NUMBER.fullmatch(value) and re.fullmatch(_WORDS[flag], word, re.IGNORECASE | re.ASCII):
            name = flag.removeprefix("--").replace("-", "_")
            raise ParameterError(name, of, f"in quotes where it has two words: {flag} '{value} {word}'", [value, word])
