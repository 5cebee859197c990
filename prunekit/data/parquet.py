"""Parquet files, which may be much larger in memory than on disk; their footer states the size."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.errors import DataError
from prunekit.validation.limits import memory
from prunekit.validation.scratch import temporary

if TYPE_CHECKING:
    from datasets import Dataset

#: Rows that are unpacked at a time to measure a file.
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
        More than that, or more bytes than half of the memory: they are held twice, as a table and as texts.
    OSError, ValueError
        Not a Parquet file.
    """
    import datasets
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        for count, most, name in ((metadata.num_rows, rows, "rows"), (metadata.num_columns, columns, "columns")):
            if count > most:
                raise DataError(f"The file {str(path)!r} has {count:,} {name}, more than the {most:,} that are read: give fewer.")
        if most_bytes(metadata) > memory() // 2:
            _measure(file, path, memory() // 2)
    # A temporary cache, read into memory: no stale entry can be used, and nothing is left on disk.
    with temporary() as cache:
        if glob.has_magic(str(path)):  # the library reads a path as a pattern
            path = Path(shutil.copyfile(path, cache / f"rows{path.suffix}"))
        return datasets.Dataset.from_parquet(str(path), cache_dir=str(cache), keep_in_memory=True)


def most_bytes(metadata: Any) -> int:
    """Return the most bytes that a file may unpack to, by its footer: a dictionary's value may be as long as a chunk, in every row."""
    total = 0
    for group in range(metadata.num_row_groups):
        for at in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(at)
            has_dictionary = chunk.has_dictionary_page or any("DICTIONARY" in encoding for encoding in chunk.encodings)
            total += chunk.total_uncompressed_size * (chunk.num_values if has_dictionary else 1)
    return total


def _measure(file: Any, path: Path, limit: int) -> None:
    """Unpack a file in parts that are dropped; raises DataError where they are more than `limit` bytes together."""
    size = 0
    for batch in file.iter_batches(batch_size=_ROWS):
        size += batch.nbytes
        if size > limit:
            raise DataError(
                f"The file {str(path)!r} unpacks to more than {limit / 1e9:,.1f} GB, half of this machine's memory: give fewer rows."
            )
