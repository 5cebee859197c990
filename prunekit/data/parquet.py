"""Parquet, which says in its footer how much it holds, and may hold much more than the file has bytes."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.errors import DataError
from prunekit.scratch import temporary
from prunekit.validation.limits import memory

if TYPE_CHECKING:
    from datasets import Dataset

#: Rows that are unpacked at a time where a file is measured.
_ROWS = 256


def read_parquet(path: Path, rows: int, columns: int) -> Dataset:
    """Read a file into memory.

    Parameters
    ----------
    path : Path
    rows, columns : int
        The most of either.

    Raises
    ------
    DataError
        More than that, or more bytes than the memory has room for twice: once as a table and once as texts.
    OSError, ValueError
        No Parquet file.
    """
    import datasets
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        found = file.metadata
        for count, most, what in ((found.num_rows, rows, "rows"), (found.num_columns, columns, "columns")):
            if count > most:
                raise DataError(f"The file {str(path)!r} has {count:,} {what}, more than the {most:,} that are read: give fewer.")
        if most_bytes(found) > memory() // 2:
            _measure(file, path, memory() // 2)
    # A cache of our own, read into memory and dropped: nothing stale can be met, and nothing is left on the disk.
    with temporary() as cache:
        if glob.has_magic(str(path)):  # the library takes a path for a pattern
            path = Path(shutil.copyfile(path, cache / f"rows{path.suffix}"))
        return datasets.Dataset.from_parquet(str(path), cache_dir=str(cache), keep_in_memory=True)


def most_bytes(metadata: Any) -> int:
    """Bytes that a file may unpack to, by its footer alone: a value of a dictionary can be as long as that, and in every row."""
    total = 0
    for group in range(metadata.num_row_groups):
        for at in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(at)
            packed = chunk.has_dictionary_page or any("DICTIONARY" in encoding for encoding in chunk.encodings)
            total += chunk.total_uncompressed_size * (chunk.num_values if packed else 1)
    return total


def _measure(file: Any, path: Path, room: int) -> None:
    """Unpack a file in parts that are dropped; raises DataError where all together have no room."""
    size = 0
    for batch in file.iter_batches(batch_size=_ROWS):
        size += batch.nbytes
        if size > room:
            raise DataError(
                f"The file {str(path)!r} unpacks to more than {room / 1e9:,.1f} GB, half of this machine's memory: give fewer rows."
            )
