"""Directories of ours among the temporary files: closed to others, gone afterwards, and cleared where a run was killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from prunekit.errors import OutputError
from prunekit.validation import scratch
from prunekit.validation.scratch import temporary

_KILLED = """
import os, signal
from prunekit.validation.scratch import temporary
with temporary() as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_closed_to_others_and_gone_afterwards(place: Path) -> None:
    with temporary() as folder:
        (folder / "a").mkdir()
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        assert folder.is_relative_to(place)
    assert not list(place.iterdir())
    with pytest.raises(ZeroDivisionError), temporary():
        raise ZeroDivisionError
    assert not list(place.iterdir())


def test_what_a_killed_run_left_is_cleared_by_the_next(place: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(Path(scratch.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", _KILLED], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = place.iterdir()
    assert (left / "new" / "half").is_file()
    with temporary() as one, temporary() as other:  # each of which goes on
        assert one.is_dir()
        assert other.is_dir()
        assert not left.exists()


@pytest.mark.parametrize("other", ["name", "token", "host", "more", "runs", "user", "link"])
def test_what_is_not_ours_beyond_doubt_stays(other: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = place / ("prunekit-mine" if other == "name" else f"prunekit-{'0' * 16}")
    (mine / "new").mkdir(parents=True)
    marker = {"token": "0" * 16, "pid": 2**30, "started": 1, "host": scratch.socket.gethostname()}
    changes = {"token": {"token": "1" * 16}, "host": {"host": "elsewhere"}, "runs": scratch._process(os.getpid())}
    (mine / "prunekit.json").write_text(json.dumps({**marker, **changes.get(other, {})}))
    if other == "more":
        (mine / "thesis.txt").write_text("mine")
    if other == "user":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    if other == "link":
        mine.rename(place / "elsewhere")
        mine.symlink_to("elsewhere")
    before = sorted(place.rglob("*"))
    with temporary():
        pass
    assert sorted(place.rglob("*")) == before


def test_ours_is_cleared(place: Path) -> None:
    mine = place / f"prunekit-{'0' * 16}"
    (mine / "new").mkdir(parents=True)
    marker = {"token": "0" * 16, "pid": 2**30, "started": 1, "host": scratch.socket.gethostname()}
    (mine / "prunekit.json").write_text(json.dumps(marker))
    with temporary():
        assert not mine.exists()


def test_where_there_is_no_room_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "nowhere"))
    with (
        pytest.raises(OutputError, match="No temporary directory can be made: No such file"),
        temporary(),
    ):
        pass


def test_a_full_disk_is_one_line_and_leaves_nothing(place: Path) -> None:
    with pytest.raises(OutputError, match=r"do not fit into .*: File too large\. Name another place for them in TMPDIR"), temporary():
        raise OSError(errno.EFBIG, "File too large")
    with pytest.raises(OSError, match="evil"), temporary():
        raise OSError(errno.EPERM, "evil")
    assert not list(place.iterdir())
