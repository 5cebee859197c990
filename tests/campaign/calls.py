"""The Python interface with arguments of the wrong type, and directories with one thing changed."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.campaign.case import Case

Change = Callable[[Path], None]


class Odd:
    """Something that is nothing that a function takes, and whose text is long."""

    def __repr__(self) -> str:
        return "Odd" * 10**6


class Late:
    """A path-like thing that gives bytes."""

    def __fspath__(self) -> bytes:
        return b"evil"


_JUNK: dict[str, Any] = {
    "5": 5,
    "0.5": 0.5,
    "bytes": b"x",
    "list": [1],
    "dict": {"a": 1},
    "odd": Odd(),
    "set": {1},
    "true": True,
    "fn": len,
    "late": Late(),
}
_TEXTS: dict[str, Any] = {"12": "12", "no": "no", "evil": "evil", "empty": ""}
_NUMBERS: dict[str, Any] = {"-1": -1, "nan": float("nan"), "inf": float("inf"), "huge": 10**30}
_NONE = {"none": None}
#: What is wrong for a parameter of each kind.
WRONG: dict[str, dict[str, Any]] = {
    "path": _JUNK | _NONE | {"empty": "", "nul": "a\0b", "user": "~nosuchuser/x", "long": "x" * 5000},
    "path?": _JUNK | {"empty": "", "nul": "a\0b", "user": "~nosuchuser/x"},
    "switch": {name: value for name, value in (_JUNK | _TEXTS | _NONE).items() if name != "true"} | {"1": 1, "0": 0},
    "whole": {name: value for name, value in (_JUNK | _TEXTS | _NUMBERS | _NONE).items() if name != "5"},
    "whole?": {name: value for name, value in (_JUNK | _TEXTS | _NUMBERS).items() if name != "5"},
    "number": {name: value for name, value in (_JUNK | _TEXTS | _NUMBERS | _NONE).items() if name not in ("5", "0.5", "huge")},
    "number?": {name: value for name, value in (_JUNK | _TEXTS | _NUMBERS).items() if name not in ("5", "0.5", "huge")},
    "texts?": {name: value for name, value in (_JUNK | _TEXTS).items() if name != "empty"} | {"nothing": [], "numbers": [1, 2]},
    "wholes": _JUNK | _TEXTS | _NONE | {"floats": [0.9], "bools": [True], "texts": ["1"], "nothing": [], "zero": [0], "large": [10**30]},
    "name?": {name: value for name, value in (_JUNK | _TEXTS).items() if name != "none"},
    "mapping?": {name: value for name, value in (_JUNK | _TEXTS).items() if name not in ("empty",)}
    | {"evil": {"evil": 1}, "numbers": {1: "x"}},
    "object": _JUNK | _TEXTS | _NONE,
    "object?": _JUNK | _TEXTS,
    "function?": {name: value for name, value in (_JUNK | _TEXTS).items() if name != "fn"},
}
_WHOLE_LIST = {"list"}

#: {function: (its right arguments, {parameter: kind})}; a value that starts with "@" is a place.
FUNCTIONS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "compress": (
        {"model": "@sequence", "data": "@rows", "out": "@here/out", "keep": "60% params"},
        {
            "model": "path?",
            "out": "path",
            "overwrite": "switch",
            "progress": "switch",
            "seed": "whole",
            "threads": "whole",
            "max_length": "whole?",
            "trust_remote_code": "switch",
            "affine": "switch",
            "layers": "name?",
            "text": "name?",
            "keep": "name?",
            "recover": "name?",
        },
    ),
    "make_plan": (
        {"model": "@sequence", "data": "@rows", "keep": "60% params"},
        {"model": "path?", "statistics": "path?", "progress": "switch", "seed": "whole"},
    ),
    "analyze": (
        {"model": "@sequence", "data": "@rows", "out": "@here/out", "rows": 20, "analyzers": ["cka"]},
        {
            "model": "path?",
            "compare": "path?",
            "analyzers": "texts?",
            "rows": "whole",
            "out": "path",
            "overwrite": "switch",
            "progress": "switch",
            "seed": "whole",
            "max_length": "whole?",
            "pooling": "name?",
        },
    ),
    "export": (
        {"model": "@sequence", "out": "@here/out"},
        {
            "model": "path",
            "out": "path",
            "dtype": "name?",
            "opset": "whole",
            "optimize": "name?",
            "device": "name?",
            "triton": "switch",
            "columns": "mapping?",
            "seed": "whole",
            "max_length": "whole?",
            "pooling": "name?",
            "revision": "object?",
            "trust_remote_code": "switch",
            "overwrite": "switch",
        },
    ),
    "load": ({"path": "@slim"}, {"path": "path"}),
    "recover": (
        {"slim": "@@", "teacher": None, "data": ["a b"] * 40},
        {
            "slim": "object",
            "teacher": "object?",
            "data": "object",
            "effort": "name?",
            "plan": "object?",
            "validation": "object?",
            "task": "object?",
            "max_length": "whole?",
            "freeze": "name?",
            "learning_rate": "number?",
            "seed": "whole",
            "checkpoints": "path?",
            "memory": "whole",
            "progress": "function?",
        },
    ),
    "apply": (
        {"model": "@@", "plan": "@plan"},
        {"model": "object", "plan": "object", "calibration": "object?", "damping": "object?", "seed": "whole"},
    ),
    "shrink": (
        {"model": "@@", "batches": [], "budgets": []},
        {
            "model": "object",
            "batches": "object",
            "budgets": "object",
            "choice": "name?",
            "uniform": "switch",
            "multiple_of": "whole",
            "damping": "object?",
            "seed": "whole",
            "progress": "function?",
        },
    ),
}
_BENCH: dict[str, str] = {
    "baseline": "path?",
    "backends": "texts?",
    "device": "name?",
    "batch_sizes": "wholes",
    "lengths": "wholes",
    "data": "path?",
    "columns": "mapping?",
    "max_length": "whole?",
    "threads": "whole",
    "max_regression": "number",
    "min_speedup": "number",
    "checks": "texts?",
    "against": "texts?",
    "time_budget": "number",
    "memory": "switch",
    "seed": "whole",
}


def call_cases() -> Iterator[Case]:
    """Every parameter of every public function with every value that it does not take."""
    for function, (right, kinds) in FUNCTIONS.items():
        for parameter, kind in kinds.items():
            for name, value in WRONG[kind].items():
                if _fits(function, parameter, name):
                    continue
                yield Case(f"call {function} {parameter}={name}", call=functools.partial(_call, function, right, {parameter: value}))
        yield Case(f"call {function} evil=1", call=functools.partial(_call, function, right, {"evil": 1}))
    for parameter, kind in _BENCH.items():
        for name, value in WRONG[kind].items():
            if not _fits("bench", parameter, name):
                yield Case(f"call bench {parameter}={name}", call=functools.partial(_bench, {parameter: value}))
    for name, value in WRONG["path"].items():
        yield Case(f"call bench models={name}", call=functools.partial(_bench_of, value))
    yield from _values()


def _fits(function: str, parameter: str, name: str) -> bool:
    """Values of a kind's junk that a parameter does take."""
    taken = {
        ("compress", "layers"): {"5", "list", "12", "late"},
        ("compress", "text"): set(),
        ("recover", "progress"): {"fn"},
        ("recover", "learning_rate"): set(),
        ("apply", "calibration"): set(),
        ("shrink", "progress"): {"fn"},
        ("bench", "lengths"): {"list", "none", "nothing"},
        ("bench", "batch_sizes"): {"list"},
        ("bench", "max_regression"): {"none", "0.5", "5"},
        ("bench", "min_speedup"): {"none"},
        ("bench", "against"): {"nothing"},
        ("export", "revision"): {"12", "no", "evil", "empty"},
        ("analyze", "compare"): set(),
        ("recover", "memory"): set(),
        ("shrink", "multiple_of"): set(),
    }
    return name in taken.get((function, parameter), set())


