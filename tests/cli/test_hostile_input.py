"""Each row of what was once not refused, through the command line's own entry point: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import prunekit
from prunekit import cli
from prunekit.arch.config import positions_of
from prunekit.errors import ParameterError, PrunekitError
from prunekit.recipe import Recipe
from prunekit.validation import limits
from tests import lines
from tests.campaign import binary, files
from tests.campaign.case import listing
from tests.lines import checkpoint, data, line


def complaint(capsys: pytest.CaptureFixture[str], place: Path, *words: str) -> str:
    """What the program says of a run that is refused."""
    before = listing(place)
    assert cli.main(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: [^\n]{1,700}\n", said.err), said.err
    assert listing(place) == before
    return said.err


@pytest.mark.parametrize("name", files.plan_cases(), ids=ascii)
def test_of_a_plan(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text(files.plan_cases()[name], encoding="utf-8", errors="surrogatepass")
    complaint(capsys, tmp_path, "show", str(tmp_path / "plan.json"))


@pytest.mark.parametrize("name", files.RECIPES)
def test_of_a_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(files.RECIPES[name], encoding="utf-8")
    # What is a recipe all the same is refused for the budget.
    complaint(capsys, tmp_path, "compress", "--recipe", str(path), "--keep", "0%", "-o", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 1_000_000),
        ("num_hidden_layers", 1000),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", -1),
        ("hidden_size", 0),
        ("num_attention_heads", 0),
        ("num_labels", 300_000_000),
        ("architectures", 5),
        ("intermediate_size", 2**20),
        ("vocab_size", 2**22),
        ("id2label", {"0": "a", "9": "b"}),
    ],
    ids=str,
)
def test_of_a_config(field: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = changed(checkpoint("sequence"), tmp_path / "model", "config.json", {field: value})
    complaint(capsys, tmp_path, "export", str(model), "-o", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_max_length", "abc"),
        ("model_max_length", -1),
        ("pad_token", 5),
        *(("added_tokens_decoder", value) for value in (5, {"-1": {"content": "x"}}, {"9" * 5000: {}}, {"\u0661": {}}, {str(2**22): {}})),
    ],
    ids=lambda value: str(value)[:40],
)
def test_of_a_tokenizer(field: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = changed(checkpoint("sequence"), tmp_path / "model", "tokenizer_config.json", {field: value})
    complaint(capsys, tmp_path, "export", str(model), "-o", str(tmp_path / "out"))


@pytest.mark.parametrize("case", ["sequence", "uniform"])
@pytest.mark.parametrize("field", files.SLIM)
def test_of_the_config_of_a_slim_model(case: str, field: str, tmp_path: Path) -> None:
    for at, value in enumerate(files.SLIM[field]):
        slim = changed(line(case).path, tmp_path / f"slim{at}", "config.json", {field: value})
        with pytest.raises(PrunekitError) as caught:
            prunekit.load(slim)
        assert "\n" not in str(caught.value), value


def changed(source: Path, folder: Path, file: str, change: dict[str, Any]) -> Path:
    shutil.copytree(source, folder)
    fields = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**fields, **change}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_of_thirty_megabytes_of_brackets(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(checkpoint("sequence"), tmp_path / "model")
    (tmp_path / "model" / file).write_text("[" * 15_000_000 + "]" * 15_000_000)
    assert "has more than" in complaint(capsys, tmp_path, "export", str(tmp_path / "model"), "-o", str(tmp_path / "out"))


def test_of_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "analysis"
    prunekit.analyze(checkpoint("sequence"), data("text"), rows=40, out=place, analyzers=["neurons"])
    given = ("plan", str(checkpoint("sequence")), "--data", str(data("text")), "--keep", "20%", "-o", str(tmp_path / "plan.json"))
    whole = (place / "statistics.safetensors").read_bytes()
    for change in binary.STATISTICS.values():
        (tmp_path / "s").write_bytes(whole)
        change(tmp_path / "s")
        complaint(capsys, tmp_path, *given, "--statistics", str(tmp_path / "s"), "--quiet")


@pytest.mark.parametrize("place", ["/dev/zero", "{here}/fifo", "{here}/loop", "~nosuchuser/x", "x" * 5000, "nul\0", "", "{here}/file/x"])
@pytest.mark.parametrize("words", [("show",), ("compress", "--recipe"), ("export",), ("bench",), ("plan", "--statistics")], ids=" ".join)
def test_of_a_place_that_is_no_file(words: tuple[str, ...], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    given = [*words, place.replace("{here}", str(tmp_path))]
    complaint(capsys, tmp_path, *given, *(["-o", str(tmp_path / "out")] if words[0] in ("compress", "export", "plan") else []))


@pytest.mark.parametrize("command", ["compress", "analyze"])
def test_a_length_beyond_the_models_positions_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (command, str(checkpoint("sequence")), "--data", str(data("text")), "-o", str(tmp_path / "out"), "--max-length", "65")
    said = complaint(capsys, tmp_path, *given, "--quiet")
    assert said == (
        f"error: The 'max_length' parameter of {command} must be at most 64, the longest row that the model takes. Got 65 instead.\n"
    )


def test_the_default_length_is_capped_by_the_models_positions(tmp_path: Path) -> None:
    rows = {name: lines.topic_rows(40, at) for at, name in enumerate(lines.ROWS)}
    # A row of more tokens than the 64 positions of the model.
    rows["train"][0]["text"] = " ".join(lines.SEEN * 20)
    with lines.quick():
        asked: dict[str, Any] = {"keep": "40%", "recover": "none", "dtype": "fp32"}
        made = prunekit.compress(checkpoint("base"), lines.write_rows(tmp_path / "rows", rows), out=tmp_path / "out", **asked)
    assert "1 of 120 rows were cut at 64 tokens" in made.report.notes
    # The recipe beside it says what was asked, and can be run again.
    assert Recipe.load(made.path / "recipe.yaml").max_length is None


@pytest.mark.parametrize(
    ("fields", "pad", "longest"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 0, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 1, 512),
        ({"model_type": "xlnet"}, 0, None),
        ({"model_type": "gpt2", "n_positions": 1024}, 0, 1024),
    ],
    ids=str,
)
def test_positions_by_family(fields: dict[str, Any], pad: int, longest: int | None) -> None:
    assert positions_of(fields, pad) == longest


def _program(*words: str, stdout: Any = subprocess.PIPE, cwd: Path | None = None, start: str = "") -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    text = f"import os, sys\n{start}\nfrom prunekit import cli\nsys.exit(cli.main(sys.argv[1:]))"
    given = [sys.executable, "-c", text, *words]
    return subprocess.run(given, env={**os.environ, "PYTHONPATH": search}, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=cwd)


@pytest.mark.needs("linux")
def test_of_an_output_that_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = _program("--version", stdout=full)
    assert (done.returncode, done.stderr) == (2, "error: The output cannot be printed: No space left on device.\n")


@pytest.mark.needs("linux")
def test_of_an_output_that_is_closed(tmp_path: Path) -> None:
    # The shell closes it before Python starts.
    search = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    program = "import sys; from prunekit import cli; sys.exit(cli.main(sys.argv[1:]))"
    given = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", program, "--version"]
    done = subprocess.run(given, env={**os.environ, "PYTHONPATH": search}, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: The standard output is closed. Send it to /dev/null if nobody is to read it.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "evil") for name in ("TORCH_LOGS", "SOURCE_DATE_EPOCH", "HF_HUB_ETAG_TIMEOUT", "TQDM_MININTERVAL")),
        ("PYTHONOPTIMIZE", "2"),
    ],
)
def test_of_an_environment_that_libraries_cannot_read(name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    done = _program("export", str(checkpoint("sequence")), "-o", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert name in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_origin_is_not_blamed_on_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> int:
        raise ValueError("cannot reshape array of size 0 into shape (3,)")

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("prunekit.cli.base.app", broken)
    with pytest.raises(ValueError, match="cannot reshape"):
        cli.main([])


def test_of_a_recipe_that_would_be_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "slim"
    shutil.copytree(line("base").path, out)
    words = ["compress", "--recipe", str(out / "recipe.yaml"), "--overwrite", "-o", str(out)]
    assert "must be a directory without what is read" in complaint(capsys, tmp_path, *words)
    words = ["compress", str(checkpoint("base")), "--data", str(data("topics")), "--overwrite", "-o", str(tmp_path)]
    assert "prunekit does not replace what is there" in complaint(capsys, tmp_path, *words)


def test_of_a_file_that_is_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    words = ["plan", str(checkpoint("base")), "--data", str(data("topics")), "--overwrite", "-o", str(tmp_path / "thesis.txt")]
    assert "prunekit did not write what is there" in complaint(capsys, tmp_path, *words)


def test_of_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = _program("compress", "model", "--data", "rows", cwd=tmp_path / "gone", start=f"os.rmdir({str(tmp_path / 'gone')!r})")
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*the working directory no longer exists.*\n", done.stderr)


def test_of_many_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "less than or equal to 1024" in complaint(capsys, tmp_path, "compress", "--threads", "100000", "-o", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: prunekit.apply(lines.dense("sequence"), None), "The 'plan' parameter of apply must be a prunekit Plan. Got None instead."),
        (lambda: prunekit.recover(lines.dense("sequence"), None, ["a"], effort=5), "The 'effort' parameter of recover must be text or"),
        (lambda: prunekit.export(None), "must be text or a path that can exist or a torch Module. Got None instead."),
        (
            lambda: prunekit.bench("m", batch_sizes="12"),
            "The 'batch_sizes' parameter of bench must be a sequence of a whole number, at least",
        ),
        (lambda: prunekit.export("m", columns={"evil": 1}), "The 'columns' parameter of export must be a mapping from one of text"),
        (lambda: prunekit.compress(overwrite="no"), "The 'overwrite' parameter of compress must be True or False. Got 'no' instead."),
        (lambda: prunekit.compress(progress=lines.dense("base")), "must be True or False. Got a BertModel instead."),
        (lambda: prunekit.Budget.parse(5), "The 'text' parameter of Budget.parse must be text. Got 5 instead."),
        (lambda: prunekit.export("m", evil=1), "The 'evil' parameter of export must be one that exists. Got 1 instead."),
    ],
    ids=range(9),
)
def test_of_an_argument(call: Any, says: str) -> None:
    with pytest.raises(ParameterError) as caught:
        call()
    assert says in str(caught.value)
    assert len(str(caught.value)) < 700


def test_every_bound_is_in_the_docs(root: Path) -> None:
    text = (root / "docs" / "limits.md").read_text(encoding="utf-8")
    for name, value in vars(limits).items():
        if name.isupper():
            assert f"{value:,}" in text, name
