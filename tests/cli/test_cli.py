from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from prunekit import __version__, cli
from prunekit.errors import BudgetError, DataError
from prunekit.pipeline.early import Sources
from prunekit.plan import Plan, Source
from prunekit.recipe import Recipe

PLAN = Plan(source=Source(model_type="bert", layers=4, hidden=8, heads=2, ffn=16, vocabulary=30), layers=(0, 1), heads={0: (1,)})


def prunekit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The real program, in a process and a directory of its own."""
    search = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": search}
    return subprocess.run([sys.executable, "-m", "prunekit", *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


class Runs:
    """Stands where prunekit.pipeline.compress stands, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Recipe, dict[str, Any]]] = []
        self.raises: BaseException | None = None

    def run(self, recipe: Recipe, **options: Any) -> SimpleNamespace:
        self.asked.append((recipe, options))
        if self.raises is not None:
            raise self.raises
        return SimpleNamespace(path=options["out"], report={"kept": 0.1})

    @property
    def recipe(self) -> Recipe:
        return self.asked[-1][0]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    # What is asked for is not there; what is said of that has tests of its own.
    for check in ("check_early", "check_places"):
        monkeypatch.setattr(f"prunekit.pipeline.early.{check}", lambda *_, **__: None)
    for name, value in (("prunekit.pipeline.compress", ("run", found.run)), ("prunekit.report.tables", ("render_terminal", print))):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        setattr(module, *value)
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compress", "--keep", "0%"], "The 'keep' parameter of compress must be a percentage in (0%, 100%]"),
        (["compress", "--keep", "200%"], "Got '200%' instead."),
        (["compress", "--keep", "ten"], "Got 'ten' instead."),
        (["compress", "--keep", "10%", "--keep", "20%"], "model came twice"),
        (["compress", "--layer-delta", "1"], "The 'layer_delta' parameter of compress must be a percentage"),
        (["compress", "--seed", "x"], "Invalid value for '--seed'"),
        (["compress", "--kep", "10%"], "No such option: --kep. Did you mean --keep?"),
        (["compress", "one", "two"], "Got unexpected extra argument"),
        (["compress", "--keep"], "Option '--keep' requires an argument"),
        (["compress", "--recipe", "absent.yaml"], "No such file"),
        (["decompress"], "No such command 'decompress'"),
        (["--nope"], "No such option: --nope"),
        (["compress", "--layers", "3-1"], "The 'layers' parameter of compress must be blocks to keep, increasing, such as '0-3'"),
        (["compress", "--vocabulary", "none"], "The 'vocabulary' parameter of compress must be one of 'all', 'data'"),
        (
            ["compress", "--keep", "9% neurons", "--multiple-of", "8"],
            "The 'multiple_of' parameter of compress must be left out where only neurons",
        ),
        (["compress", "--keep", "none"], "The 'keep' parameter of compress must be given where nothing else says what to remove"),
        (["compress", "--keep", "8 MB", "--batch", "8"], "The 'batch' parameter of compress must be left out without a budget of latency"),
        (["plan", "--keep", "ten"], "Got 'ten' instead."),
        (["plan", "--max-drop", "1%"], "No such option: --max-drop"),
        (["apply"], "Missing option '--plan'"),
        (["show"], "Missing argument 'PLAN'"),
        (["show", "absent.json"], "The plan 'absent.json' cannot be read"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", said.err)
    assert says in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["compress", "--keep", "ten"], ["apply"], ["show", "absent.json"]], ids=" ".join)
