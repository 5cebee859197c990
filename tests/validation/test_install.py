from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from prunekit.validation.install import EXTRAS, install


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_installs_what_the_extra_does(extra: str, root: Path) -> None:
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    asked = shlex.split(install(extra))
    assert asked[:2] == ["pip", "install"]
    declared = config["options.extras_require"][extra].split()
    assert {str(Requirement(each)) for each in asked[2:]} == {str(Requirement(each)) for each in declared}
