"""Types of a recipe's fields: validators that convert text or lists to checked values."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Annotated, NoReturn

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from prunekit.budget import Effort, milliseconds, parse_budgets
from prunekit.errors import ParameterError
from prunekit.validation.indices import format_indices, parse_indices
from prunekit.validation.limits import LAYERS
from prunekit.validation.reading import place_fault
from prunekit.validation.suggestions import hint

NO_EFFORT = "none"
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", re.ASCII)

_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s)\s*", re.ASCII | re.IGNORECASE)
_FACTOR = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*x?\s*", re.ASCII)

_KINDS = {
    "string_type": "text (in YAML, put it in quotes)",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "model_attributes_type": "a recipe",
}


def is_percent(text: str) -> bool:
    """Return whether a text is a percentage without a unit, such as "10%"."""
    return _PERCENT.fullmatch(text) is not None


def _percent(value: object) -> float:
    # A number without a percent sign is ambiguous: 0.5 could mean 50% or 0.5%.
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 <= float(match[1]) < 100:
        raise ValueError("a percentage in [0%, 100%), such as '1%'")
    return float(match[1]) / 100


def _factor(value: object) -> float:
    match = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 < float(match[1]) <= 1000:
        raise ValueError("a factor above 1x, such as '3x'")
    return float(match[1])


def _seconds(value: object) -> float:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    seconds = 0.0 if match is None else float(match[1]) / (1000 if match[2].lower() == "ms" else 1)
    if not 1e-6 <= seconds <= 3600:
        raise ValueError("a time from 0.001ms to 3600s, such as '5ms' or '0.2s'")
    return seconds


def format_factor(factor: float) -> str:
    """Format a factor as it is parsed: "3x"."""
    return f"{factor:.15g}x"


def _format_percent(share: float) -> str:
    return f"{share * 100:.15g}%"


def read_budgets(value: object) -> object:
    """Validate budgets, one text or several; "none" is no budget."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ParameterError("keep", "compress", "text such as '10%' or '20 MB', or a list of them", value)
    budgets = tuple(text.strip() for text in texts)
    if budgets in ((), ("none",)):
        return ()
    parse_budgets(budgets)
    return budgets


def _blocks(value: object) -> object:
    """Validate blocks, as ranges ("0-3,5") or as a list."""
    must = "blocks to keep, increasing, such as '0-3' or '0,2,4'"
    items = (value,) if isinstance(value, int) and not isinstance(value, bool) else value
    try:
        blocks = parse_indices(items) if isinstance(items, str) else items
    except ValueError:
        blocks = None
    if not isinstance(blocks, (list, tuple)) or not blocks or not all(type(block) is int and 0 <= block < LAYERS for block in blocks):
        raise ParameterError("layers", "compress", must, value)
    if sorted(set(blocks)) != list(blocks):
        raise ParameterError("layers", "compress", must, value)
    return tuple(blocks)


def read_drop(value: object) -> object:
    """Normalise sub-blocks to "ffn:4-5" and "attention:3", in this order, one text each."""
    texts = (value,) if isinstance(value, str) else value
    must = "FFN or attention blocks, such as 'ffn:4-5' or 'attention:3', or a list of them"
    dropped: dict[str, tuple[int, ...]] = {}
    for text in texts if isinstance(texts, (list, tuple)) else (value,):
        kind, _, ranges = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            blocks = parse_indices(ranges)
        except ValueError:
            blocks = ()
        kind = kind.strip()
        if kind not in ("ffn", "attention") or not blocks or kind in dropped or sorted(set(blocks)) != list(blocks):
            raise ParameterError("drop", "compress", must, value)
        dropped[kind] = blocks
    return tuple(f"{kind}:{format_indices(dropped[kind])}" for kind in sorted(dropped, reverse=True))


def read_effort(value: object) -> object:
    """Validate an effort of training; None is "none"."""
    if value is None:
        return NO_EFFORT
    if not isinstance(value, str):
        raise ParameterError("recover", "compress", "text such as 'auto', 'none', '10min' or '3epochs'", value)
    text = value.strip()
    if text != NO_EFFORT:
        Effort.parse(text)
    return "auto" if text.lower() == "auto" else text


def _path(value: object) -> object:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str) and value and (fault := place_fault(value)) is not None:
        raise ValueError(f"a name or a path that can exist ({fault})")
    return value


Percent = Annotated[float, BeforeValidator(_percent), PlainSerializer(_format_percent, return_type=str)]
Seconds = Annotated[float, BeforeValidator(_seconds), PlainSerializer(milliseconds, return_type=str)]
Factor = Annotated[float, BeforeValidator(_factor), PlainSerializer(format_factor, return_type=str)]
Name = Annotated[str, Field(strict=True, min_length=1), BeforeValidator(_path)]
Column = Annotated[str, Field(strict=True, min_length=1)]
Blocks = Annotated[tuple[int, ...], BeforeValidator(_blocks), PlainSerializer(format_indices, return_type=str)]


def refuse(error: ValidationError, names: Collection[str]) -> NoReturn:
    """Raise the first error of pydantic as a `ParameterError`; `names` are those of the recipe's fields."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, ParameterError):
        raise cause from None
    parameter, suggestion = str(first["loc"][0]), ""
    if first["type"] == "extra_forbidden":
        suggestion = hint(parameter, names) or f"The parameters are {', '.join(names)}."
        raise ParameterError(parameter, "compress", "one that exists", first["input"], suggestion) from None
    if cause is not None:
        must = str(cause)
    elif "expected" in context:
        must = f"one of {context['expected']}".replace(" or ", ", ")
        suggestion = hint(str(first["input"]), re.findall("'([^']+)'", must))
    else:
        must = _KINDS.get(first["type"], first["msg"].removeprefix("Input should be ").removeprefix("String should "))
    raise ParameterError(parameter, "compress", must, first["input"], suggestion) from None
