"""The limits of CONTRIBUTING.md, which states them once."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import prunekit

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for folder in ("prunekit", "tests", "benchmarks", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
#: What a program calls to enter a package, by names; besides, the public names of prunekit and the commands.
ENTRIES = {
    "collect",  # stats
    "compare",  # runtime
    "latency_of_files",  # runtime
    "check_parity",  # exporters
    "export_onnx",  # exporters
    "load_data",  # data
    "select_readout",  # readout
}
#: Functions that list the steps of each command, one after the other.
STEPS = {
    "compress": ("pipeline/compress.py", ("run", "_run", "_make")),
    "plan": ("pipeline/compress.py", ("run_plan", "_check_plan")),
    "apply": ("pipeline/apply.py", ("apply", "solve")),
    "apply without data": ("pipeline/compress.py", ("run", "_run", "_slice")),
    "export": ("exporters/export.py", ("export", "_fp32")),
    "analyze": ("pipeline/analyze.py", ("analyze",)),
}


def limit(pattern: str) -> int:
    found = re.search(pattern, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Each function of a file; a method's and a constructor's name begins with its class's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield f"{node.name}.{child.name}" if isinstance(node, ast.ClassDef) else child.name, child


def is_command(path: Path, node: ast.FunctionDef) -> bool:
    """Whether its parameters are options of the command line, declared one by one."""
    return path.parent.name == "cli" and bool(node.decorator_list)


def start(path: Path, node: ast.FunctionDef) -> int:
    return node.body[0].lineno if is_command(path, node) else node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit(r"No file above (\d+) lines")
    most = limit(r"no function above (\d+)")
    assert not [name for name, node in functions(path) if (node.end_lineno or 0) - start(path, node) + 1 > most]


@pytest.mark.parametrize("path", sorted((ROOT / "prunekit").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_have_few_parameters(path: Path) -> None:
    most = limit(r"more than (\d+) parameters")
    entries = ENTRIES | {*prunekit.__all__} | {f"{name}.__init__" for name in prunekit.__all__}
    many = {
        name
        for name, node in functions(path)
        if len([each for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if each.arg not in ("self", "cls")])
        > most
        and not is_command(path, node)
    }
    assert many <= entries


@pytest.mark.parametrize("command", STEPS)
def test_the_steps_of_a_command_are_read_on_one_page(command: str) -> None:
    module, names = STEPS[command]
    steps = {name: node for name, node in functions(ROOT / "prunekit" / module) if name in names}
    assert set(steps) == set(names)
    lines = sum((node.end_lineno or 0) - node.body[1 if ast.get_docstring(node) else 0].lineno + 1 for node in steps.values())
    assert lines <= limit(r"steps of a command take at most (\d+) lines")


def test_no_entry_is_named_for_nothing() -> None:
    names = {name for path in FILES if path.is_relative_to(ROOT / "prunekit") for name, _ in functions(path)}
    assert names >= ENTRIES


def imported(node: ast.AST) -> list[str]:
    """Modules that a statement imports; those of `from prunekit import a` by their names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"prunekit.{alias.name}" for alias in node.names] if node.module == "prunekit" else [str(node.module)]
    return []


def test_the_tree_has_few_floors_and_few_arrows() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    floors = [line.split(" | ") for line in config["importlinter:contract:layers"]["layers"].split("\n") if line]
    assert len(floors) <= limit(r"at most (\d+); a new folder is entered there")
    rooms = {room for floor in floors for room in floor}
    pairs = {
        (path.relative_to(ROOT / "prunekit").parts[0].removesuffix(".py"), name.split(".")[1])
        for path in (ROOT / "prunekit").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported(node)
        if name.startswith("prunekit.")
    }
    arrows = {(own, other) for own, other in pairs if own != other and {own, other} <= rooms}
    assert len(arrows) <= limit(r"import another one make at most (\d+) pairs")
    height = {room: place for place, floor in enumerate(floors) for room in floor}
    assert not {(own, other) for own, other in arrows if height[own] >= height[other]}


def test_few_files_stand_beside_the_folders() -> None:
    files = {path.stem for path in (ROOT / "prunekit").glob("*.py")}
    assert files == {"__init__", "__main__", "budget", "errors", "plan", "tasks"}
