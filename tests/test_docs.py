from __future__ import annotations

import ast
import configparser
import json
import re
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement

from prunekit import __version__, cli
from prunekit.plan import Plan
from tests.campaign.cases import all_cases

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*.md"), *(ROOT / "changelog.d").glob("*.md")])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(prunekit [^`]+)`", page.read_text(encoding="utf-8"))
    for line in lines:
        found = re.search(r"prunekit (?=[a-z])(.*)", line)
        if found is None or line.startswith("pip "):
            continue
        command = typer.main.get_command(cli.app)
        words = re.sub(r"\"[^\"]*\"|'[^']*'", "QUOTED", found[1]).split()
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {flag for parameter in command.params for flag in parameter.opts} | {"--help", "-h"}
        assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_recipes_and_files_that_are_named_exist(page: Path) -> None:
    for recipe in re.findall(r"`([\w-]+\.yaml)`", page.read_text(encoding="utf-8")):
        assert recipe == "recipe.yaml" or (ROOT / "recipes" / recipe).exists()


def test_every_recipe_is_listed() -> None:
    listed = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "recipes").glob("*.yaml") if f"`{path.name}`" not in listed] == []


def test_the_plan_of_the_format_page_is_a_plan() -> None:
    (example,) = blocks(ROOT / "docs" / "plan-format.md", "json")
    plan = Plan.from_json(example)
    assert plan.readout is not None
    assert plan.readout.top == 3
    table = (ROOT / "docs" / "plan-format.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == Plan.model_fields.keys() | {"digest"}
    assert json.loads(plan.to_json())["layers"] == "0-2"


def test_news_fragments_have_a_kind() -> None:
    for path in (ROOT / "changelog.d").iterdir():
        assert path.name == "README.md" or re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", path.name)


def test_constraints_allow_what_the_metadata_asks_for() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines if "==" in line}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = [config["options"]["install_requires"], *(text for extra, text in config["options.extras_require"].items() if extra != "gpu")]
    for line in filter(None, "\n".join(asked).splitlines()):
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[re.sub(r"[-_.]+", "-", requirement.name).lower()]), line
        assert "==" not in str(requirement.specifier), f"{line}: ranges in the metadata, versions in constraints.txt"


def test_the_changelog_is_not_behind() -> None:
    # While a version has no section of its own, its news are fragments.
    assert (
        f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8") or len(list((ROOT / "changelog.d").glob("*.*.md"))) > 0
    )


@pytest.mark.parametrize(("page", "least"), [("soundness.md", 30), ("hostile.md", 50)])
def test_guarantees_name_tests_that_there_are(page: str, least: int) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert len(named) > least
    for file, test in named:
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


def test_hostile_cases_that_are_named_are_in_the_campaign() -> None:
    text = (ROOT / "docs" / "hostile.md").read_text(encoding="utf-8")
    assert "|  |" not in text
    named = re.findall(r"`campaign: ([^`]+)`", text)
    assert len(named) > 30
    assert sorted(set(named) - {case.name for case in all_cases()}) == []
