"""What a killed run leaves beside an output, at its first step and at its last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from prunekit.exporters import sibling
from prunekit.exporters.artefact import check_output
from prunekit.validation import scratch


@pytest.mark.parametrize("marker", [None, ""])
def test_what_was_killed_at_its_first_step_is_cleared_away(marker: str | None, tmp_path: Path) -> None:
    left = tmp_path / ".slim.tmp-0123456789abcdef"
    left.mkdir()
    if marker is not None:
        (left / "prunekit.json").write_text(marker)
    lock = scratch.locked(left)
    assert lock is not None
    check_output(tmp_path / "slim")
    assert left.is_dir()  # its run goes on
    os.close(lock)
    check_output(tmp_path / "slim")
    assert not left.exists()


def test_what_another_run_takes_for_left_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, asked = scratch.locked, []

    def late(folder: Path) -> int | None:
        asked.append(folder)
        if len(asked) == 1:
            sibling.recover(tmp_path / "slim")
            assert not folder.exists()
        return locked(folder)

    monkeypatch.setattr(scratch, "locked", late)
    with sibling.Sibling(tmp_path / "slim") as made:
        assert made.new.is_dir()
        assert len(asked) == 3  # by the other run, in vain, and again
    assert not list(tmp_path.iterdir())


def test_what_is_left_says_whose_it_is_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, seen = os.unlink, []

    def watched(path: Any, **more: Any) -> None:
        seen.append(os.path.basename(os.fsdecode(path)))
        unlink(path, **more)

    with sibling.Sibling(tmp_path / "slim") as made:
        for name in ("a", "z"):
            (made.new / name).write_text("")
        monkeypatch.setattr(os, "unlink", watched)
    assert seen[-1] == "prunekit.json"
    assert sorted(seen) == ["a", "prunekit.json", "z"]