def _model(places: dict[str, str]) -> Any:
    from prunekit.arch.load import load_model

    return load_model(places["sequence"]).model


def _right(value: Any, places: dict[str, str]) -> Any:
    if value == "@@":
        return _model(places)
    if value == "@plan":
        from prunekit.plan import Plan

        return Plan.load(places["plan"])
    if isinstance(value, str) and value.startswith("@"):
        name, _, rest = value[1:].partition("/")
        return f"{places[name]}/{rest}" if rest else places[name]
    return value


def _call(function: str, right: dict[str, Any], wrong: dict[str, Any], places: dict[str, str]) -> object:
    import prunekit

    arguments = {name: _right(value, places) for name, value in right.items() if name not in wrong}
    return getattr(prunekit, function)(**arguments, **wrong)


def _bench(wrong: dict[str, Any], places: dict[str, str]) -> object:
    import prunekit

    return prunekit.bench(places["onnx"], **{"lengths": [5], "time_budget": 0.001, "memory": False, **wrong})


def _bench_of(model: Any, places: dict[str, str]) -> object:
    import prunekit

    return prunekit.bench(model, lengths=[5])


def _values() -> Iterator[Case]:
    """Values with a constructor of their own."""
    import prunekit

    for name, value in (_JUNK | _NONE | {"empty": ""}).items():
        yield Case(f"call Budget.parse {name}", call=lambda _, value=value: prunekit.Budget.parse(value))
        yield Case(f"call Plan.from_json {name}", call=lambda _, value=value: prunekit.Plan.from_json(value))
        yield Case(f"call Plan.load {name}", call=lambda _, value=value: prunekit.Plan.load(value))
        yield Case(f"call Recipe.load {name}", call=lambda _, value=value: prunekit.Recipe.load(value))
        yield Case(f"call Plan source={name}", call=lambda _, value=value: prunekit.Plan(source=value))
        if value is not None:
            yield Case(f"call Recipe keep={name}", call=lambda _, value=value: prunekit.Recipe(keep=value))
            yield Case(f"call Recipe max_drop={name}", call=lambda _, value=value: prunekit.Recipe(max_drop=value))
            yield Case(f"call Recipe plan={name}", call=lambda _, value=value: prunekit.Recipe(plan=value))


