"""Atomic output directory, which replaces nothing that prunekit did not write.

It is written in a `prunekit.exporters.sibling.Sibling`, gets a manifest and the modes of the umask, and is put in place in one step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from prunekit.errors import ExportError, OutputError, ParameterError, PrunekitError
from prunekit.exporters.manifest import EXPORT, foreign, write_manifest
from prunekit.exporters.sibling import Sibling, recover
from prunekit.validation.reading import place_fault
from prunekit.validation.scratch import FULL

__all__ = ["EXPORT", "FULL", "RECIPE", "ArtefactWriter", "check_apart", "check_output", "resolved"]

RECIPE = "recipe.yaml"
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# safetensors and onnx wrap the system's messages in errors of their own.
_FULL_TEXT = ("No space left on device", "Disk quota exceeded", "File too large")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_output(out: str | Path, overwrite: bool = False, *, of: str = "compress", inputs: Iterable[object] = ()) -> Path:
    """Check that a directory may be written, before any work is done, and remove what a killed run left beside it.

    Parameters
    ----------
    out : path
        New, or empty; with `overwrite` also one in which there is nothing but what prunekit wrote.
    overwrite : bool
    of : str
        Name of the caller, for errors.
    inputs : iterable
        Inputs of the command; those that are paths may not be inside `out`.

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
    if type(overwrite) is not bool:
        raise ParameterError("overwrite", of, "True or False", overwrite)
    path = resolved(out, of=of)
    try:
        here = path.exists() and path.samefile(".")
        if here or path == Path("~").expanduser().resolve() or os.path.ismount(path):
            must = "a directory that can be replaced: no home, no mount point, and not the working directory"
            raise ParameterError("out", of, must, str(out), "Name one below it.")
        recover(path)
        check_apart(path, inputs, of=of)
        _check_content(path, str(out), overwrite, of)
        parent = next(parent for parent in path.parents if parent.exists())
    except OSError as error:
        if isinstance(error, PrunekitError):
            raise
        raise OutputError(f"The output directory {str(out)!r} cannot be written: {error.strerror}.") from None
    if not parent.is_dir():
        raise OutputError(f"The output directory {str(out)!r} cannot be written: {str(parent)!r} is not a directory.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"The output directory {str(out)!r} cannot be written: no permission in {str(parent)!r}.")
    return path


def resolved(out: str | Path, *, of: str) -> Path:
    """Return the path of an output, absolute, symbolic links resolved; raise ParameterError if it cannot exist."""
    fault = place_fault(out)
    if fault is not None:
        raise ParameterError("out", of, "a path that can exist", str(out), f"({fault})")
    if _ADDRESS.match(os.fspath(out)):
        # Such a directory can exist, but is not intended.
        raise ParameterError("out", of, "a directory of this machine", str(out), "It is an address.")
    return Path(out).expanduser().resolve()


def check_apart(out: str | Path, inputs: Iterable[object], *, of: str) -> None:
    """Refuse an output that contains an input: replacing the one would remove the other."""
    path = resolved(out, of=of)
    for value in inputs:
        if not isinstance(value, str | os.PathLike) or not path.is_dir() or place_fault(value) is not None:
            continue
        source = Path(value).expanduser()
        if source.exists() and (source.resolve() == path or path in source.resolve().parents):
            raise ParameterError("out", of, "a directory without what is read", str(out), f"{str(value)!r} is in it.")


def _check_content(path: Path, shown: str, overwrite: bool, of: str) -> None:
    if not path.exists():
        return
    must = "a new or an empty directory"
    if not path.is_dir():
        raise ParameterError("out", of, must, shown, "It is a file.")
    if not any(path.iterdir()):
        return
    entry = foreign(path)
    if entry is not None:
        hint = f"prunekit does not replace what is there: {entry.path!r}: {entry.why}."
        raise ParameterError("out", of, must, shown, hint)
    if not overwrite:
        raise ParameterError("out", of, must, shown, "Add --overwrite (in Python: overwrite=True) to replace what prunekit wrote there.")


class ArtefactWriter:
    """Context manager for the directory to write into, which is put in place when the block ends without an error.

    On any error, an interrupt, SIGTERM and SIGHUP included, nothing is left, and a directory that was to be replaced is unchanged.

    Parameters
    ----------
    out : path
    overwrite : bool
    of : str
        As in `check_output`.

    Attributes
    ----------
    data : str or None
        Fingerprint of the data, for the manifest; set within the block.

    Raises
    ------
    ParameterError, OutputError
        As in `check_output`; OutputError also for a disk that is full.

    Examples
    --------
    >>> with ArtefactWriter("slim") as folder:  # doctest: +SKIP
    ...     plan.save(folder / "plan.json")
    """

    def __init__(self, out: str | Path, overwrite: bool = False, *, of: str = "compress") -> None:
        self._shown = str(out)
        self._overwrite, self._of = overwrite, of
        self._out = check_output(out, overwrite, of=of)
        self._sibling = Sibling(self._out)
        self._new_parents: list[Path] = []
        self.data: str | None = None

    def __enter__(self) -> Path:
        try:
            self._new_parents = [parent for parent in self._out.parents if not parent.exists()]
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._sibling.__enter__()
        except BaseException as error:
            self._drop_parents()
            if isinstance(error, OSError) and not isinstance(error, PrunekitError):
                raise self._failed(error) from error
            raise
        return self._sibling.new

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._commit()
            elif isinstance(error, Exception):
                output_error = self._output_error(error)
                if output_error is not None:
                    raise output_error from error
        finally:
            self._sibling.__exit__()
            self._drop_parents()

    def _commit(self) -> None:
        try:
            write_manifest(self._sibling.new, self.data)
            self._sibling.settle_modes()
            # Something may have been put there since.
            _check_content(self._out, self._shown, self._overwrite, self._of)
            self._sibling.take_place()
        except PrunekitError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def _drop_parents(self) -> None:
        if not self._out.exists():
            for parent in self._new_parents:
                with contextlib.suppress(OSError):
                    parent.rmdir()

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"The output directory {self._shown!r} cannot be written: {error.strerror or error}.")

    def _output_error(self, error: Exception) -> OutputError | None:
        """Return an error that names the output, if `error` is about writing it, instead of the temporary directory; else None."""
        if isinstance(error, PrunekitError) and not isinstance(error, (OutputError, ExportError)):
            return None
        cause = error.__cause__ if isinstance(error, PrunekitError) else error
        if isinstance(cause, OSError):
            inside = cause.filename is not None and str(cause.filename).startswith(str(self._sibling.new))
            if cause.errno in FULL or (inside and cause.errno in _DENIED):
                return self._failed(cause)
        for text in _FULL_TEXT:
            if text in str(error):
                return OutputError(f"The output directory {self._shown!r} cannot be written: {text}.")
        return None
