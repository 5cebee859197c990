from __future__ import annotations

from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.command.egg_info import FileList


@pytest.fixture
def distribution(root: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    monkeypatch.chdir(root)
    found = Distribution({"script_name": "setup.py"})
    found.parse_config_files()
    return found


@pytest.fixture
def data(root: Path) -> set[str]:
    """Files of the package that are no code."""
    files = (path for path in (root / "prunekit").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(root)) for path in files if path.suffix != ".py"}


def test_templates_are_in_the_wheel(distribution: Distribution, data: set[str]) -> None:
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    packed = {str(Path(source) / name) for _, source, _, names in command.data_files for name in names}
    assert len(data) > 5
    assert packed == data


def test_templates_are_in_the_sdist(distribution: Distribution, data: set[str]) -> None:
    command = distribution.get_command_obj("sdist")
    command.ensure_finalized()
    command.filelist = FileList()
    command.add_defaults()
    assert data <= set(command.filelist.files)
