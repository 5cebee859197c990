from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prunekit.errors import OutputError, StatisticsError
from prunekit.stats import rows
from prunekit.stats.rows import RowStore


def matrix(n: int = 50, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


@pytest.fixture(params=["memory", "file"])
def limit(request: pytest.FixtureRequest) -> int:
    return 2**20 if request.param == "memory" else 0


def read(store: RowStore, size: int | None = None) -> np.ndarray:
    return np.concatenate([chunk.copy() for _, chunk in store.chunks(size)])


@pytest.mark.parametrize("size", [1, 7, 50, 64, None])
def test_rows_come_back_in_order(limit: int, size: int | None, tmp_path: Path) -> None:
    x = matrix()
    with RowStore(*x.shape, directory=tmp_path, limit=limit) as store:
        assert store.in_memory == bool(limit)
        for part in np.array_split(np.random.default_rng(1).permutation(50), 9):
            store.put(part, x[part])
        assert (read(store, size) == x).all()
        assert [start for start, _ in store.chunks(20)] == [0, 20, 40]


def test_runs_of_rows_are_written_where_they_belong(limit: int, tmp_path: Path) -> None:
    x = matrix()
    with RowStore(*x.shape, directory=tmp_path, limit=limit) as store:
        order = np.concatenate([np.arange(20, 50), np.arange(20)])
        store.put(order, x[order])
        assert (read(store) == x).all()


def test_columns_and_rows_of_a_store(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Seven rows a chunk: some of the rows that are taken are in later ones.
    monkeypatch.setattr(rows, "_CHUNK_BYTES", 7 * 24)
    x = matrix()
    with RowStore.of(x, directory=tmp_path, limit=limit) as store:
        with store.columns([4, 0]) as narrow:
            assert narrow.in_memory == bool(limit)
            assert (read(narrow) == x[:, [4, 0]]).all()
        with store.take([3, 7, 8, 49]) as short:
            assert (read(short) == x[[3, 7, 8, 49]]).all()
        with pytest.raises(StatisticsError, match="ascend"):
            store.take([7, 3])


def test_the_whole_matrix_is_a_copy_of_every_chunk(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_CHUNK_BYTES", 7 * 24)
    x = matrix()
    with RowStore.of(x, directory=tmp_path, limit=limit) as store:
        assert (store.matrix() == x).all()
        assert (store.matrix(slice(2, 4)) == x[:, 2:4]).all()


def test_nothing_is_left_in_the_directory(tmp_path: Path) -> None:
    store = RowStore.of(matrix(), directory=tmp_path, limit=0)
    assert not list(tmp_path.iterdir())
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    store.close()
    store.close()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before - 1


def test_chunks_cannot_be_written_to(limit: int, tmp_path: Path) -> None:
    with RowStore.of(matrix(), directory=tmp_path, limit=limit) as store:
        for _, chunk in store.chunks():
            with pytest.raises(ValueError, match="read-only"):
                chunk[0, 0] = 1.0


def test_rows_that_do_not_fit(limit: int, tmp_path: Path) -> None:
    with RowStore(5, 3, directory=tmp_path, limit=limit) as store:
        with pytest.raises(StatisticsError, match=r"outside 0\.\.4"):
            store.put([5], np.ones((1, 3)))
        with pytest.raises(StatisticsError, match=r"outside 0\.\.4"):
            store.put([-1], np.ones((1, 3)))
        with pytest.raises(StatisticsError, match="3 columns"):
            store.put([0], np.ones((1, 4)))


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No room"):
        RowStore(5, 3, directory=tmp_path / "absent", limit=0)


@pytest.mark.needs("linux")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    script = """
import sys
import numpy as np
from prunekit.stats import rows
rows._CHUNK_BYTES = 2**22
n = int(sys.argv[1])
with rows.RowStore(n, 1000, directory=sys.argv[2], limit=0) as store:
    for start in range(0, n, 1000):
        store.put(np.arange(start, start + 1000), np.full((1000, 1000), start, dtype=np.float32))
    total = sum(float(chunk[:, 0].sum()) for _, chunk in store.chunks())
    assert total == 1000 * sum(range(0, n, 1000)), total
# Not getrusage's maximum, which a process inherits from its parent.
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    peaks = [
        int(subprocess.run([sys.executable, "-c", script, str(n), str(tmp_path)], check=True, capture_output=True, text=True).stdout)
        for n in (5_000, 30_000)  # with either, both buffers are full
    ]
    # 100 MB more on disk; in memory not even a tenth of it.
    assert peaks[1] - peaks[0] < 10


def test_a_file_is_read_where_it_lies(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(57, 9)).astype(np.float32)
    np.save(tmp_path / "rows.npy", matrix)
    with RowStore.open(tmp_path / "rows.npy") as rows:
        assert rows.shape == (57, 9)
        for size in (1, 10, 57, 100):
            found = [(start, chunk.copy()) for start, chunk in rows.chunks(size)]
            assert [start for start, _ in found] == list(range(0, 57, size))
            np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in found]), matrix)
        # A pass that is left early leaves nothing behind.
        next(iter(rows.chunks(5)))
        np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in rows.columns([3]).chunks()]), matrix[:, [3]])
    for name, other in {"wide": matrix.astype(np.float64), "flat": matrix[0], "turned": np.asfortranarray(matrix)}.items():
        np.save(tmp_path / f"{name}.npy", other)
        with pytest.raises(StatisticsError, match="row after row"):
            RowStore.open(tmp_path / f"{name}.npy")
    np.savez(tmp_path / "archive.npz", rows=matrix)
    with pytest.raises(StatisticsError, match=r"row after row\. Got NpzFile"):
        RowStore.open(tmp_path / "archive.npz")
    with pytest.raises(StatisticsError, match="cannot be read"):
        RowStore.open(tmp_path / "missing.npy")
