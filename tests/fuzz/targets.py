"""What is fuzzed: each target takes one example, and fails where it is neither read as what it is nor refused in one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import yaml
from hypothesis import strategies as st
from onnx import TensorProto, helper

from prunekit import cli
from prunekit.arch.config import check_config, check_memory, positions_of, stored_elements
from prunekit.benchmark.counts import params_of, read_graph
from prunekit.budget import Budget, Effort
from prunekit.errors import ModelError, ParameterError, PlanError
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.stats.header import KEY, Header
from prunekit.validation.arguments import check
from prunekit.validation.indices import format_indices, parse_indices
from prunekit.validation.limits import VOCABULARY
from prunekit.validation.reading import ReadError, parse_json
from prunekit.validation.yaml_text import parse_yaml
from tests.fuzz import strategies as fuzz

_LONGEST = 1000
_HOME = tempfile.TemporaryDirectory(prefix="prunekit-fuzz-")


@dataclass(frozen=True)
class Target:
    """A door, and what is thrown at it.

    Attributes
    ----------
    run : callable
    examples : strategy
    mutates : bool
        Whether what lies near an example as text or bytes is an example too.
    """

    run: Callable[[Any], None]
    examples: st.SearchStrategy[Any]
    mutates: bool = True


def one_line(error: BaseException) -> None:
    """An error is said in one line of bounded length."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < _LONGEST, text[:200]


def plan(text: str) -> None:
    """A plan reads as one that writes itself again, or is a PlanError."""
    try:
        found = Plan.from_json(text)
    except PlanError as error:
        one_line(error)
        return
    assert Plan.from_json(found.to_json()) == found


def indices(text: str) -> None:
    """Indices are those that the ranges name, or a ValueError."""
    try:
        found = parse_indices(text)
    except ValueError as error:
        one_line(error)
        return
    assert len(found) <= VOCABULARY
    assert all(type(index) is int and index >= 0 for index in found)
    if all(b > a for a, b in itertools.pairwise(found)):
        assert parse_indices(format_indices(found)) == found


def recipe(values: dict[str, Any]) -> None:
    """A recipe reads as one that writes itself again, or is a ParameterError."""
    try:
        text = yaml.safe_dump(values, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError):
        return
    recipe_text(text)


def recipe_text(text: str) -> None:
    """The same of YAML as text."""
    try:
        found = Recipe.from_yaml(text)
    except ParameterError as error:
        one_line(error)
        return
    assert Recipe.from_yaml(found.to_yaml()) == found


def json_text(text: str) -> None:
    """What is read is what Python's own reader reads; what only that reads is refused for a reason of ours."""
    try:
        found = parse_json(text)
    except ReadError as error:
        one_line(error)
        return
    assert found == json.loads(text)


def yaml_text(value: Any) -> None:
    """Plain values survive PyYAML's writer and our reader; any other text is read or refused."""
    try:
        text = yaml.safe_dump(value, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError):
        return
    try:
        parse_yaml(text)
    except ReadError as error:
        one_line(error)


def config(fields: Any) -> None:
    """A config that is accepted has sizes that can be counted with."""
    try:
        check_config(fields, "the config")
    except ModelError as error:
        one_line(error)
        return
    with contextlib.suppress(ModelError):
        check_memory(fields, 10_000, "model")
    longest = positions_of(fields, 0)
    assert longest is None or longest >= 1


class _Slice:
    def __init__(self, kind: Any, shape: Any) -> None:
        self._kind, self._shape = kind, shape

    def get_dtype(self) -> Any:
        return self._kind

    def get_shape(self) -> Any:
        return self._shape


def statistics(example: tuple[str, Any]) -> None:
    """A header that is accepted has tensors of the shapes that it says."""
    text, shapes = example
    # The library gives a dtype and a shape of whole numbers, whatever the file says.
    slices = {
        name: _Slice(*said)
        for name, said in (shapes.items() if isinstance(shapes, dict) else ())
        if isinstance(said, list)
        and len(said) == 2
        and isinstance(said[1], list)
        and all(type(size) is int and 0 <= size < 2**63 for size in said[1])
    }
    try:
        header = Header.of({KEY: text}, slices)
    except ReadError as error:
        one_line(error)
        return
    width = (header.source.layers + 1) * header.source.hidden + header.outputs
    assert slices["comoment"].get_shape() == [width, width]


def safetensors(data: bytes) -> None:
    """Numbers in a file are counted from its header, or it is a ModelError."""
    folder = Path(_HOME.name) / "safetensors"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    try:
        elements, size = stored_elements(folder)
    except ModelError as error:
        one_line(error)
        return
    assert size == len(data)
    assert elements <= size


