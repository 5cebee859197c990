"""Temporary working directories that record their owner; those of killed runs are removed by the next run.

Each has a name that ends in a token of 16 hexadecimal digits, a marker (token, process, host), a lock, and `new`. One is certainly an
abandoned directory of ours if its name has this form, the marker has its token, nothing else is in it, and its process has ended.
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

#: File that records the owner of a directory.
MARKER = "prunekit.json"
_STEM = "prunekit-"
#: Error numbers for a full disk, an exceeded quota and an exceeded file size.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Scratch:
    """Working directory that exists while something is written.

    Parameters
    ----------
    parent : Path
    stem : str
        Prefix of its name.

    Attributes
    ----------
    folder, new : Path
        The directory, and its subdirectory to write into.
    """

    def __init__(self, parent: Path, stem: str) -> None:
        self._token = secrets.token_hex(8)
        self.folder = parent / f"{stem}{self._token}"
        self.new = self.folder / "new"
        self._lock: int | None = None

    def __enter__(self) -> Scratch:
        try:
            self._lock = self._create()
            marker = {"token": self._token, **_process(os.getpid()), "host": socket.gethostname()}
            (self.folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
            self.new.mkdir()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _create(self) -> int:
        """Create and lock the directory; create it again if another run removed it, still empty, as that of a killed run."""
        while True:
            self.folder.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                lock = locked(self.folder)
                if lock is not None and os.fstat(lock).st_nlink:
                    return lock
                if lock is not None:
                    os.close(lock)

    def __exit__(self, *_: object) -> None:
        """Remove the directory; after a second interrupt the next run removes it."""
        remove(self.folder)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """Yield a private directory among the system's temporary files; remove the directories that killed runs left there.

    Raises
    ------
    OutputError
        It cannot be made, or the disk is full.
    """
    try:
        parent = Path(tempfile.gettempdir())
        clear(parent, _STEM)
        scratch = Scratch(parent, _STEM)
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
    """Return the error for temporary files that do not fit."""
    return OutputError(f"The temporary files do not fit into {tempfile.gettempdir()!r}: {why}. Name another place for them in TMPDIR.")


def clear(parent: Path, stem: str) -> None:
    """Remove the directories that killed runs left."""
    for folder in left(parent, stem):
        remove(folder)


def left(parent: Path, stem: str) -> Iterator[Path]:
    """Yield the directories that killed runs left, each locked until the next is requested."""
    form = re.compile(rf"{re.escape(stem)}([0-9a-f]{{16}})")
    for name in sorted(os.listdir(parent)):
        match, folder = form.fullmatch(name), parent / name
        if match is None or not _is_own(folder) or not (_begun(folder) or _abandoned(folder, match[1])):
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
    """Remove the directory of a run, its marker last, so that an interrupted removal leaves its owner recorded."""
    for name in ("new", "old"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    """Return whether a path is a directory of this user, and not a link to one."""
    with contextlib.suppress(OSError):
        return not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.geteuid()
    return False


def _begun(folder: Path) -> bool:
    """Return whether there is at most an empty marker, as at the start of a run; its lock shows whether the run goes on."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return all(entry.name == MARKER and not entry.stat(follow_symlinks=False).st_size for entry in entries)
    return False


def _abandoned(folder: Path, token: str) -> bool:
    """Return whether a run of prunekit on this host made a directory, and has ended."""
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
    """Return the number and the start time of a process, in clock ticks since boot; None where it is not running."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"pid": pid, "started": None}
    # The name of the program, in brackets, may hold spaces and brackets itself.
    return {"pid": pid, "started": int(text.rpartition(")")[2].split()[19])}
