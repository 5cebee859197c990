"""What a user's script may rely on, written down; a change of it is a change for users."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import typer

import prunekit
from prunekit import cli
from prunekit.errors import ParameterError
from prunekit.recipe import Recipe
from prunekit.recipe.option import Group
from prunekit.recipe.signatures import all_options, options


@pytest.fixture(scope="module")
def make_cli(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli", root / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_option_changed(make_cli: ModuleType) -> None:
    frozen = (Path(__file__).parent / "options.txt").read_text(encoding="utf-8")
    assert make_cli.frozen() == frozen, "a new option needs a news fragment; then run python docs/make_cli.py"


def test_the_reference_is_up_to_date(make_cli: ModuleType, root: Path) -> None:
    assert make_cli.reference() == (root / "docs" / "cli.md").read_text(encoding="utf-8"), "run python docs/make_cli.py"


def test_what_the_commands_read_is_what_is_declared(make_cli: ModuleType, root: Path) -> None:
    assert make_cli.declared() == (root / "prunekit" / "cli" / "options.json").read_text(encoding="utf-8"), "run python docs/make_cli.py"


def test_the_stub_is_up_to_date(make_cli: ModuleType, root: Path) -> None:
    assert make_cli.stub() == (root / "prunekit" / "__init__.pyi").read_text(encoding="utf-8"), "run python docs/make_cli.py"


@pytest.mark.parametrize("name", ["compress", "make_plan", "analyze"])
def test_python_takes_what_the_command_takes_each_by_keyword(name: str, root: Path) -> None:
    function, command = getattr(prunekit, name), name.removeprefix("make_")
    parameters = inspect.signature(function).parameters
    named = {each for each, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY} | {"model", "data"}
    assert set(options(command)) <= named == set(parameters)
    defaults = Recipe.model_construct().model_dump(mode="json")
    for each in options(command):
        default = parameters[each].default
        assert (list(default) if isinstance(default, tuple) else default) == defaults[each]
    (stubbed,) = (
        each
        for each in ast.parse((root / "prunekit" / "__init__.pyi").read_text(encoding="utf-8")).body
        if isinstance(each, ast.FunctionDef) and each.name == name
    )
    assert [each.arg for each in (*stubbed.args.args, *stubbed.args.kwonlyargs)] == list(parameters)
    assert stubbed.args.kwarg is None


def test_every_field_of_a_recipe_is_declared_as_an_option() -> None:
    assert {option.name for option in all_options()} == Recipe.model_fields.keys() - {"version"}
    assert options("compress").keys() == Recipe.model_fields.keys() - {"version"}


def test_what_another_command_has_is_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="The 'recover' parameter of plan must be left out: it is an option of compress and apply"):
        prunekit.make_plan(recover="1min")
    with pytest.raises(ParameterError, match="The 'keep' parameter of analyze must be left out: it is an option of compress and plan"):
        prunekit.analyze(keep="10%")
    with pytest.raises(ParameterError, match="Did you mean 'keep'"):
        prunekit.compress(kep="10%")


def test_help_groups_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compress", "--help"]) == 0
    headings = [line.strip(":") for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert headings == ["Arguments", *get_args(Group)]


def test_the_entry_point_is_main(root: Path) -> None:
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    assert config["options.entry_points"]["console_scripts"].strip() == f"prunekit = {cli.__name__}:{cli.main.__name__}"


def test_compress_offers_every_parameter_of_a_recipe() -> None:
    offered = {parameter.name for parameter in typer.main.get_command(cli.app).commands["compress"].params}  # type: ignore[attr-defined]
    assert Recipe.model_fields.keys() - {"version", "plan"} <= offered


def test_apply_offers_what_a_plan_leaves_open_and_plan_what_it_decides() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    names = {name: {parameter.name for parameter in commands[name].params} for name in ("compress", "plan", "apply")}
    decides = {
        "keep",
        "speedup",
        "p95",
        "batch",
        "layers",
        "drop",
        "affine",
        "vocabulary",
        "uniform",
        "multiple_of",
        "frontier",
        "baselines",
        "method",
        "layer_delta",
        "neuron_delta",
        "threshold",
    }
    written = {"max_drop", "frontier", "recover", "freeze", "space", "baselines", "json", "retrieval"}
    assert names["compress"] - names["plan"] == written
    assert names["compress"] - names["apply"] == decides | {"recipe"}
    assert names["apply"] - names["compress"] == {"plan"}


def test_the_defaults_that_help_states_are_the_recipes() -> None:
    defaults = Recipe().model_dump(mode="json")
    for parameter in typer.main.get_command(cli.app).commands["compress"].params:  # type: ignore[attr-defined]
        stated = re.search(r"\[default: (\S+)\]", parameter.help or "")
        if stated is not None and parameter.name in defaults:
            value = defaults[parameter.name]
            assert stated[1] == str(value[0] if isinstance(value, list) else value), parameter.name
