"""Where something is written before it takes its place: one hidden directory beside it, which says whose it is.

`.NAME.tmp-<16 hexadecimal digits>` holds a marker (token, process, host) and `new`. What is complete is exchanged with what is there
in one step, where the system has renameat2; elsewhere by two renames through `old` in the same directory. What a killed run leaves
is cleared away by the next run on the same output, if it is ours beyond doubt: the name has this form, the marker has its token, nothing
else is there, and the process that made it is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from prunekit.validation.reading import ReadError, read_json

_MARKER = "prunekit.json"
_AT_FDCWD, _EXCHANGE = -100, 2
_NOT_THERE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_ENDS = (signal.SIGTERM, signal.SIGHUP)


class Sibling:
    """A directory beside an output, for as long as something is written.

    Attributes
    ----------
    new : Path
        The directory to write into.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._token = secrets.token_hex(8)
        self._folder = out.with_name(f".{out.name}.tmp-{self._token}")
        self.new = self._folder / "new"
        self._lock: int | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Sibling:
        self._catch()
        try:
            self._lock = self._begin()
            marker = {"token": self._token, **_process(os.getpid()), "host": socket.gethostname()}
            (self._folder / _MARKER).write_text(json.dumps(marker), encoding="utf-8")
            self.new.mkdir()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> int:
        """Make the directory and lock it; where another run took it for what a killed one left, empty as it was, make it anew."""
        while True:
            self._folder.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                lock = locked(self._folder)
                if lock is not None and os.fstat(lock).st_nlink:
                    return lock
                if lock is not None:
                    os.close(lock)

    def __exit__(self, *_: object) -> None:
        """Remove what is not finished; a second interrupt only leaves it to the next run."""
        _remove(self._folder)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def settle_modes(self) -> None:
        """Give all that was written the modes that the umask asks for, whatever the libraries that wrote it chose."""
        # What was just made shows the umask, which can be asked for only by changing it.
        folder, file = (stat.S_IMODE(path.stat().st_mode) for path in (self._folder, self._folder / _MARKER))
        for parent, _, names in os.walk(self.new):
            os.chmod(parent, folder)
            for name in names:
                os.chmod(os.path.join(parent, name), file)

    def take_place(self) -> None:
        """Put `new` where the output is or is to be."""
        if not self._out.exists():
            self.new.rename(self._out)
        elif not exchange(self.new, self._out):
            old = self._folder / "old"
            self._out.rename(old)
            try:
                self.new.rename(self._out)
            except BaseException:
                old.rename(self._out)
                raise

    def _catch(self) -> None:
        """By default SIGTERM and SIGHUP end the process at once; whoever has another handler decides for himself."""
        if threading.current_thread() is threading.main_thread():
            for number in _ENDS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, _exit)


def _exit(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two entries of one file system in one step; False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_THERE:
        return False
    raise OSError(number, os.strerror(number), str(other))


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


def recover(out: Path) -> None:
    """Clear away what killed runs left beside an output: what is unfinished goes, a replaced one whose place is empty returns."""
    if not out.parent.is_dir():
        return
    form = re.compile(rf"\.{re.escape(out.name)}\.tmp-([0-9a-f]{{16}})")
    for name in sorted(os.listdir(out.parent)):
        match = form.fullmatch(name)
        folder = out.with_name(name)
        if match is None or folder.is_symlink() or not folder.is_dir() or not (_begun(folder) or _abandoned(folder, match[1])):
            continue
        lock = None
        with contextlib.suppress(FileNotFoundError):
            lock = locked(folder)
        if lock is None:
            continue
        try:
            if (folder / "old").exists() and not out.exists():
                (folder / "old").rename(out)
            _remove(folder)
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    """Remove all that a run has in its directory, the marker last: whenever it is killed, what is left says whose it is."""
    for name in ("new", "old"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _begun(folder: Path) -> bool:
    """Whether nothing is there but what a run begins with, an empty marker; its lock says whether it goes on."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return all(entry.name == _MARKER and not entry.stat(follow_symlinks=False).st_size for entry in entries)
    return False


def _abandoned(folder: Path, token: str) -> bool:
    """Whether a run of ours made a directory, and is no more."""
    with contextlib.suppress(OSError, ReadError):
        marker = read_json(folder / _MARKER, 4096)
        if not isinstance(marker, dict) or marker.get("token") != token or marker.get("host") != socket.gethostname():
            return False
        if not set(os.listdir(folder)) <= {_MARKER, "new", "old"}:
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
