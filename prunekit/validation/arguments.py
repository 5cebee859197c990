"""Checks of the arguments of public functions against their signatures, before anything is done.

::

    @checked("bench")
    def bench(*models: Place, threads: Annotated[int, Within(1, THREADS)] = 1) -> Benchmark: ...

A value that does not fit is a `ParameterError` whose text comes from the annotation. Nothing is converted but numbers of other libraries,
which become Python's own: True is not a number, 0.9 not an index, "no" not a bool, and a text not a sequence of texts.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from prunekit.errors import ParameterError
from prunekit.validation.modes import usual_modes
from prunekit.validation.reading import place_fault

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Within:
    """A finite number in [low, high]."""

    low: float
    high: float

    def fault(self, value: Any) -> str | None:
        """Return None for a number within the bounds, "" otherwise."""
        return None if self.low <= value <= self.high else ""

    def must(self, kind: str) -> str:
        """Return the condition in words."""
        return f"{kind} from {self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class NotEmpty:
    """A sequence with at least one item."""

    def fault(self, value: Any) -> str | None:
        """Return None for a sequence with an item, "" otherwise."""
        return None if len(value) else ""

    def must(self, kind: str) -> str:
        """Return the condition in words."""
        return f"{kind}, at least one"


@dataclass(frozen=True)
class Exists:
    """A path that can exist."""

    def fault(self, value: Any) -> str | None:
        """Return the result of `prunekit.validation.reading.place_fault`."""
        return place_fault(value)

    def must(self, kind: str) -> str:
        """Return the condition in words."""
        return f"{kind} that can exist"


Place = Annotated[str | Path, Exists()]
Seed = Annotated[int, Within(0, 2**32 - 1)]


#: What the checks of a recipe say that its parameters are of; several commands and functions take them.
_RECIPE = "compress"


@contextmanager
def called(command: str) -> Iterator[None]:
    """Let errors of a recipe's parameters name the command that was called, while the context is open."""
    try:
        yield
    except ParameterError as error:
        if error.of != _RECIPE or command == _RECIPE:
            raise
        named = ParameterError(error.parameter, command, error.must, error.got, error.hint)
        raise named.with_traceback(error.__traceback__) from error.__cause__


def checked(of: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the arguments of each call against the annotations, and run it in torch's usual modes.

    `of` is the name of the function in errors.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        known = signature.parameters
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())

        @functools.cache
        def hints() -> dict[str, Any]:
            # On the first call, when everything that annotations name has been imported.
            return get_type_hints(function, include_extras=True)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = next((name for name in kwargs if name not in known), None)
            if unknown is not None and not open_ended:
                names = ", ".join(name for name in known if name not in ("self", "cls"))
                raise ParameterError(unknown, of, "one that exists", kwargs[unknown], f"The parameters are {names}.")
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name in hints() and known[name].kind is not inspect.Parameter.VAR_KEYWORD:
                    variadic = known[name].kind is inspect.Parameter.VAR_POSITIONAL
                    for argument in value if variadic else (value,):
                        check(name, of, argument, hints()[name])
                    bound.arguments[name] = value if hints()[name] in (Any, object) else _plain(value)
            with usual_modes():
                return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _plain(value: Any) -> Any:
    """Return numbers as Python's own, which JSON can hold; `numpy.int64` and `Fraction` are numbers too."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def check(name: str, of: str, value: object, hint: Any) -> None:
    """Raise ParameterError where a value does not fit a type, with the rules of its `Annotated`."""
    mismatch = _mismatch(value, hint)
    if mismatch is None:
        return
    reason = f"({mismatch})" if mismatch else ""
    shown = value if isinstance(value, str | bytes | int | float | Path | type(None)) else _shown(value)
    raise ParameterError(name, of, describe(hint), str(shown) if isinstance(shown, Path) else shown, reason)


class _Shown:
    """A value shown by its type, where its repr could be very long."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _shown(value: object) -> object:
    items = [*value, *value.values()] if isinstance(value, Mapping) else value
    if isinstance(items, Sequence | Set) and len(items) <= 16 and all(isinstance(item, str | int | float) for item in items):
        return value
    return _Shown(f"a {type(value).__name__}")


def _mismatch(value: Any, hint: Any) -> str | None:
    """Return why a value does not fit; "" where the description of the type is enough, None where it fits."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base, *rules = args
        mismatch = _mismatch(value, base)
        if mismatch is not None:
            return mismatch
        return next((fault for rule in rules if (fault := rule.fault(value)) is not None), None)
    if origin in (Union, types.UnionType):
        mismatches = [_mismatch(value, member) for member in args]
        return None if None in mismatches else max((reason for reason in mismatches if reason is not None), key=len)
    return None if _fits(value, hint, origin, args) else ""


def _fits(value: Any, hint: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    if hint in (Any, object):
        return True
    if hint in (None, type(None)):
        return value is None
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if hint is bool:
        return type(value) is bool
    if hint is int:
        return not isinstance(value, bool) and isinstance(value, Integral)
    if hint is float:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    if isinstance(origin, type) and issubclass(origin, Callable):  # type: ignore[arg-type]  # an abstract class
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _mismatch(key, args[0]) is None and _mismatch(item, args[1]) is None for key, item in value.items()
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        # A text is a sequence of texts, but is never meant as one.
        return (
            isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(_mismatch(item, args[0]) is None for item in value)
        )
    kind = origin or hint
    return isinstance(value, kind)


_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    type(None): "None",
    Path: "a path",
}


def describe(hint: Any) -> str:
    """Describe a type for an error message."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base, *rules = args
        return functools.reduce(lambda text, rule: str(rule.must(text)), rules, describe(base))
    if origin in (Union, types.UnionType):
        # None means that a parameter is left out, and is not mentioned.
        return " or ".join(dict.fromkeys(describe(member) for member in args if member is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    kind = origin or hint
    if kind in _WORDS:
        return _WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return f"a mapping from {describe(args[0])} to {describe(args[1])}" if args else "a mapping"
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return f"a sequence of {describe(args[0])}" if args else "a sequence"
    if isinstance(origin, type) and issubclass(origin, Callable):  # type: ignore[arg-type]  # an abstract class
        return "a function"
    return f"a {kind.__module__.partition('.')[0]} {kind.__qualname__}" if isinstance(kind, type) else str(kind)
