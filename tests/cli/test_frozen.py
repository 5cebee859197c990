"""What a user's script may rely on, written down; a change of it is a change for users."""

from __future__ import annotations

import configparser
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer

from prunekit import cli
from prunekit.recipe import Recipe


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
    assert make_cli.options() == frozen, "a new option needs a news fragment; then run python docs/make_cli.py"


def test_the_reference_is_up_to_date(make_cli: ModuleType, root: Path) -> None:
    assert make_cli.reference() == (root / "docs" / "cli.md").read_text(encoding="utf-8"), "run python docs/make_cli.py"


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
        "batch",
        "layers",
        "drop",
        "affine",
        "vocabulary",
        "uniform",
        "multiple_of",
        "frontier",
        "method",
        "layer_delta",
        "neuron_delta",
        "threshold",
    }
    assert names["compress"] - names["plan"] == {"dtype", "max_drop", "frontier", "recover", "freeze"}
    assert names["compress"] - names["apply"] == decides | {"recipe"}
    assert names["apply"] - names["compress"] == {"plan"}


def test_the_defaults_that_help_states_are_the_recipes() -> None:
    defaults = Recipe().model_dump(mode="json")
    for parameter in typer.main.get_command(cli.app).commands["compress"].params:  # type: ignore[attr-defined]
        stated = re.search(r"\[default: (\S+)\]", parameter.help or "")
        if stated is not None and parameter.name in defaults:
            value = defaults[parameter.name]
            assert stated[1] == str(value[0] if isinstance(value, list) else value), parameter.name
