"""A single output file of a command: checked before any work, written completely or not at all, with errors that name it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prunekit.errors import OutputError, ParameterError, PrunekitError
from prunekit.exporters.artefact import FULL
from prunekit.exporters.sibling import Sibling, recover
from prunekit.validation.arguments import Place
from prunekit.validation.scratch import temporary


@dataclass(frozen=True)
class Kind:
    """A kind of file that a command writes.

    Attributes
    ----------
    of : str
        The command, as errors call it.
    name : str
        Name of the kind with its article: "a plan".
    read : callable
        Reads such a file; a PrunekitError for any other.
    """

    of: str
    name: str
    read: Callable[[Path], object]

    @property
    def subject(self) -> str:
        """The name as the subject of a sentence: "The plan"."""
        return f"The {self.name.partition(' ')[2]}"


def check_file(out: Place, overwrite: bool, kind: Kind) -> Path:
    """Return the resolved path of the file; raise ParameterError or OutputError if it cannot be written."""
    path = Path(out).expanduser()
    if path.is_dir():
        raise ParameterError("out", kind.of, "a file", str(path), "It is a directory.")
    if path.exists() and not overwrite:
        raise ParameterError("out", kind.of, "a new file", str(path), "Add --overwrite to replace it.")
    if path.exists():
        try:
            kind.read(path)
        except PrunekitError:
            hint = "prunekit did not write what is there, and does not replace it."
            raise ParameterError("out", kind.of, f"a new file, or {kind.name}", str(path), hint) from None
    if not path.resolve().parent.is_dir():
        raise ParameterError("out", kind.of, "a file in a directory that exists", str(path))
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise OutputError(f"{kind.subject} {str(path)!r} cannot be written: no permission in {str(path.resolve().parent)!r}.")
    recover(path.resolve())
    return path.resolve()


@contextmanager
def beside(path: Path | None) -> Iterator[Path]:
    """Yield a directory to work in, on the disk that the file is written to."""
    if path is None:
        with temporary() as folder:
            yield folder
    else:
        with Sibling(path) as sibling:
            yield sibling.new


@contextmanager
def of_the_disk(out: Place | None, kind: Kind) -> Iterator[None]:
    """Report errors of the directory that the file goes to, which also takes rows that do not fit into memory, as errors of the file."""
    try:
        yield
    except OSError as error:
        place = None if out is None else Path(out).expanduser().resolve()
        cause = error.__cause__ if isinstance(error, PrunekitError) else error
        if not isinstance(cause, OSError):
            raise
        if cause.errno not in FULL and (place is None or f"/.{place.name}.tmp-" not in str(cause.filename or "")):
            raise
        subject = kind.name.capitalize() if out is None else f"{kind.subject} {os.fspath(out)!r}"
        raise OutputError(f"{subject} cannot be written: {cause.strerror or cause}.") from None


def put(scratch: Path, path: Path, overwrite: bool, kind: Kind) -> None:
    """Move the file of this name from `scratch` to its path, if that is still allowed."""
    check_file(path, overwrite, kind)
    os.replace(scratch / path.name, path)
