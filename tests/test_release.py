from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def make_release(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_release", root / "docs" / "make_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(mtime: float, owner: str, mode: int, names: tuple[str, ...]) -> bytes:
    """An sdist as setuptools would pack it at some moment, by somebody."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.mtime, member.uname, member.mode, member.size = mtime, owner, mode, len(name)
            file.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


def test_an_sdist_has_the_times_of_its_commit_and_nobody_s_name(make_release: ModuleType) -> None:
    first = make_release._same_times(archive(1.5, "ann", 0o664, ("p/a", "p/b")), 1000)
    assert first == make_release._same_times(archive(2e9, "ben", 0o600, ("p/b", "p/a")), 1000)
    assert first != make_release._same_times(archive(1.5, "ann", 0o664, ("p/a", "p/c")), 1000)
    assert make_release._same_times(first, 1000) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as file:
        members = file.getmembers()
        assert [(each.name, each.mtime, each.uid, each.uname, each.mode) for each in members] == [
            ("p/a", 1000, 0, "", 0o644),
            ("p/b", 1000, 0, "", 0o644),
        ]
        assert [(file.extractfile(each) or io.BytesIO()).read() for each in members] == [b"p/a", b"p/b"]
