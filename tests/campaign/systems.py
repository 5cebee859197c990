"""Surroundings that nobody should have: environments of nonsense, outputs that are no places, arguments of odd types, two runs at once."""

from __future__ import annotations

import contextlib
import decimal
import enum
import fractions
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tests.campaign.case import Case

_ANALYZE = ("analyze", "{sequence}", "--data", "{rows}", "--rows", "40", "--analyzers", "neurons", "-o", "{here}/out", "--quiet")
_EXPORT = ("export", "{sequence}", "-o", "{here}/out", "--quiet")
_UNSET = "(unset)"
#: Variables of the environment with what nobody means.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "COLUMNS": ("abc", "-1", "0", "99999999999"),
    "LINES": ("abc",),
    "OMP_NUM_THREADS": ("foo", "-1", "0", "99999999", "1,2,3"),
    "MKL_NUM_THREADS": ("foo",),
    "LANG": ("C", "evil", ""),
    "LC_ALL": ("C", "xx_XX.evil"),
    "TERM": ("evil", "", _UNSET, "x" * 10_000),
    "HOME": (_UNSET, "", "relative", "/nowhere", "/dev/null"),
    "PYTHONIOENCODING": ("latin-1", "ascii:strict", "utf-16"),
    "PYTHONWARNINGS": ("error", "always"),
    "PYTHONUTF8": ("0",),
    "PYTHONHASHSEED": ("1",),
    "PYTHONOPTIMIZE": ("2",),
    "NO_COLOR": ("1",),
    "FORCE_COLOR": ("evil",),
    "HF_HOME": ("/dev/null", "", "/nowhere/x"),
    "HF_HUB_OFFLINE": ("maybe", ""),
    "HF_DATASETS_CACHE": ("/dev/null",),
    "HF_HUB_CACHE": ("/dev/null",),
    "HF_TOKEN": ("evil\nline",),
    "TRANSFORMERS_VERBOSITY": ("evil",),
    "DATASETS_VERBOSITY": ("evil",),
    "TOKENIZERS_PARALLELISM": ("maybe",),
    "CUDA_VISIBLE_DEVICES": ("evil", "-1", "0,1,2"),
    "XDG_CACHE_HOME": ("/dev/null", ""),
    "PRUNEKIT_CACHE": ("/dev/null", "", "a\tb"),
    "ACCELERATE_MIXED_PRECISION": ("evil", "fp16"),
    "ACCELERATE_USE_CPU": ("maybe",),
    "ACCELERATE_USE_FSDP": ("true",),
    "WORLD_SIZE": ("evil", "2"),
    "LOCAL_RANK": ("evil", "3"),
    "TORCH_LOGS": ("evil",),
    "PYTORCH_CUDA_ALLOC_CONF": ("evil",),
    "MALLOC_ARENA_MAX": ("evil",),
    "TMPDIR": ("/nowhere", "/dev/null", "", "relative", "/proc"),
    "PATH": (_UNSET, ""),
    "USER": (_UNSET, "\x1b[31m"),
    "WANDB_DISABLED": ("maybe",),
    "GITHUB_ACTIONS": ("true",),
    "CI": ("evil",),
    "TZ": ("evil/evil",),
    "SOURCE_DATE_EPOCH": ("evil",),
}

#: Outputs that are directories already, are too long, or are called oddly; what is a new place may be taken.
OUTPUTS = (
    ".", "..", "./", "./.", "/", "~", "~/", "//", "/tmp", "//tmp/", "/proc/self", "/dev", "/sys/x", "{sequence}", "{rows}/../rows",
    "{slim}/onnx", "n" * 300, "n" * 255, "n" * 240, "{here}/to-file",
    "{here}/to-file/x", "{here}/loop/x", "{here}/file/../file/x", "{here}/absent/../x\0", "{here}/fifo/x", "{here}/full", "{here}/full/.",
    "{here}/.git", "~root/../..",
)  # fmt: skip
#: Outputs that are called oddly, and are places all the same.
ODD = ("out/.", "out/", "./out", "out//", "x/../out", "{here}//out", "d/" * 120 + "out", "{here}/dangling", "{here}/dangling/x")


