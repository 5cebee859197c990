"""CSV and TSV files."""

from __future__ import annotations

import csv
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from prunekit.errors import DataError
from prunekit.validation.reading import shown

if TYPE_CHECKING:
    from datasets import Dataset

_LINE = 1 << 20  # characters of a header


def read_delimited(path: Path, kind: str, most_rows: int, most_columns: int) -> Dataset:
    """Read a CSV or TSV (`kind`) as strings.

    Cells stay strings ("NA" and "null" are words, "01" is not 1), and a line of another width is an error, never a shift. A TSV has no
    quoting, as the format is registered: a lone quote must not swallow the lines that follow it. One that was written with quotes, as
    spreadsheets do, is read with them (`_is_quoted`).

    Raises
    ------
    DataError
        More rows or columns than the most, two columns of one name, or a line that cannot be read.
    OSError, ValueError
        A file that cannot be read, or is not in UTF-8.
    """
    import datasets

    with path.open(encoding="utf-8-sig", newline="") as stream:
        if kind == "csv":
            line = stream.readline(_LINE)
            if len(line) == _LINE:
                raise DataError(f"The header of {str(path)!r} has more than {_LINE - 1:,} characters.")
            reader = csv.reader(chain([line], stream), delimiter=_delimiter(line), strict=True)
        else:
            quoted = _is_quoted(stream.read())
            stream.seek(0)
            reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True)
        header = next(reader, [])
        if len(header) > most_columns:
            raise DataError(f"The file {str(path)!r} has more than {most_columns:,} columns: give fewer.")
        for at, name in enumerate(header):
            if name in header[:at]:
                raise DataError(f"The file {str(path)!r} has two columns named {shown(name, 100)!r}.")
        rows, begin = list[list[str]](), reader.line_num + 1
        try:
            for row in reader:
                begin = reader.line_num + 1
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"Line {reader.line_num} of {str(path)!r} has {len(row)} cells, its header has {len(header)}.")
                if len(rows) == most_rows:
                    raise DataError(f"The file {str(path)!r} has more than {most_rows:,} rows: give fewer.")
                rows.append(row)
        except csv.Error as error:
            raise DataError(f"The row in line {begin} of {str(path)!r} cannot be read as {kind.upper()}: {error}.") from None
    return datasets.Dataset.from_dict({name: [row[at] for row in rows] for at, name in enumerate(header)})


def _is_quoted(text: str) -> bool:
    """Return whether the quotes of a TSV enclose cells, and are no characters of them.

    Every quote must be one that begins or ends a cell or is doubled within one. Beside that the header begins with one, or one is
    doubled and no cell in quotes holds a tab or a line break, or lines differ in width unless the quotes hold them together.
    """
    parts = text.split('"')
    outside, inside = parts[::2], parts[1::2]
    if len(parts) < 3 or len(parts) % 2 == 0:
        return False
    if any(part and part[0] not in "\t\r\n" for part in outside[1:]) or any(part and part[-1] not in "\t\r\n" for part in outside[:-1]):
        return False
    if len({line.count("\t") for line in text.split("\n") if line.strip("\r")}) > 1:
        return True
    whole = not any(mark in part for part in inside for mark in "\t\r\n")
    return whole and (text.startswith('"') or "" in outside[1:-1])


def _delimiter(header: str) -> str:
    """Return the delimiter of a CSV: a comma, unless its header has none, as where spreadsheets write numbers with a decimal comma."""
    return next((mark for mark in ",;\t" if mark in header), ",")
