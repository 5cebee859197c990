"""Options of a command, from their declarations, and signatures of the functions that take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import EnumType
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from prunekit.errors import ParameterError
from prunekit.recipe.fields import Name
from prunekit.recipe.option import Kind, Option
from prunekit.recipe.options import Options
from prunekit.validation.arguments import called
from prunekit.validation.suggestions import near

P = ParamSpec("P")
R = TypeVar("R")

_PATHS = get_args(Name)[1:]


@functools.cache
def options(command: str) -> dict[str, Option]:
    """Return the options of a command as {field: option}, in the order of the declarations."""
    return {option.name: option for option in all_options() if command in option.commands}


def all_options() -> tuple[Option, ...]:
    """Return all declared options."""
    declared = (_option(name, field) for name, field in Options.model_fields.items())
    return tuple(option for option in declared if option is not None)


def accepts(field: FieldInfo) -> Any:
    """Return the type of the values that Python callers may pass for a field."""
    return _accepted(field.annotation, field.metadata)


def with_options(command: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function that takes ``**parameters`` the signature with a command's options in their place, each by keyword alone.

    An option of other commands alone is a ParameterError, and so is a misspelled name; any other name is left to the Recipe. Errors of
    options name the command.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        names = {parameter.name for parameter in own}
        fields = {name: Options.model_fields[name] for name in options(command) if name not in names}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value in kwargs.items():
                if name in Options.model_fields and name not in fields and name not in names:
                    commands = [of for of in ("compress", "plan", "apply") if name in options(of)]
                    raise ParameterError(name, command, f"left out: it is an option of {' and '.join(commands) or 'recipes'}", value)
                if name not in Options.model_fields and name not in names and (suggestion := near(name, [*fields, *names])) is not None:
                    raise ParameterError(name, command, "one that exists", value, f"Did you mean {suggestion!r}?")
            with called(command):
                return function(*args, **kwargs)

        dumped = Options().model_dump(mode="json")
        defaults = {name: tuple(value) if isinstance(value, list) else value for name, value in dumped.items()}
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=accepts(field))
            for name, field in fields.items()
        ]
        call.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]  # inspect reads it
        return call

    return decorate


def _option(name: str, field: FieldInfo) -> Option | None:
    declared = next((item for item in field.metadata if isinstance(item, Option)), None)
    return None if declared is None else replace(declared, name=name, kind=_kind(accepts(field)), choices=_choices(field.annotation))


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return all values of a type as they are typed; none where they cannot be listed."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _choices(args[0])
    if origin is Literal:
        return tuple(map(str, args))
    if origin in (Union, UnionType):
        return tuple(choice for member in args for choice in _choices(member))
    return tuple(map(str, annotation)) if isinstance(annotation, EnumType) else ()


def _accepted(annotation: Any, metadata: Sequence[Any] = ()) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _accepted(args[0], args[1:])
    if origin in (Union, UnionType):
        return functools.reduce(lambda left, right: left | right, (_accepted(member) for member in args))
    if any(isinstance(item, BeforeValidator) for item in metadata):
        if set(_PATHS) & set(metadata):
            return str | Path
        return str | Sequence[args[0]] if origin is tuple else str  # type: ignore[valid-type]  # the type of an element
    return str if isinstance(annotation, type) and issubclass(annotation, str) else annotation


def _kind(accepted: Any) -> Kind:
    kinds = set(get_args(accepted)) - {NoneType} if get_origin(accepted) in (Union, UnionType) else {accepted}
    if kinds == {bool}:
        return "flag"
    if kinds == {float}:
        return "number"
    if kinds == {int} or all(get_origin(kind) is Literal and type(get_args(kind)[0]) is int for kind in kinds):
        return "whole"
    return "texts" if Sequence[str] in kinds else "text"
