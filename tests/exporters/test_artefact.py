from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prunekit.errors import DataError, OutputError, ParameterError
from prunekit.exporters import sibling
from prunekit.exporters.artefact import ArtefactWriter, check_output
from prunekit.exporters.manifest import Manifest, foreign
from prunekit.plan import Plan, ReadoutPlan, Source

SOURCE = Source(model_type="bert", layers=2, hidden=8, heads=2, ffn=4, vocabulary=9)


def plan(dim: int = 0) -> Plan:
    return Plan(source=SOURCE, readout=ReadoutPlan(pooling="cls", neurons={1: (dim,)}))


def write(out: Path, dim: int = 0, overwrite: bool = False) -> None:
    with ArtefactWriter(out, overwrite) as folder:
        plan(dim).save(folder / "plan.json")
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_text(str(dim))


def fail_within(out: Path, error: BaseException, overwrite: bool = False) -> None:
    with ArtefactWriter(out, overwrite) as folder:
        (folder / "half").write_text("x")
        raise error


def content(out: Path) -> str:
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == ["manifest.json", "onnx", "onnx/model.onnx", "plan.json"]
    return (out / "onnx" / "model.onnx").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", ["missing", "empty", "parents missing", "in the working directory", "a link"])
def test_it_appears_whole(before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "slim"
    if before == "empty":
        out.mkdir()
    if before == "parents missing":
        out = tmp_path / "a" / "b" / "slim"
    if before == "in the working directory":
        monkeypatch.chdir(tmp_path)
        out = Path("slim")
    if before == "a link":
        (tmp_path / "real").mkdir()
        out.symlink_to(tmp_path / "real")
    with ArtefactWriter(out) as folder:
        assert folder.parent.parent.resolve() == out.resolve().parent
        assert re.fullmatch(rf"\.{out.resolve().name}\.tmp-[0-9a-f]{{16}}", folder.parent.name)
        assert not out.exists() or not list(out.iterdir())
        plan().save(folder / "plan.json")
    assert foreign(out) is None
    assert names(out) == ["manifest.json", "plan.json"]
    assert [name for name in names(out.resolve().parent) if name.startswith(".")] == []
    if before == "a link":
        assert out.is_symlink()


@pytest.mark.parametrize("error", [RuntimeError("x"), DataError("x"), KeyboardInterrupt(), SystemExit(3), OSError(2, "x", "data.csv")])
@pytest.mark.parametrize("old", [False, True])
def test_an_error_leaves_what_was_there(error: BaseException, old: bool, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "slim"
    if old:
        write(out, dim=1)

    with pytest.raises(type(error)) as caught:
        fail_within(out, error, overwrite=old)
    assert caught.value is error
    if old:
        assert content(out) == "1"
        assert names(out.parent) == ["slim"]
    else:
        assert not list(tmp_path.iterdir())


def test_the_old_stays_until_the_new_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    write(out, dim=1)
    with ArtefactWriter(out, overwrite=True) as folder:
        assert content(out) == "1"
        plan(2).save(folder / "plan.json")
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_text("2")
        assert content(out) == "1"
    assert content(out) == "2"
    assert names(tmp_path) == ["slim"]


def test_the_old_returns_if_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "slim"
    write(out, dim=1)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    monkeypatch.setattr(sibling, "exchange", lambda *_: False)
    with pytest.raises(OutputError, match="cannot be written: Input/output error"):
        write(out, dim=2, overwrite=True)
    assert content(out) == "1"
    assert names(tmp_path) == ["slim"]


def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write(tmp_path / "slim")
    with pytest.raises(ParameterError, match=r"must be a new or an empty directory.*Add --overwrite") as caught:
        check_output(tmp_path / "slim")
    assert caught.value.parameter == "out"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": "mine"},
        {"plan.json": "{}"},
        {"plan.json": "not json"},
        {"plan.json": "[1]"},
        {"plan.json": json.dumps({"format_version": "1.2", "terraform_version": "1.9"})},
    ],
)
def test_what_prunekit_did_not_write_is_never_replaced(files: dict[str, str], overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    with pytest.raises(ParameterError, match="prunekit does not replace what is there"):
        ArtefactWriter(out, overwrite)
    assert {path.name: path.read_text() for path in out.iterdir()} == files


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ParameterError, match="It is a file"):
        check_output(tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match="is not a directory"):
        check_output(tmp_path / "out" / "below")


