"""The types of a recipe's fields: how text, or a list, becomes a checked value."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Annotated, NoReturn

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from prunekit.budget import Effort, parse_budgets
from prunekit.errors import ParameterError
from prunekit.validation.indices import format_indices, parse_indices
from prunekit.validation.limits import LAYERS
from prunekit.validation.near import hint
from prunekit.validation.reading import place_fault

NO_EFFORT = "none"
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", re.ASCII)

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
    """Whether it is a percentage alone, such as "10%"."""
    return _PERCENT.fullmatch(text) is not None


def _percent(value: object) -> float:
    # A bare 0.5 could mean 50% or 0.5%, so the sign is asked for.
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 <= float(match[1]) < 100:
        raise ValueError("a percentage in [0%, 100%), such as '1%'")
    return float(match[1]) / 100


def _factor(value: object) -> float:
    match = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 < float(match[1]) <= 1000:
        raise ValueError("a factor above 1x, such as '3x'")
    return float(match[1])


def format_factor(factor: float) -> str:
    """As it is read: "3x"."""
    return f"{factor:.15g}x"


def _format_percent(share: float) -> str:
    return f"{share * 100:.15g}%"


def read_budgets(value: object) -> object:
    """Budgets as one text or several; "none" is no budget."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ParameterError("keep", "compress", "text such as '10%' or '8 MB', or a list of them", value)
    found = tuple(text.strip() for text in texts)
    if found in ((), ("none",)):
        return ()
    parse_budgets(found)
    return found


def _blocks(value: object) -> object:
    """Blocks as ranges, "0-3,5", or as a list."""
    must = "blocks to keep, increasing, such as '0-3' or '0,2,4'"
    items = (value,) if isinstance(value, int) and not isinstance(value, bool) else value
    try:
        found = parse_indices(items) if isinstance(items, str) else items
    except ValueError:
        found = None
    if not isinstance(found, (list, tuple)) or not found or not all(type(block) is int and 0 <= block < LAYERS for block in found):
        raise ParameterError("layers", "compress", must, value)
    if sorted(set(found)) != list(found):
        raise ParameterError("layers", "compress", must, value)
    return tuple(found)


def read_drop(value: object) -> object:
    """Sub-blocks as "ffn:4-5" and "attention:3", in this order, one text each."""
    texts = (value,) if isinstance(value, str) else value
    must = "FFN or attention blocks, such as 'ffn:4-5' or 'attention:3', or a list of them"
    found: dict[str, tuple[int, ...]] = {}
    for text in texts if isinstance(texts, (list, tuple)) else (value,):
        kind, _, numbers = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            blocks = parse_indices(numbers)
        except ValueError:
            blocks = ()
        kind = kind.strip()
        if kind not in ("ffn", "attention") or not blocks or kind in found or sorted(set(blocks)) != list(blocks):
            raise ParameterError("drop", "compress", must, value)
        found[kind] = blocks
    return tuple(f"{kind}:{format_indices(found[kind])}" for kind in sorted(found, reverse=True))


def parse_freeze(text: str, *, of: str = "recover") -> tuple[int, ...]:
    """Read ``"layers:0-3"`` as block numbers; raises ParameterError."""
    kind, _, blocks = text.partition(":") if isinstance(text, str) else ("", "", "")
    try:
        found = parse_indices(blocks)
    except ValueError:
        found = ()
    if kind.strip() != "layers" or not found or sorted(set(found)) != list(found):
        raise ParameterError("freeze", of, "blocks of the model, such as 'layers:0-3'", text)
    return found


def read_effort(value: object) -> object:
    """How long is trained; None is "none"."""
    if value is None:
        return NO_EFFORT
    if not isinstance(value, str):
        raise ParameterError("recover", "compress", "text such as 'auto', 'none', '10min' or '3epochs'", value)
    if value.strip() != NO_EFFORT:
        Effort.parse(value)
    return value.strip()


def _path(value: object) -> object:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str) and value and (fault := place_fault(value)) is not None:
        raise ValueError(f"a name or a path that can exist ({fault})")
    return value


Percent = Annotated[float, BeforeValidator(_percent), PlainSerializer(_format_percent, return_type=str)]
Factor = Annotated[float, BeforeValidator(_factor), PlainSerializer(format_factor, return_type=str)]
Name = Annotated[str, Field(strict=True, min_length=1), BeforeValidator(_path)]
Column = Annotated[str, Field(strict=True, min_length=1)]
Blocks = Annotated[tuple[int, ...], BeforeValidator(_blocks), PlainSerializer(format_indices, return_type=str)]


def refuse(error: ValidationError, names: Collection[str]) -> NoReturn:
    """Say the first thing that pydantic found, in the grammar of `ParameterError`; `names` are those of the recipe's fields."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, ParameterError):
        raise cause from None
    parameter, meant = str(first["loc"][0]), ""
    if first["type"] == "extra_forbidden":
        meant = hint(parameter, names) or f"The parameters are {', '.join(names)}."
        raise ParameterError(parameter, "compress", "one that exists", first["input"], meant) from None
    if cause is not None:
        must = str(cause)
    elif "expected" in context:
        must = f"one of {context['expected']}".replace(" or ", ", ")
        meant = hint(str(first["input"]), re.findall("'([^']+)'", must))
    else:
        must = _KINDS.get(first["type"], first["msg"].removeprefix("Input should be ").removeprefix("String should "))
    raise ParameterError(parameter, "compress", must, first["input"], meant) from None