def graph(data: bytes) -> None:
    """An ONNX file is read, and its weights counted, or it is a ModelError."""
    path = Path(_HOME.name) / "model.onnx"
    path.write_bytes(data)
    try:
        assert params_of(read_graph(path)) >= 0
    except ModelError as error:
        one_line(error)


def amounts(text: str) -> None:
    """Budgets and efforts read as what they say, or are a ParameterError."""
    for read in (Budget.parse, Effort.parse):
        try:
            found = read(text)
        except ParameterError as error:
            one_line(error)
            continue
        assert found.amount > 0


_HINTS = (int, float, bool, str, int | None, list[int], dict[str, int])


def argument(value: Any) -> None:
    """A value fits a type or is a ParameterError; what is no number never counts as one."""
    for hint in _HINTS[:5]:
        try:
            check("x", "f", value, hint)
        except ParameterError as error:
            one_line(error)
            continue
        assert hint is not int or type(value) is int
        assert hint is not bool or type(value) is bool


def command(words: tuple[str, str, str]) -> None:
    """A command line on a model that is not there ends with exit code 2 and one line, whatever the option says."""
    name, option, value = words
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([name, "./absent", option, value])
    assert code == 2, (code, err.getvalue()[:300])
    assert err.getvalue().startswith("error: ")
    assert err.getvalue().count("\n") == 1, err.getvalue()[:300]
    assert not out.getvalue()


def _onnx() -> bytes:
    value = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [2, 2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2, 3])
    table = helper.make_tensor("table", TensorProto.FLOAT, [5, 3], [0.5] * 15)
    node = helper.make_node("Gather", ["table", "input_ids"], ["y"], name="look up")
    model = helper.make_model(helper.make_graph([node], "graph", [value], [out], [table]), ir_version=10)
    data: bytes = onnx.ModelProto.SerializeToString(model)
    return data


_COMMANDS = (
    (
        "compress",
        ("--keep", "--layers", "--drop", "--seed", "--threads", "--max-length", "--max-drop", "--speedup", "--threshold", "--metric"),
    ),
    ("plan", ("--keep", "--layers", "--batch", "--statistics", "--recipe", "-o")),
    ("apply", ("--plan", "--max-length", "--dtype")),
    ("analyze", ("--rows", "--analyzers", "--compare", "--seed")),
    ("export", ("--opset", "--optimize", "--dtype", "--max-length", "--pooling", "--metric")),
    ("bench", ("--batch", "--length", "--threads", "--time-budget", "--min-speedup", "--max-regression", "--gate", "--backend")),
)
_LINES = st.sampled_from([(name, option) for name, options in _COMMANDS for option in options])
_RANGES = st.lists(
    st.one_of(st.integers(0, 50).map(str), st.tuples(st.integers(0, 9), st.integers(0, 99)).map(lambda ends: f"{ends[0]}-{ends[1]}"))
)

TARGETS: dict[str, Target] = {
    "plan": Target(plan, fuzz.json_text(fuzz.PLAN)),
    "indices": Target(indices, st.one_of(fuzz.WORDS, _RANGES.map(",".join), st.text("0123456789-, _", max_size=30))),
    "recipe": Target(recipe, fuzz.changed(fuzz.RECIPE, 6)),
    "recipe-text": Target(recipe_text, st.one_of(st.text("ab: -[]{}&*!<#'\"\n0123456789.eE~", max_size=60), st.text(max_size=40))),
    "json": Target(json_text, st.one_of(fuzz.json_text(fuzz.CONFIG), st.text('[]{}",:0123456789.eE-\\ntrufalsN', max_size=60))),
    "yaml": Target(yaml_text, fuzz.ANYTHING),
    "config": Target(config, fuzz.changed(fuzz.CONFIG, 4)),
    "statistics": Target(statistics, st.tuples(fuzz.json_text(fuzz.HEADER), fuzz.changed(fuzz.SHAPES, 2))),
    "safetensors": Target(safetensors, fuzz.safetensors()),
    "onnx": Target(graph, fuzz.damaged(_onnx())),
    "amounts": Target(amounts, st.one_of(fuzz.WORDS, st.text("0123456789. %xminepochsparalty", max_size=16))),
    "argument": Target(argument, fuzz.ANYTHING, mutates=False),
    "command": Target(command, st.tuples(_LINES, fuzz.WORDS).map(lambda pair: (*pair[0], pair[1])), mutates=False),
}
