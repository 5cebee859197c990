"""Parquet files that hold more than they weigh, and folders of them as the hub lays them out."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunekit.data import load_data, parquet
from prunekit.data.columns import read_columns
from prunekit.data.files import read_table
from prunekit.data.parquet import most_bytes, read_parquet
from prunekit.errors import DataError
from tests.data.tables import table


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_small_file_that_unpacks_to_more_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = write(tmp_path / "a.parquet", text=["x" * 100_000] * 3000, label=[0, 1] * 1500)
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(parquet, "memory", lambda: 10**8)
    read: list[object] = []
    monkeypatch.setattr("datasets.Dataset.from_parquet", lambda *given, **_: read.append(given))
    with pytest.raises(DataError, match=r"unpacks to more than 0\.1 GB, half of this machine's memory: give fewer rows"):
        read_parquet(bomb, 10**6, 10)
    assert not read


def test_what_repeats_and_has_room_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = write(tmp_path / "a.parquet", text=["a b c", "d e f"] * 50_000, label=[0, 1] * 50_000)
    # By its footer it could unpack to more than this, and it does not.
    monkeypatch.setattr(parquet, "memory", lambda: 10**7)
    assert most_bytes(pq.read_metadata(many)) > 10**7
    assert len(read_parquet(many, 10**6, 10)) == 100_000


@pytest.mark.parametrize(("rows", "columns", "says"), [(59, 2, "60 rows, more than the 59"), (60, 1, "2 columns, more than the 1")])
def test_the_footer_says_how_much_there_is(rows: int, columns: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        read_parquet(write(tmp_path / "a.parquet", text=["a"] * 60, label=[0] * 60), rows, columns)


def test_dates_that_no_calendar_has_are_one_line(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.parquet", text=["a"] * 2, label=pa.array([2**62, 0], pa.timestamp("us"))))
    with pytest.raises(DataError, match="The columns label of train cannot be read: date value out of range"):
        read_columns(table, ["label"], "train")


def test_a_data_set_of_the_hub_is_read_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "dataset_infos.json").write_text("{}")
    write(tmp_path / "data" / "train-00000-of-00001-2a1df75c6bce91ab.parquet", **table())
    assert load_data(tmp_path).provenance["rows"] == load_data(table()).provenance["rows"]
    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(table())}).save_to_disk(str(saved))
    for folder in (saved, saved / "train"):
        with pytest.raises(DataError, match=r"was written by save_to_disk, which is not read\. Write each split to a file"):
            load_data(folder)