def test_it_is_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ParameterError):
        ArtefactWriter(tmp_path)
    assert names(tmp_path) == ["x"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may write anywhere, so the system's answer is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="no permission in") as caught:
        check_output(tmp_path / "a" / "slim")
    assert str(tmp_path) in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(OutputError, match="cannot be written: Permission denied"), ArtefactWriter(tmp_path / "slim"):
        pass


def test_denied_below_the_output_is_about_the_output_and_elsewhere_is_not(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    with pytest.raises(OutputError, match=r"slim.* cannot be written: Permission denied"), ArtefactWriter(out) as folder:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / "model.onnx"))
    with pytest.raises(PermissionError, match=r"data\.csv"), ArtefactWriter(out):
        raise PermissionError(errno.EACCES, "Permission denied", "data.csv")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "somewhere"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"The output directory '.*slim' cannot be written: (No space|Disk quota)") as caught:
        fail_within(tmp_path / "slim", error)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), ArtefactWriter(tmp_path / "slim"):
        Path("/dev/full").write_text("x" * 100_000)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from prunekit.exporters import sibling
from prunekit.exporters.artefact import ArtefactWriter
out, when = Path(sys.argv[1]), sys.argv[2]
rename = Path.rename
def killed(self, target):
    if when == "swapping" and self.name == "new":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killed
sibling.exchange = lambda *_: False
with ArtefactWriter(out, overwrite=True) as folder:
    (folder / "half").write_text("half")
    if when != "swapping":
        print(folder.parent.name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL if when == "writing" else getattr(signal, when))
