"""A training that was stopped too early loses nothing, and says why it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.errors import BudgetError, OutputError
from prunekit.training.unmet import refuse


def write(place: Path) -> None:
    place.mkdir()


def test_a_model_is_written_beside_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "unmet").mkdir()
    (tmp_path / "unmet-2").write_text("the user's")
    with pytest.raises(BudgetError, match=r"^Stopped. The model as it is was written to '.*unmet-3'"):
        refuse("Stopped.", tmp_path, write)
    assert (tmp_path / "unmet-3").is_dir()
    assert not list((tmp_path / "unmet").iterdir())
    assert (tmp_path / "unmet-2").read_text() == "the user's"


def test_the_reason_is_given_where_nothing_can_be_written(tmp_path: Path) -> None:
    def full(place: Path) -> None:
        raise OutputError("No space left.")

    with pytest.raises(BudgetError, match=r"^Stopped. The model as it is stays in memory, since it could not be written: No space left."):
        refuse("Stopped.", tmp_path, full)
