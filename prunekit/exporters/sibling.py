"""Where something is written before it takes its place: one hidden directory beside it, which says whose it is.

`.NAME.tmp-<16 hexadecimal digits>` is a `prunekit.scratch.Scratch`. What is complete is exchanged with what is there in one step, where
the system has renameat2; elsewhere by two renames through `old` in the same directory. What a killed run leaves is cleared away by the
next run on the same output.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from prunekit.scratch import MARKER, Scratch, left, remove

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
        self._scratch = Scratch(out.parent, _stem(out))
        self._folder, self.new = self._scratch.folder, self._scratch.new
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Sibling:
        self._catch()
        try:
            self._scratch.__enter__()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is not finished; a second interrupt only leaves it to the next run."""
        self._scratch.__exit__()
        self._give_back()

    def settle_modes(self) -> None:
        """Give all that was written the modes that the umask asks for, whatever the libraries that wrote it chose."""
        # What was just made shows the umask, which can be asked for only by changing it.
        folder, file = (stat.S_IMODE(path.stat().st_mode) for path in (self._folder, self._folder / MARKER))
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

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


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


def recover(out: Path) -> None:
    """Clear away what killed runs left beside an output: what is unfinished goes, a replaced one whose place is empty returns."""
    if not out.parent.is_dir():
        return
    for folder in left(out.parent, _stem(out)):
        if (folder / "old").exists() and not out.exists():
            (folder / "old").rename(out)
        remove(folder)


def _stem(out: Path) -> str:
    return f".{out.name}.tmp-"