def test_the_program_ends_as_its_entry_point_does(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = prunekit(*arguments, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert (done.returncode, done.stdout) == (cli.main(arguments), "")
    assert done.stderr == capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_version_and_help(tmp_path: Path) -> None:
    assert prunekit("--version", cwd=tmp_path).stdout == f"prunekit {__version__}\n"
    alone, helped = prunekit(cwd=tmp_path), prunekit("-h", cwd=tmp_path)
    assert alone.stdout == helped.stdout
    assert alone.stdout.startswith("Usage: prunekit")
    assert alone.returncode == helped.returncode == 0


def test_defaults_are_the_recipes(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compress"]) == 0
    assert runs.asked == [
        (Recipe(), {"out": Path("prunekit-out"), "overwrite": False, "progress": True, "verbose": False, "sources": Sources()})
    ]
    printed = capsys.readouterr().out
    assert "{'kept': 0.1}" in printed
    assert printed.endswith("load it in Python: import prunekit; model = prunekit.load('prunekit-out')\n")


def test_every_option_arrives(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    line = """compress some/model --data rows.jsonl -o there --keep 10% --keep 50%params --max-drop 2% --method dalvi2020
    --layers 0-1,3 --vocabulary data --uniform --multiple-of 8
    --task text-classification --metric f1 --text a --text-pair b
    --label c --data-config d --pooling mean --layer-delta 3% --neuron-delta 2% --threshold 0.4
    --max-length 64 --seed 5 --threads 2 --revision main --trust-remote-code --overwrite --quiet"""
    assert cli.main(line.split()) == 0
    expected = Recipe(
        model="some/model",
        data="rows.jsonl",
        keep=["10%", "50%params"],
        layers="0-1,3",
        vocabulary="data",
        uniform=True,
        multiple_of=8,
        max_drop="2%",
        method="dalvi2020",
        task="text-classification",
        metric="f1",
        text="a",
        text_pair="b",
        label="c",
        data_config="d",
        pooling="mean",
        layer_delta="3%",
        neuron_delta="2%",
        threshold=0.4,
        max_length=64,
        seed=5,
        threads=2,
        revision="main",
        trust_remote_code=True,
    )
    assert runs.asked == [(expected, {"out": Path("there"), "overwrite": True, "progress": False, "verbose": False, "sources": Sources()})]
    assert capsys.readouterr().out == "there\n"


def test_columns_of_a_token_task_arrive(runs: Runs) -> None:
    assert cli.main(["compress", "--tokens", "words", "--tags", "pos"]) == 0
    assert (runs.recipe.tokens, runs.recipe.tags) == ("words", "pos")


def test_options_take_the_place_of_a_recipes_and_nothing_else_does(runs: Runs, tmp_path: Path) -> None:
    written = Recipe(model="some/model", keep=["40% params"], seed=3, layer_delta="2%")
    written.save(tmp_path / "recipe.yaml")
    assert cli.main(["compress", "--recipe", str(tmp_path / "recipe.yaml")]) == 0
    assert runs.recipe == written
    assert cli.main(["compress", "--recipe", str(tmp_path / "recipe.yaml"), "--seed", "0", "--keep", "10%"]) == 0
    assert runs.recipe == written.replace(seed=0, keep="10%")


@pytest.mark.parametrize(("error", "code"), [(DataError("no column 'text'"), 2), (BudgetError("kept 12%,\nallowed 10%"), 1)])
def test_errors_of_the_run(runs: Runs, error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    runs.raises = error
    assert cli.main(["compress"]) == code
    assert capsys.readouterr().err == f"error: {' '.join(str(error).split())}\n"


def test_what_nobody_expected_keeps_its_traceback(runs: Runs) -> None:
    runs.raises = KeyError("a bug")
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["compress"])


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts(number: signal.Signals, runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    cleaned = []

    def run(recipe: Recipe, **options: Any) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(sys.modules["prunekit.pipeline.compress"], "run", run)
    assert cli.main(["compress"]) == 130
    assert capsys.readouterr().err == "interrupted, nothing was written\n"
    assert cleaned
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_says_how_to_go_on(runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(recipe: Recipe, **options: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as stopped:
            stopped.add_note("the same command again goes on")
            raise

    monkeypatch.setattr(sys.modules["prunekit.pipeline.compress"], "run", run)
    assert cli.main(["compress"]) == 130
    assert capsys.readouterr().err == "interrupted, nothing was written; the same command again goes on\n"


def test_a_unit_that_is_named_takes_the_place_of_the_default_budget(runs: Runs, tmp_path: Path) -> None:
    assert cli.main(["compress", "--vocabulary", "data"]) == 0
    assert runs.recipe == Recipe(vocabulary="data", keep="none")
    Recipe(seed=3, keep="20%").save(tmp_path / "recipe.yaml")
    assert cli.main(["compress", "--recipe", str(tmp_path / "recipe.yaml"), "--layers", "0-1"]) == 0
    assert runs.recipe == Recipe(seed=3, keep="20%", layers="0-1")


def test_apply_is_a_recipe_with_a_plan(runs: Runs) -> None:
    assert cli.main(["apply", "some/model", "--plan", "plan.json", "-o", "there"]) == 0
    assert runs.asked == [
        (
            Recipe(model="some/model", plan="plan.json"),
            {"out": Path("there"), "overwrite": False, "progress": True, "verbose": False, "sources": Sources()},
        )
    ]
    assert cli.main(["apply", "--plan", "plan.json", "--data", "rows.csv", "--max-drop", "1%", "--label", "c"]) == 0
    assert runs.recipe == Recipe(plan="plan.json", data="rows.csv", max_drop="1%", label="c")


def test_show(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "a.json")
    PLAN.model_copy(update={"layers": (0, 1, 2)}).save(tmp_path / "b.json")
    shown = prunekit("show", "a.json", cwd=tmp_path).stdout.splitlines()
    assert PLAN.digest[:12] in shown[0]
    assert [line.split() for line in shown[1:]] == [["blocks", "2", "of", "4", "0-1"], ["heads", "of", "block", "0", "1", "of", "2", "1"]]
    assert prunekit("show", "a.json", "b.json", cwd=tmp_path).stdout == "blocks: 2 of 4 (0-1) | 3 of 4 (0-2)\n"
    assert prunekit("show", "a.json", "a.json", cwd=tmp_path).stdout == "the two plans keep the same\n"
    (tmp_path / "slim").mkdir()
    (tmp_path / "a.json").rename(tmp_path / "slim" / "plan.json")
    assert prunekit("show", "slim", cwd=tmp_path).stdout.splitlines() == shown


def test_show_of_a_plan_that_keeps_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Plan(source=PLAN.source).save(tmp_path / "all.json")
    assert cli.main(["show", str(tmp_path / "all.json")]) == 0
    assert capsys.readouterr().out.endswith("everything is kept\n")


def test_show_cuts_what_nobody_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = PLAN.source.model_copy(update={"vocabulary": 1000})
    Plan(source=source, vocabulary=tuple(range(0, 1000, 2))).save(tmp_path / "plan.json")
    assert cli.main(["show", str(tmp_path / "plan.json")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("vocabulary  500 of 1000  0,2,4,")
    assert last.endswith(",...")
    assert len(last) < 100