"""


def run(out: Path, when: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", KILLED, str(out), when], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("when", ["writing", "swapping"])
@pytest.mark.parametrize("old", [False, True])
def test_a_killed_run_is_cleared_away_by_the_next(when: str, old: bool, tmp_path: Path) -> None:
    out = tmp_path / "slim [v1]*"
    if old:
        write(out, dim=1)
    (tmp_path / ".other.tmp-1").mkdir()
    assert run(out, when).returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2 + (old and when == "writing")
    check_output(out, overwrite=True)
    assert names(tmp_path) == [".other.tmp-1", *([out.name] if old else [])]
    if old:
        assert content(out) == "1"
    write(out, dim=2, overwrite=True)
    assert content(out) == "2"
    assert names(tmp_path) == [".other.tmp-1", out.name]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    done = run(tmp_path / "slim", number.name)
    assert done.returncode == 128 + number
    assert done.stdout.startswith(".slim.tmp-")
    assert not list(tmp_path.iterdir())


def test_handlers_of_others_are_respected(tmp_path: Path) -> None:
    def mine(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with ArtefactWriter(tmp_path / "a"):
            assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with ArtefactWriter(tmp_path / "b"):
            assert signal.getsignal(signal.SIGTERM) not in (mine, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_it_works_in_a_thread(tmp_path: Path) -> None:
    worker = threading.Thread(target=write, args=(tmp_path / "slim",))
    worker.start()
    worker.join()
    assert content(tmp_path / "slim") == "0"


def test_a_run_under_way_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    with ArtefactWriter(out) as folder:
        (folder / "plan.json").write_text(plan().to_json())
        check_output(out)
        write(tmp_path / "other")
        assert (folder / "plan.json").exists()
    assert foreign(out) is None


MINE = {"thesis.txt": "irreplaceable", "src/main.py": "code", "onnx/notes": "mine", ".git/config": "mine"}


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("manifest", [True, False])
def test_a_users_file_in_the_folder_stops_the_run(name: str, manifest: bool, tmp_path: Path) -> None:
    out = tmp_path / "slim"
    write(out)
    if not manifest:
        (out / "manifest.json").unlink()
        (out / "report.json").write_text(json.dumps({"plan_digest": plan().digest}))
    assert foreign(out) is None
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text(MINE[name])
    with pytest.raises(ParameterError, match=re.escape(name.partition("/")[0])):
        check_output(out, overwrite=True)
    assert (out / name).read_text() == MINE[name]


def test_a_plan_that_lies_in_a_project_does_not_make_it_ours(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    with pytest.raises(ParameterError, match=r"plan\.json.*no manifest\.json"):
        check_output(tmp_path, overwrite=True)


def test_a_file_of_ours_that_was_changed_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    write(out)
    (out / "onnx" / "model.onnx").write_text("1")
    with pytest.raises(ParameterError, match=r"onnx/model\.onnx': it was changed since"):
        check_output(out, overwrite=True)


def test_what_comes_while_the_run_is_under_way_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    write(out)
    writer = ArtefactWriter(out, overwrite=True, of="export")
    plan(2).save(writer.__enter__() / "plan.json")
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ParameterError, match=r"parameter of export .*thesis\.txt"):
        writer.__exit__(None, None, None)
    assert names(out) == ["manifest.json", "onnx", "plan.json", "thesis.txt"]
    assert names(tmp_path) == ["slim"]


def test_a_link_out_of_the_folder_is_foreign_and_its_target_stays(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    write(out)
    shutil.move(out / "onnx", tmp_path / "elsewhere")
    (out / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ParameterError, match="'onnx': prunekit did not write it"):
        check_output(out, overwrite=True)
    assert names(tmp_path / "elsewhere") == ["model.onnx"]


@pytest.mark.parametrize("inside", ["plan.json", "."])
def test_what_is_read_may_not_lie_in_the_output(inside: str, tmp_path: Path) -> None:
    write(tmp_path / "slim")
    with pytest.raises(ParameterError, match="must be a directory without what is read"):
        check_output(tmp_path / "slim", overwrite=True, inputs=(None, "a/name", str(tmp_path / "slim" / inside)))
    assert content(tmp_path / "slim") == "0"


def test_a_home_a_mount_point_and_the_working_directory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # The empty path is the working directory.
    for place in (tmp_path, Path("/"), Path("/proc"), Path(".."), Path("."), Path("")):
        with pytest.raises(ParameterError, match="no home, no mount point, and not the working directory"):
            check_output(place, overwrite=True)


def test_no_is_no_yes(tmp_path: Path) -> None:
    write(tmp_path / "slim")
    with pytest.raises(ParameterError, match="'overwrite' parameter of compress must be True or False"):
        check_output(tmp_path / "slim", "no")  # type: ignore[arg-type]


def dead() -> int:
    """The number of a process that is no more."""
    return int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    "name",
    [".slim.tmp-mine", ".slim.old-mine", ".slim.tmp-12-0123abcd", ".slim.tmp-0123456789abcdef", ".slim.tmp-0123456789abcdefg"],
)
@pytest.mark.parametrize("marked", [{}, {"token": "another"}, {"host": "elsewhere"}, {"pid": os.getpid()}, {"extra": True}])
def test_siblings_of_others_are_not_touched(name: str, marked: dict[str, object], tmp_path: Path) -> None:
    folder = tmp_path / name
    (folder / "new").mkdir(parents=True)
    if marked:
        with sibling.Sibling(tmp_path / "slim") as made:
            marker = json.loads((made.new.parent / "prunekit.json").read_text())
        ours = {**marker, "token": name[-16:], "pid": dead()} if "pid" not in marked else {**marker, "token": name[-16:]}
        (folder / "prunekit.json").write_text(json.dumps({**ours, **{key: value for key, value in marked.items() if key != "pid"}}))
        if "extra" in marked:
            (folder / "thesis.txt").write_text("mine")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    write(tmp_path / "slim")
    shutil.rmtree(tmp_path / "slim")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.needs("linux")
def test_the_output_is_there_at_every_moment_of_a_replacement(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    write(out, dim=1)
    missing: list[bool] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            missing.append(not (out / "plan.json").exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for dim in (2, 3, 4, 5):
            write(out, dim, overwrite=True)
    finally:
        stop.set()
        watcher.join()
    assert missing
    assert not any(missing)


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)])
def test_modes_follow_the_umask(umask: int, folder: int, file: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with ArtefactWriter(tmp_path / "slim") as place:
            plan().save(place / "plan.json")
            (place / "onnx").mkdir(mode=0o700)
            (place / "onnx" / "model.onnx").touch(mode=0o600)
    finally:
        os.umask(before)
    found = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert found == {
        **dict.fromkeys(("slim", "slim/onnx"), folder),
        **dict.fromkeys(("slim/plan.json", "slim/manifest.json", "slim/onnx/model.onnx"), file),
    }


def test_the_manifest_says_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "slim")
    found = Manifest.load(tmp_path / "slim")
    assert found.plan == plan().digest
    assert {name: file.bytes for name, file in found.files.items()} == {
        "onnx/model.onnx": 1,
        "plan.json": (tmp_path / "slim" / "plan.json").stat().st_size,
    }
    # From the standard: the digest of "0".
    assert found.files["onnx/model.onnx"].sha256 == "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"
