"""Files that a command writes beside what it makes; ``-`` is the standard output, which then holds nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from prunekit.errors import OutputError, ParameterError
from prunekit.validation.reading import place_fault

STDOUT = Path("-")


@contextlib.contextmanager
def standard_output(paths: Iterable[Path | None]) -> Iterator[TextIO]:
    """The standard output; where one of the files goes there, all that is printed inside goes to the standard error."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if STDOUT in paths else contextlib.nullcontext():
        yield stdout


def check_file(name: str, of: str, path: Path | None, inputs: Iterable[str] = ()) -> None:
    """Refuse a place that cannot be written, or that is an input, before any work.

    Raises
    ------
    ParameterError
    """
    if path is None or path == STDOUT:
        return
    fault = place_fault(path)
    if fault is not None:
        raise ParameterError(name, of, "a path that can exist", str(path), f"({fault})")
    if path.exists() and any(Path(given).resolve() == path.resolve() for given in inputs if given.endswith(path.name)):
        raise ParameterError(name, of, "another file than a model", str(path))
    if not writable(path) or not os.access(path.resolve().parent, os.W_OK):
        raise ParameterError(name, of, "a file in a directory that exists and can be written", str(path))


def writable(path: Path) -> bool:
    """Whether a file may be written there, new or over another."""
    parent = path.resolve().parent
    return not path.is_dir() and parent.is_dir() and os.access(path if path.exists() else parent, os.W_OK)


def write_file(path: Path, text: str, stdout: TextIO) -> None:
    """Write a file as a whole, or nothing.

    Raises
    ------
    OutputError
    """
    if path == STDOUT:
        stdout.write(text)
        return
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"The file {str(path)!r} cannot be written: {error.strerror or error}.") from None