def changed(name: str, words: tuple[str, ...], place: str, file: str, change: dict[str, Any] | str) -> Case:
    """A command on a copy of a place, ``{copy}``, in which a file has other fields, or another text."""
    return Case(name, call=functools.partial(_on_copy, words, place, functools.partial(_edit, file, change)))


def made(name: str, words: tuple[str, ...], place: str, change: Change, *, may: bool = False) -> Case:
    """A command on a copy of a place, ``{copy}``, that was changed; of "" an empty directory."""
    return Case(name, call=functools.partial(_on_copy, words, place, change), may=may)


def _edit(file: str, change: dict[str, Any] | str, folder: Path) -> None:
    path = folder / file
    if isinstance(change, str):
        path.write_text(change, encoding="utf-8", errors="surrogatepass")
        return
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, **change}), encoding="utf-8")


def _on_copy(words: tuple[str, ...], place: str, change: Change, places: dict[str, str]) -> object:
    import sys
    import tempfile

    from prunekit import cli

    source = Path(places[place]) if place else Path("copy")
    with tempfile.TemporaryDirectory(prefix="prunekit-copy-") as home:
        copy = Path(home) / source.name
        if not place:
            copy.mkdir()
        elif source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copyfile(source, copy)
        change(copy)
        filled = [word.replace("{copy}", str(copy)) for word in words]
        for key, found in places.items():
            filled = [word.replace(f"{{{key}}}", found) for word in filled]
        code = cli.main(filled)
    sys.exit(code)
