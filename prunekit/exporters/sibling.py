"""Hidden directory beside an output, in which the output is written before it is put in place.

`.NAME.tmp-<16 hexadecimal digits>` is a `prunekit.validation.scratch.Scratch`. A complete output is exchanged with the existing one
in one step, where the system has renameat2; elsewhere by two renames through `old` in the same directory. The next run on the same
output removes what a killed run left.
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

from prunekit.validation.scratch import MARKER, Scratch, left, remove

_AT_FDCWD, _EXCHANGE = -100, 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Sibling:
    """Context manager for a directory beside an output, in which the output is written.

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
        self._install_handlers()
        try:
            self._scratch.__enter__()
        except BaseException:
            self._restore_handlers()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is not finished; after a second interrupt, the next run removes it."""
        self._scratch.__exit__()
        self._restore_handlers()

    def settle_modes(self) -> None:
        """Set the modes of the umask on all that was written, whatever modes the libraries chose."""
        # Files just created show the umask, which can otherwise be read only by changing it.
        folder, file = (stat.S_IMODE(path.stat().st_mode) for path in (self._folder, self._folder / MARKER))
        for parent, _, names in os.walk(self.new):
            os.chmod(parent, folder)
            for name in names:
                os.chmod(os.path.join(parent, name), file)

    def take_place(self) -> None:
        """Put `new` in the place of the output."""
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

    def _install_handlers(self) -> None:
        """Handle SIGTERM and SIGHUP, which end the process at once by default; other handlers are left in place."""
        if threading.current_thread() is threading.main_thread():
            for number in _END_SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, _exit)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def _exit(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two entries of one file system in one step; return False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


def recover(out: Path) -> None:
    """Remove what killed runs left beside an output; restore a replaced output whose place is empty."""
    if not out.parent.is_dir():
        return
    for folder in left(out.parent, _stem(out)):
        if (folder / "old").exists() and not out.exists():
            (folder / "old").rename(out)
        remove(folder)


def _stem(out: Path) -> str:
    return f".{out.name}.tmp-"
