"""Files that a command writes beside its main output; ``-`` is the standard output, which then holds nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from prunekit.errors import OutputError, ParameterError
from prunekit.exporters.sibling import Sibling, recover
from prunekit.validation.reading import place_fault

STDOUT = Path("-")
#: First bytes, without white space, of the files that prunekit writes for each option.
BEGINS = {
    "json": (b'{"verdict":', b'{"version":'),
    "csv": (b"name,backend,device,threads,",),
    "markdown": (b"##prunekitbench",),
    "github": (b'[{"name":',),
    "pytest_benchmark": (b'{"machine_info":{"node":"",',),
}


@contextlib.contextmanager
def standard_output(paths: Collection[Path | None]) -> Iterator[TextIO]:
    """Yield the standard output; where one of the files goes there, everything printed inside goes to the standard error."""
    stdout = sys.stdout
    if STDOUT in paths and isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(encoding="utf-8")  # as in a file
    with contextlib.redirect_stdout(sys.stderr) if STDOUT in paths else contextlib.nullcontext():
        yield stdout


def check_file(name: str, of: str, path: Path | None, inputs: Iterable[object] = (), *, overwrite: bool = False) -> None:
    """Refuse a path that cannot be written, or whose contents may not be replaced, before any work.

    A non-empty file is replaced with `overwrite` alone, and only if prunekit wrote it for the same option.

    Raises
    ------
    ParameterError
    """
    if path is None or path == STDOUT:
        return
    fault = place_fault(path)
    if fault is not None:
        raise ParameterError(name, of, "a path that can exist", str(path), f"({fault})")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ParameterError(name, of, "a regular file, or '-' for the standard output", str(path))
    if path.exists() and any(_holds(source, path) for source in inputs):
        raise ParameterError(name, of, "another file than one that is read", str(path))
    must = "a file in a directory that exists and can be written"
    if not writable(path) or not os.access(path.resolve().parent, os.W_OK):
        raise ParameterError(name, of, must, str(path))
    _check_replaceable(name, of, path, overwrite)
    try:
        recover(path)
        # Permission bits are not sufficient: the system may refuse for other reasons.
        with Sibling(path):
            pass
    except OSError as error:
        raise ParameterError(name, of, must, str(path), f"({error.strerror or error})") from None


def _check_replaceable(name: str, of: str, path: Path, overwrite: bool) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    if not overwrite:
        raise ParameterError(name, of, "a new file", str(path), "Add --overwrite to replace it.")
    with path.open("rb") as file:
        begin = b"".join(file.read(200).split())
    if not begin.startswith(BEGINS[name]):
        raise ParameterError(name, of, "a new file", str(path), "prunekit did not write what is there, and does not replace it.")


def _holds(source: object, path: Path) -> bool:
    """Return whether an input is the file at `path`, or a directory that contains it."""
    if not isinstance(source, str | os.PathLike) or not os.fspath(source) or place_fault(source) is not None:
        return False
    place = Path(source).expanduser()
    return place.exists() and path.resolve().is_relative_to(place.resolve())


def writable(path: Path) -> bool:
    """Return whether a file may be written at `path`, new or over another."""
    parent = path.resolve().parent
    kind = path.is_dir() or path.is_fifo() or path.is_socket()
    return not kind and parent.is_dir() and os.access(path if path.exists() else parent, os.W_OK)


def write_file(path: Path, text: str, stdout: TextIO) -> None:
    """Write a file completely, or not at all.

    Raises
    ------
    OutputError
    """
    if path == STDOUT:
        stdout.write(text)
        return
    try:
        recover(path)
        with Sibling(path) as sibling:
            (sibling.new / path.name).write_text(text, encoding="utf-8")
            (sibling.new / path.name).replace(path)
    except OSError as error:
        raise OutputError(f"The file {str(path)!r} cannot be written: {error.strerror or error}.") from None
