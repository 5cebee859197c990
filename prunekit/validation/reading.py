"""Checked reading of external files: regular files of bounded size, JSON of bounded depth, paths that can exist.

Each function raises `ReadError` with a short reason; the caller adds what the file is for.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from prunekit.validation.limits import DEPTH

_CHUNK = 2**20
# A string as a whole, so that brackets inside it do not count.
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)
# The escape of a surrogate, half of a pair that UTF-16 has for one character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PLACE_FAULTS = {
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.EACCES: "a directory on the way is closed to this user",
}


class ReadError(ValueError):
    """The reason why something cannot be read, in a few words."""


def place_fault(path: str | os.PathLike[str]) -> str | None:
    """Return why nothing can be at a path, whatever is there now; None where something can.

    Called before a path is used, since pathlib raises a different error for each of these.
    """
    text = os.fspath(path)
    if not text:
        return "it is empty"
    try:
        place = Path(text).expanduser()
        if not place.is_absolute():
            os.getcwd()
    except RuntimeError:
        return "it names the home directory of a user who does not exist"
    except OSError:
        return "the working directory no longer exists"
    try:
        os.stat(place)
    except OSError as error:
        return _PLACE_FAULTS.get(error.errno or 0)
    except ValueError:
        return "it holds a character that no path can hold"
    return None


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a regular file of at most `most` bytes; never waits for a pipe, never reads a device."""
    fault = place_fault(path)
    if fault is not None:
        raise ReadError(fault)
    try:
        # Without O_NONBLOCK, opening a pipe for reading waits for a writer.
        descriptor = os.open(Path(path).expanduser(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ReadError("it is not a regular file")
            parts, size = [], 0
            while part := file.read(min(_CHUNK, most + 1 - size)):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise ReadError(f"it has more than {most:,} bytes")
    except OSError as error:
        raise ReadError(error.strerror or str(error)) from None
    return b"".join(parts)


def check_regular(path: str | os.PathLike[str], most: int | None = None) -> None:
    """Refuse a path that is not a regular file, or has more than `most` bytes, before a library opens it."""
    fault = place_fault(path)
    if fault is not None:
        raise ReadError(fault)
    try:
        status = Path(path).expanduser().stat()
    except OSError as error:
        raise ReadError(error.strerror or str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise ReadError("it is not a regular file")
    if most is not None and status.st_size > most:
        raise ReadError(f"it has more than {most:,} bytes")


def read_text(path: str | os.PathLike[str], most: int) -> str:
    """Read a file as UTF-8, with or without a byte order mark; see `read_bytes`."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ReadError("it is not UTF-8 text") from None


def parse_json(text: str, *, unique: bool = False) -> Any:
    """Parse JSON whose brackets nest at most `DEPTH` deep and whose numbers are finite; with `unique` no key may occur twice."""
    _check_depth(text)
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=finite, object_pairs_hook=_unique_keys if unique else None)
        if not text.isascii() or _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise ReadError(f"it is not JSON: {error}") from None
    except ReadError:
        raise
    except UnicodeEncodeError:
        raise ReadError("it holds half a character (a lone surrogate)") from None
    except ValueError:
        raise ReadError("it is not JSON: a number has too many digits") from None


def shown(key: object, most: int = 60) -> str:
    """Return a key for an error message: short, and without characters that a terminal acts on."""
    text = str(key)[:most]
    return text if text.isprintable() else ascii(text)[1:-1][:most]


def read_json(path: str | os.PathLike[str], most: int) -> Any:
    """Read a file and parse it; see `parse_json`."""
    return parse_json(read_text(path, most))


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth > DEPTH:
                raise ReadError(f"its brackets nest more than {DEPTH} deep")
        elif mark in "]}":
            depth -= 1


def _no_number(name: str) -> NoReturn:
    raise ReadError(f"{name} is no number of JSON")


def finite(text: str) -> float:
    """Return a text as a float; raises ReadError where it is too large for one."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ReadError(f"the number {text[:20]} is too large")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise ReadError(f"the key {name[:40]!r} comes twice")
        mapping[name] = value
    return mapping


def first_duplicate(values: Iterable[Hashable]) -> Any:
    """Return the first value that has been there before, in one pass; None where all differ."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
