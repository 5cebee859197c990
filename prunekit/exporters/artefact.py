"""The output directory appears whole or not at all.

It is written as a hidden sibling, `.{name}.tmp-{token}`, which the writer keeps locked, and renamed at the end. A directory
that is replaced becomes `.{name}.old-{token}` for the moment between the two renames. What a killed run leaves behind is
no longer locked: the next run on the same output removes it, or puts the old directory back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from prunekit.errors import ExportError, OutputError, ParameterError, PrunekitError

EXPORT = "export.json"
RECIPE = "recipe.yaml"
#: Files by which a directory of ours is known, with some of their fields.
_MARKS = {
    "plan.json": {"version", "source", "digest"},
    EXPORT: {"version", "head", "parity"},
    "analysis.json": {"version", "model", "analyzers"},
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# safetensors and onnx wrap what the system said in errors of their own.
_FULL_TEXT = ("No space left on device", "Disk quota exceeded", "File too large")


def check_output(out: str | Path, overwrite: bool = False, *, of: str = "compress") -> Path:
    """Check that a directory may be written, before any work is done; what a killed run left beside it is cleared away.

    Parameters
    ----------
    out : path
        New, or empty; with `overwrite` also one that prunekit wrote.
    overwrite : bool
    of : str
        Who asks, for errors.

    Returns
    -------
    Path
        Absolute, symbolic links resolved.

    Raises
    ------
    ParameterError
        If there is something else, or `overwrite` is not given.
    OutputError
        If its parent cannot be written.
    """
    path = Path(out).expanduser().resolve()
    try:
        _recover(path)
        _check_content(path, str(out), overwrite, of)
        parent = next(parent for parent in path.parents if parent.exists())
    except OSError as error:
        raise OutputError(f"The output directory {str(out)!r} cannot be written: {error.strerror}.") from None
    if not parent.is_dir():
        raise OutputError(f"The output directory {str(out)!r} cannot be written: {str(parent)!r} is not a directory.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"The output directory {str(out)!r} cannot be written: no permission in {str(parent)!r}.")
    return path


def _check_content(path: Path, shown: str, overwrite: bool, of: str) -> None:
    if not path.exists():
        return
    must = "a new or an empty directory"
    if not path.is_dir():
        raise ParameterError("out", of, must, shown, "It is a file.")
    if not any(path.iterdir()):
        return
    if not is_artefact(path):
        raise ParameterError("out", of, must, shown, "prunekit did not write what is there, and does not replace it.")
    if not overwrite:
        raise ParameterError("out", of, must, shown, "Add --overwrite (in Python: overwrite=True) to replace what prunekit wrote there.")


def is_artefact(path: Path) -> bool:
    """Whether prunekit wrote a directory: it holds a plan, the report of an export, or an analysis."""
    return any(_holds(path / name, fields) for name, fields in _MARKS.items())


def _holds(path: Path, fields: set[str]) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and fields <= found.keys()


class ArtefactWriter:
    """Context manager that gives the directory to write into; it takes its name when the block ends without an error.

    On any error, an interrupt and SIGTERM included, nothing is left, and a directory that was to be replaced is as before.

    Parameters
    ----------
    out : path
    overwrite : bool
        As in `check_output`.

    Raises
    ------
    ParameterError, OutputError
        As in `check_output`; OutputError also for a disk that is full.

    Examples
    --------
    >>> with ArtefactWriter("slim") as folder:  # doctest: +SKIP
    ...     plan.save(folder / "plan.json")
    """

    def __init__(self, out: str | Path, overwrite: bool = False) -> None:
        self._shown = str(out)
        self._out = check_output(out, overwrite)
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._folder = _sibling(self._out, "tmp", token)
        self._old = _sibling(self._out, "old", token)
        self._locks: list[int] = []
        self._made: list[Path] = []
        self._handler: Any = None

    def __enter__(self) -> Path:
        self._catch_terminate()
        try:
            missing = [parent for parent in self._out.parents if not parent.exists()]
            self._made = missing
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir()
            self._lock(self._folder)
        except BaseException as error:
            self._drop()
            self._give_back()
            if isinstance(error, OSError) and not isinstance(error, PrunekitError):
                raise self._failed(error) from error
            raise
        return self._folder

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._commit()
            elif isinstance(error, Exception):
                said = self._of_the_disk(error)
                if said is not None:
                    raise said from error
        finally:
            self._drop()
            self._give_back()

    def _commit(self) -> None:
        try:
            self._swap()
        except PrunekitError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def _swap(self) -> None:
        if not self._out.exists():
            self._folder.rename(self._out)
            return
        self._lock(self._out)
        self._out.rename(self._old)
        try:
            self._folder.rename(self._out)
        except BaseException:
            self._old.rename(self._out)
            raise
        shutil.rmtree(self._old, ignore_errors=True)

    def _drop(self) -> None:
        """Remove what is not finished; a second interrupt only leaves it to the next run."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()
        if not self._out.exists():
            for parent in self._made:
                with contextlib.suppress(OSError):
                    parent.rmdir()

    def _lock(self, folder: Path) -> None:
        lock = _locked(folder)
        if lock is None:
            raise OutputError(f"The output directory {self._shown!r} is being written by another run.")
        self._locks.append(lock)

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"The output directory {self._shown!r} cannot be written: {error.strerror or error}.")

    def _of_the_disk(self, error: Exception) -> OutputError | None:
        """What an error says of the output, if it is about that; the folder it was met in has a name that nobody knows."""
        if isinstance(error, PrunekitError) and not isinstance(error, (OutputError, ExportError)):
            return None
        cause = error.__cause__ if isinstance(error, PrunekitError) else error
        if isinstance(cause, OSError):
            ours = cause.filename is not None and str(cause.filename).startswith(str(self._folder))
            if cause.errno in FULL or (ours and cause.errno in _DENIED):
                return self._failed(cause)
        for text in _FULL_TEXT:
            if text in str(error):
                return OutputError(f"The output directory {self._shown!r} cannot be written: {text}.")
        return None

    def _catch_terminate(self) -> None:
        """By default SIGTERM ends the process at once; whoever has another handler decides for himself."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._handler = signal.signal(signal.SIGTERM, _exit)

    def _give_back(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            self._handler = None


def _exit(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def _sibling(out: Path, kind: str, token: str) -> Path:
    return out.with_name(f".{out.name}.{kind}-{token}")


def _locked(folder: Path) -> int | None:
    """Lock a directory until the descriptor is closed or the process ends, however it ends; None if another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return None
        raise
    return descriptor


def _recover(out: Path) -> None:
    """Clear away what killed runs left: an unfinished directory goes, a replaced one whose place is empty returns."""
    if not out.parent.is_dir():
        return
    for kind in ("old", "tmp"):
        for sibling in sorted(out.parent.glob(f".{glob.escape(out.name)}.{kind}-*")):
            lock = _locked(sibling)
            if lock is None:
                continue
            try:
                if kind == "old" and not out.exists():
                    sibling.rename(out)
                else:
                    shutil.rmtree(sibling, ignore_errors=True)
            finally:
                os.close(lock)
