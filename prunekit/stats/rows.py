"""`RowStore`: a float32 matrix that is in memory while it is small, and in a file when it is not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import ArrayLike, NDArray

from prunekit.errors import OutputError, StatisticsError

# Sizes of one name are equal in a call: k rows, d columns.
Ids = Int64[NDArray[np.int64], " k"]
Rows = Float32[NDArray[np.float32], "k d"]

LIMIT = 256 * 2**20
_CHUNK_BYTES = 32 * 2**20


class RowStore:
    """An (n, D) float32 matrix, written by row indices and read in chunks of rows.

    Above `limit` bytes the matrix is kept in an unnamed file. It is read and written by plain file calls rather than
    mapped, because pages of a mapping count as resident memory of the process and those of the page cache do not: memory
    is bounded by one chunk, whatever n is.

    Parameters
    ----------
    rows, columns : int
        Shape, n and D.
    directory : path, optional
        Directory of the file; the system's temporary directory by default.
    limit : int
        Maximum bytes of a matrix that is held in memory.

    Raises
    ------
    OutputError
        The file cannot be made or the disk is full.
    """

    def __init__(self, rows: int, columns: int, *, directory: str | Path | None = None, limit: int = LIMIT) -> None:
        self.shape = (rows, columns)
        self._directory, self._limit = directory, limit
        self._memory: Rows | None = None
        self._file: int | None = None
        self._offset = 0
        if rows * columns * 4 <= limit:
            self._memory = np.zeros(self.shape, dtype=np.float32)
            return
        try:
            self._file, name = tempfile.mkstemp(prefix="prunekit-rows-", dir=directory)
            os.unlink(name)  # the file exists as long as its descriptor: a crash leaves nothing behind
            os.truncate(self._file, rows * columns * 4)
        except OSError as error:
            raise OutputError(
                f"No room for {rows * columns * 4 / 1e9:.1f} GB of activations in {directory or tempfile.gettempdir()}: {error}"
            ) from None

    @classmethod
    def of(cls, matrix: ArrayLike, *, directory: str | Path | None = None, limit: int = LIMIT) -> RowStore:
        """Store an (n, D) matrix as float32."""
        values = np.asarray(matrix, dtype=np.float32)
        if values.ndim != 2:
            raise StatisticsError(f"Rows must be a matrix. Got shape {values.shape} instead.")
        store = cls(*values.shape, directory=directory, limit=limit)
        store.put(np.arange(len(values)), values)
        return store

    @classmethod
    def open(cls, path: str | Path) -> RowStore:
        """Open a float32 matrix in a .npy file, which is read in place and never written; raise StatisticsError for any other file."""
        try:
            mapped = np.load(path, mmap_mode="r")
            file = os.open(path, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise StatisticsError(f"{str(path)!r} cannot be read as a matrix: {error}") from None
        store = cls(0, 0)
        store._memory, store._file = None, file
        if not isinstance(mapped, np.memmap) or mapped.dtype != np.float32 or mapped.ndim != 2 or not mapped.flags.c_contiguous:
            got = f"{mapped.dtype} of shape {mapped.shape}" if isinstance(mapped, np.ndarray) else type(mapped).__name__
            raise StatisticsError(f"{str(path)!r} must hold a float32 matrix, row after row. Got {got}.")
        store.shape, store._offset = (mapped.shape[0], mapped.shape[1]), mapped.offset
        return store

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        """Number of columns, D."""
        return self.shape[1]

    @property
    def in_memory(self) -> bool:
        """Whether the matrix is held in memory rather than in a file."""
        return self._memory is not None

    def put(self, indices: Sequence[int] | Ids, rows: ArrayLike) -> None:
        """Write rows, (k, D), at row indices, (k,)."""
        positions = np.asarray(indices, dtype=np.int64)
        values = np.ascontiguousarray(rows, dtype=np.float32)
        if values.shape != (len(positions), self.width):
            raise StatisticsError(f"Expected {len(positions)} rows of {self.width} columns. Got shape {values.shape} instead.")
        if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= len(self)):
            raise StatisticsError(f"A row index is outside 0..{len(self) - 1}.")
        if self._memory is not None:
            self._memory[positions] = values
            return
        breaks = np.flatnonzero(np.diff(positions) != 1) + 1
        try:
            for run in np.split(np.arange(len(positions)), breaks):
                if len(run):
                    _write(self._descriptor(), values[run[0] : run[-1] + 1], int(positions[run[0]]) * self.width * 4)
        except OSError as error:
            raise OutputError(f"The activations cannot be written: {error}") from None

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Rows]]:
        """Yield chunks of rows in order: (index of the first row, (k, D) read-only array valid until the next chunk).

        `size` is the number of rows; by default a chunk holds 32 MB. Of a file, the next chunk is read in the background, into
        a second buffer.
        """
        step = size or max(1, _CHUNK_BYTES // (4 * max(self.width, 1)))
        if self._memory is not None:
            view = self._memory.view()
            view.flags.writeable = False
            for start in range(0, len(self), step):
                yield start, view[start : start + step]
            return
        buffers = [np.empty((min(step, len(self)), self.width), dtype=np.float32) for _ in range(2)]

        def read(start: int) -> Rows:
            chunk = buffers[start // step % 2][: min(step, len(self) - start)]
            _read(self._descriptor(), chunk, self._offset + start * self.width * 4)
            return chunk

        # Read the next chunk while the caller processes this one.
        with ThreadPoolExecutor(1) as reader:
            pending = reader.submit(read, 0) if len(self) else None
            for start in range(0, len(self), step):
                assert pending is not None
                chunk = pending.result().view()
                chunk.flags.writeable = False
                if start + step < len(self):
                    pending = reader.submit(read, start + step)
                yield start, chunk

    def matrix(self, columns: slice = slice(None)) -> Rows:
        """Return a copy of the matrix in memory, or of some adjacent columns: chunks themselves share buffers and cannot be gathered."""
        copied = np.empty((len(self), len(range(*columns.indices(self.width)))), dtype=np.float32)
        for start, chunk in self.chunks():
            copied[start : start + len(chunk)] = chunk[:, columns]
        return copied

    def columns(self, ids: Sequence[int] | Ids) -> RowStore:
        """Return a new store with the columns `ids`, in that order; in memory when it fits the same limit."""
        picked = np.asarray(ids, dtype=np.int64)
        narrow = RowStore(len(self), len(picked), directory=self._directory, limit=self._limit)
        for start, chunk in self.chunks():
            narrow.put(np.arange(start, start + len(chunk)), chunk[:, picked])
        return narrow

    def take(self, rows: Sequence[int] | Ids) -> RowStore:
        """Return a new store with some of the rows, whose indices must ascend; in memory when it fits the same limit."""
        picked = np.asarray(rows, dtype=np.int64)
        if (np.diff(picked) <= 0).any():
            raise StatisticsError("Row indices must ascend.")
        short = RowStore(len(picked), self.width, directory=self._directory, limit=self._limit)
        for start, chunk in self.chunks():
            first, stop = np.searchsorted(picked, [start, start + len(chunk)])
            short.put(np.arange(first, stop), chunk[picked[first:stop] - start])
        return short

    def close(self) -> None:
        """Release the memory or the file; closing twice is allowed, reading afterwards is not."""
        self._memory = None
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self.shape = (0, self.width)

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _descriptor(self) -> int:
        if self._file is None:
            raise StatisticsError("The rows were closed.")
        return self._file


def _write(descriptor: int, values: Rows, offset: int) -> None:
    data = values.data.cast("B")
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _read(descriptor: int, into: Rows, offset: int) -> None:
    data = into.data.cast("B")
    while data:
        count = os.preadv(descriptor, [data], offset)
        if not count:
            raise StatisticsError("The file of activations is shorter than it was written.")
        data, offset = data[count:], offset + count
