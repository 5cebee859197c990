"""Directories of checkpoints: gone where there is nothing to go on from, and of one run alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.errors import OutputError
from prunekit.training.checkpoints import place


def die(folder: Path, *names: str) -> None:
    """Leave files and directories of these names in a place, and end with an error."""
    with place(folder):
        for name in names:
            (folder / name).mkdir() if "checkpoint" in name else (folder / name).touch()
        raise ZeroDivisionError


def test_a_run_that_dies_before_its_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("new", "mine"):
        with pytest.raises(ZeroDivisionError):
            die(tmp_path / name, "recover.json", "recovered.half", "checkpoint-20")
    # A directory that was there before stays.
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["thesis.txt", "recovered.safetensors"])
def test_what_is_more_than_a_beginning_stays(name: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        die(tmp_path / "new", name)
    assert (tmp_path / "new" / name).is_file()


def test_two_runs_do_not_share_checkpoints(tmp_path: Path) -> None:
    with place(tmp_path / "a"):
        with pytest.raises(OutputError, match="are those of a run that goes on: wait for its end"), place(tmp_path / "a"):
            pass
        assert (tmp_path / "a").is_dir()
    with place(tmp_path / "a"):
        pass


def test_a_place_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="The checkpoints cannot be kept in"), place(tmp_path / "file"):
        pass