def surroundings(here: Path) -> None:
    """What the outputs above lead to."""
    (here / "dangling").symlink_to("nowhere/at/all")
    (here / "loop").symlink_to("loop")
    (here / "file").write_text("thesis")
    (here / "to-file").symlink_to("file")
    (here / "full").mkdir()
    (here / "full" / "thesis.txt").write_text("irreplaceable")
    (here / ".git").mkdir()
    (here / ".git" / "HEAD").write_text("ref")
    os.mkfifo(here / "fifo")


class _Word(str, enum.Enum):  # noqa: UP042 - what users have
    KEEP = "60% params"


class _Int:
    """Something that says it is a whole number."""

    def __index__(self) -> int:
        raise OverflowError("evil\nline")

    def __int__(self) -> int:
        return 1


class _True:
    """Something that is equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        raise TypeError("evil\nline")

    def __bool__(self) -> bool:
        raise ValueError("evil\nline")


def _numpy(name: str, *given: Any) -> Any:
    import numpy as np

    return getattr(np, name)(*given)


#: Values of odd types, for every parameter that takes one like them.
NUMBERS: dict[str, Callable[[], Any]] = {
    "numpy bool": lambda: _numpy("bool_", True),
    "numpy float": lambda: _numpy("float64", 3.0),
    "numpy NaN": lambda: _numpy("float32", float("nan")),
    "numpy array": lambda: _numpy("array", [1, 2]),
    "numpy date": lambda: _numpy("datetime64", "2001-01-01"),
    "decimal": lambda: decimal.Decimal("NaN"),
    "signalling": lambda: decimal.Decimal("sNaN"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "complex": lambda: 1 + 0j,
    "int": _Int,
    "equal": _True,
    "-2**63": lambda: -(2**63),
    "2**64": lambda: 2**64,
    "10**5000": lambda: 10**5000,
    "-0.5": lambda: -0.5,
    "generator": lambda: (1 for _ in range(2)),
    "type": lambda: int,
    "text of digits": lambda: "\u0663",
    "bytes": lambda: b"3",
    "memory": lambda: memoryview(b"3"),
    "range": lambda: range(-3, -1),
}
PATHS: dict[str, Callable[[], Any]] = {
    "pure path": lambda: PurePosixPath("absent"),
    "bytes path": lambda: b"absent",
    "open file": lambda: open(os.devnull),  # noqa: SIM115
    "number of a file": lambda: 0,
    "list": lambda: ["absent"],
    "half a character": lambda: "\ud800",
    "long": lambda: "x/" * 10_000,
    "newline": lambda: "absent\n\x1b[31m",
    "address": lambda: "https://example.invalid/model",
    "file address": lambda: "file:///etc/passwd",
    "hub at a revision": lambda: "evil/evil@../../main",
    "hub of dots": lambda: "../..",
    "hub of a dot": lambda: "a/..",
    "hub of slashes": lambda: "a/b/c",
    "hub of blanks": lambda: "a b/c",
    "equal": _True,
}
#: {function: (what is right, parameters that are numbers, parameters that are paths)}.
FUNCTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "Recipe": (
        {},
        (
            *("seed", "threads", "max_length", "threshold", "max_drop", "layer_delta", "batch", "keep", "layers", "multiple_of", "dims"),
            *("stride", "affine", "frontier"),
        ),
        (),
    ),
    "compress": (
        {"model": "{sequence}", "data": "{rows}", "out": "{here}/out", "keep": "60% params"},
        ("keep", "seed"),
        ("model", "data", "retrieval"),
    ),
    "analyze": (
        {"model": "{sequence}", "data": "{rows}", "out": "{here}/out"},
        ("rows", "seed", "max_length"),
        ("model", "compare", "data", "out_of_domain"),
    ),
    "export": ({"model": "{sequence}", "out": "{here}/out"}, ("opset", "seed", "max_length", "dtype"), ("model", "data", "out")),
    "bench": ({"lengths": [5], "time_budget": 0.001}, ("batch_sizes", "threads", "max_length", "seed"), ("baseline", "data")),
    "load": ({}, (), ("path",)),
}


def _fill(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"{{{name}}}", place)
    return value


def _called(function: str, right: dict[str, Any], name: str, make: Callable[[], Any], places: dict[str, str]) -> object:
    import prunekit

    given = {key: _fill(value, places) for key, value in right.items()}
    models = (places["onnx"],) if function == "bench" else ()
    return getattr(prunekit, function)(*models, **{**given, name: make()})


def _twice(command: tuple[str, ...], places: dict[str, str]) -> object:
    """The same command at once in two processes: each ends well, or in one line, and one output is there, as one of them wrote it."""
    from prunekit import cli

    here = Path(places["here"])
    words = [functools.reduce(lambda word, place: word.replace(f"{{{place[0]}}}", place[1]), places.items(), word) for word in command]
    children = []
    for at in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                os.dup2(os.open(here.parent / f"said{at}", os.O_WRONLY | os.O_CREAT), 2)
                code = cli.main(words)
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = [(here.parent / f"said{at}").read_text(encoding="utf-8") for at in range(2)]
    for text in said:
        if text and not (text.startswith("error: ") and text.count("\n") == 1):
            raise RuntimeError(f"{codes}: {text[-500:]}")
    if sorted(codes) not in ([0, 0], [0, 2]):
        raise RuntimeError(f"{codes}: {said}")
    if cli.main(["show", str(here / "out"), "--verify"]) != 0:
        raise RuntimeError("the output is not whole")
    return None


def system_cases() -> Iterator[Case]:
    """Every surrounding."""
    for name, values in ENVIRONMENTS.items():
        for value in values:
            shown = value if len(value) < 30 else f"{len(value)} characters"
            yield Case(f"environment analyze {name}={shown!a}", _ANALYZE, environment={name: value}, may=True, fresh=True)
    for name in ("COLUMNS", "LANG", "LC_ALL", "TERM", "PYTHONIOENCODING", "NO_COLOR", "FORCE_COLOR"):
        for value in ENVIRONMENTS[name]:
            words = ("compress", "{base}", "--data", "{topics}", "--keep", "nonsense \u00e9\u4e2d", "-o", "{here}/out")
            yield Case(f"environment compress {name}={value[:20]!a}", words, environment={name: value}, fresh=True)
    for command, words in (("analyze", _ANALYZE), ("export", _EXPORT)):
        kept = [word for word in words if word not in ("-o", "{here}/out")]
        for out in OUTPUTS:
            for more in ((), ("--overwrite",)):
                name = f"output {command} {out[:40]!a} {len(out)} {' '.join(more)}".strip()
                yield Case(name, (*kept, "-o", out, *more), make=surroundings)
        for out in ODD:
            yield Case(f"output {command} odd {out[:40]}", (*kept, "-o", out), make=surroundings, may=True)
    for function, (right, numbers, paths) in FUNCTIONS.items():
        for parameters, values in ((numbers, NUMBERS), (paths, PATHS)):
            for parameter in parameters:
                for name, make in values.items():
                    call = functools.partial(_called, function, right, parameter, make)
                    beside = (WRITTEN[name],) if parameter == "out" and name in WRITTEN else ()
                    yield Case(f"type {function} {parameter}={name}", call=call, may=(function, parameter, name) in TAKEN, beside=beside)
    for command, words in (("analyze", _ANALYZE), ("export", _EXPORT)):
        for more in ((), ("--overwrite",)):
            yield Case(f"twice {command} {' '.join(more)}".strip(), call=functools.partial(_twice, (*words, *more)), may=True)


#: {name of an output: what it is the name of, seen from the working directory}.
WRITTEN = {"newline": "absent\n\x1b[31m", "hub at a revision": "evil", "hub of slashes": "a", "hub of blanks": "a b"}
#: What is a value all the same.
TAKEN = {
    ("Recipe", "threshold", "fraction"),
    # An output may be called anything that a file system takes.
    *(("export", "out", name) for name in WRITTEN),
    # Bytes in memory are a sequence of whole numbers.
    ("bench", "batch_sizes", "memory"),
}
