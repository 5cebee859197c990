"""The output directory appears whole or not at all, and takes nothing away that prunekit did not write.

It is written in a `prunekit.exporters.sibling.Sibling`, gets a manifest and the modes of the umask, and takes its place in one step.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from prunekit.errors import ExportError, OutputError, ParameterError, PrunekitError
from prunekit.exporters.manifest import EXPORT, foreign, write_manifest
from prunekit.exporters.sibling import Sibling, recover
from prunekit.scratch import FULL
from prunekit.validation.reading import place_fault

__all__ = ["EXPORT", "FULL", "RECIPE", "ArtefactWriter", "check_apart", "check_output", "resolved"]

RECIPE = "recipe.yaml"
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# safetensors and onnx wrap what the system said in errors of their own.
_FULL_TEXT = ("No space left on device", "Disk quota exceeded", "File too large")


def check_output(out: str | Path, overwrite: bool = False, *, of: str = "compress", inputs: Iterable[object] = ()) -> Path:
    """Check that a directory may be written, before any work is done; what a killed run left beside it is cleared away.

    Parameters
    ----------
    out : path
        New, or empty; with `overwrite` also one in which there is nothing but what prunekit wrote.
    overwrite : bool
    of : str
        Who asks, for errors.
    inputs : iterable
        What is read; those that are paths may not be inside `out`.

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
    """Where an output goes, absolute, symbolic links resolved; raises ParameterError where nothing can be."""
    fault = place_fault(out)
    if fault is not None:
        raise ParameterError("out", of, "a path that can exist", str(out), f"({fault})")
    return Path(out).expanduser().resolve()


def check_apart(out: str | Path, inputs: Iterable[object], *, of: str) -> None:
    """Refuse an output in which something lies that is read: replacing the one would remove the other."""
    path = resolved(out, of=of)
    for given in inputs:
        if not isinstance(given, str | os.PathLike) or not path.is_dir() or place_fault(given) is not None:
            continue
        place = Path(given).expanduser()
        if place.exists() and (place.resolve() == path or path in place.resolve().parents):
            raise ParameterError("out", of, "a directory without what is read", str(out), f"{str(given)!r} is in it.")


def _check_content(path: Path, shown: str, overwrite: bool, of: str) -> None:
    if not path.exists():
        return
    must = "a new or an empty directory"
    if not path.is_dir():
        raise ParameterError("out", of, must, shown, "It is a file.")
    if not any(path.iterdir()):
        return
    found = foreign(path)
    if found is not None:
        hint = f"prunekit does not replace what is there: {found.path!r}: {found.why}."
        raise ParameterError("out", of, must, shown, hint)
    if not overwrite:
        raise ParameterError("out", of, must, shown, "Add --overwrite (in Python: overwrite=True) to replace what prunekit wrote there.")


class ArtefactWriter:
    """Context manager that gives the directory to write into; it takes its name when the block ends without an error.

    On any error, an interrupt, SIGTERM and SIGHUP included, nothing is left, and a directory that was to be replaced is as before.

    Parameters
    ----------
    out : path
    overwrite : bool
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

    def __init__(self, out: str | Path, overwrite: bool = False) -> None:
        self._shown = str(out)
        self._overwrite = overwrite
        self._out = check_output(out, overwrite)
        self._sibling = Sibling(self._out)
        self._made: list[Path] = []
        self.data: str | None = None

    def __enter__(self) -> Path:
        try:
            self._made = [parent for parent in self._out.parents if not parent.exists()]
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
                said = self._of_the_disk(error)
                if said is not None:
                    raise said from error
        finally:
            self._sibling.__exit__()
            self._drop_parents()

    def _commit(self) -> None:
        try:
            write_manifest(self._sibling.new, self.data)
            self._sibling.settle_modes()
            # Somebody may have put something there since.
            _check_content(self._out, self._shown, self._overwrite, "compress")
            self._sibling.take_place()
        except PrunekitError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def _drop_parents(self) -> None:
        if not self._out.exists():
            for parent in self._made:
                with contextlib.suppress(OSError):
                    parent.rmdir()

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"The output directory {self._shown!r} cannot be written: {error.strerror or error}.")

    def _of_the_disk(self, error: Exception) -> OutputError | None:
        """What an error says of the output, if it is about that; the folder it was met in has a name that nobody knows."""
        if isinstance(error, PrunekitError) and not isinstance(error, (OutputError, ExportError)):
            return None
        cause = error.__cause__ if isinstance(error, PrunekitError) else error
        if isinstance(cause, OSError):
            ours = cause.filename is not None and str(cause.filename).startswith(str(self._sibling.new))
            if cause.errno in FULL or (ours and cause.errno in _DENIED):
                return self._failed(cause)
        for text in _FULL_TEXT:
            if text in str(error):
                return OutputError(f"The output directory {self._shown!r} cannot be written: {text}.")
        return None
