"""Directories to work in, which say whose they are: those of killed runs are cleared away by the next one.

Each has a name that ends in a token of 16 hexadecimal digits, a marker (token, process, host), a lock, and `new`. One is ours beyond
doubt if its name has this form, the marker has its token, nothing else is there, and the process that made it is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prunekit.errors import OutputError, PrunekitError
from prunekit.validation.reading import ReadError, read_json

#: The file that says whose a directory is.
MARKER = "prunekit.json"
_STEM = "prunekit-"
#: What a system says where a disk, or what a user may have of it, is full.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Scratch:
    """A directory of ours, for as long as something is written.

    Parameters
    ----------
    parent : Path
    stem : str
        What its name begins with.

    Attributes
    ----------
    folder, new : Path
        The directory, and the one in it to write into.
    """

    def __init__(self, parent: Path, stem: str) -> None:
        self._token = secrets.token_hex(8)
        self.folder = parent / f"{stem}{self._token}"
        self.new = self.folder / "new"
        self._lock: int | None = None

    def __enter__(self) -> Scratch:
        try:
            self._lock = self._begin()
            marker = {"token": self._token, **_process(os.getpid()), "host": socket.gethostname()}
            (self.folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
            self.new.mkdir()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> int:
        """Make the directory and lock it; where another run took it for what a killed one left, empty as it was, make it anew."""
        while True:
            self.folder.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                lock = locked(self.folder)
                if lock is not None and os.fstat(lock).st_nlink:
                    return lock
                if lock is not None:
                    os.close(lock)

    def __exit__(self, *_: object) -> None:
        """Remove all of it; a second interrupt only leaves it to the next run."""
        remove(self.folder)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A directory among the system's temporary files, closed to others; what killed runs left there is cleared away.

    Raises
    ------
    OutputError
        It cannot be made, or the disk is full.
    """
    try:
        place = Path(tempfile.gettempdir())
        clear(place, _STEM)
        scratch = Scratch(place, _STEM)
        scratch.__enter__()
        scratch.folder.chmod(0o700)
    except OSError as error:
        raise OutputError(f"No temporary directory can be made: {error.strerror}. Name a place for it in TMPDIR.") from None
    try:
        yield scratch.new
    except OSError as error:
        if isinstance(error, PrunekitError) or error.errno not in FULL:
            raise
        raise no_room(error.strerror) from error
    finally:
        scratch.__exit__()


def no_room(why: str | None) -> OutputError:
    """What is said where temporary files do not fit."""
    return OutputError(f"The temporary files do not fit into {tempfile.gettempdir()!r}: {why}. Name another place for them in TMPDIR.")


def clear(parent: Path, stem: str) -> None:
    """Remove the directories that killed runs left."""
    for folder in left(parent, stem):
        remove(folder)


def left(parent: Path, stem: str) -> Iterator[Path]:
    """Directories that killed runs left, each locked until the next is asked for."""
    form = re.compile(rf"{re.escape(stem)}([0-9a-f]{{16}})")
    for name in sorted(os.listdir(parent)):
        match, folder = form.fullmatch(name), parent / name
        if match is None or not _mine(folder) or not (_begun(folder) or _abandoned(folder, match[1])):
            continue
        lock = None
        with contextlib.suppress(FileNotFoundError):
            lock = locked(folder)
        if lock is None:
            continue
        try:
            yield folder
        finally:
            os.close(lock)


def locked(folder: Path) -> int | None:
    """Lock a directory until the descriptor is closed or the process ends, however it ends; None if another holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return None
        raise
    return descriptor


def remove(folder: Path) -> None:
    """Remove all that a run has in its directory, the marker last: whenever it is killed, what is left says whose it is."""
    for name in ("new", "old"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _mine(folder: Path) -> bool:
    """Whether a directory, and no link to one, is this user's."""
    with contextlib.suppress(OSError):
        return not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.geteuid()
    return False


def _begun(folder: Path) -> bool:
    """Whether nothing is there but what a run begins with, an empty marker; its lock says whether it goes on."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return all(entry.name == MARKER and not entry.stat(follow_symlinks=False).st_size for entry in entries)
    return False


def _abandoned(folder: Path, token: str) -> bool:
    """Whether a run of ours made a directory, and is no more."""
    with contextlib.suppress(OSError, ReadError):
        marker = read_json(folder / MARKER, 4096)
        if not isinstance(marker, dict) or marker.get("token") != token or marker.get("host") != socket.gethostname():
            return False
        if not set(os.listdir(folder)) <= {MARKER, "new", "old"}:
            return False
        pid = marker.get("pid")
        return type(pid) is int and _process(pid) != {"pid": pid, "started": marker.get("started")}
    return False


def _process(pid: int) -> dict[str, int | None]:
    """A process by its number and when it started, in ticks since the system did; None where it is not running."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"pid": pid, "started": None}
    # The name of the program, in brackets, may hold spaces and brackets itself.
    return {"pid": pid, "started": int(text.rpartition(")")[2].split()[19])}
