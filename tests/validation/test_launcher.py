"""The place of a process among those that a launcher started."""

from __future__ import annotations

import pytest

from prunekit import cli
from prunekit.errors import ProcessError
from prunekit.validation.launcher import launched

HERE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}


def test_the_place_of_a_process() -> None:
    assert launched(HERE) == (1, 4, 2)
    assert launched({**HERE, "WORLD_SIZE": "1", "RANK": "0"}) is None
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        assert launched({**HERE, name: ""}) is None
    # Without a word on it, rank 0 is alone on its machine.
    assert launched({name: value for name, value in HERE.items() if name != "LOCAL_WORLD_SIZE"}) == (1, 4, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "evil"), ("RANK", "-1"), ("RANK", "4"), ("RANK", "\u0661"), ("WORLD_SIZE", "2.0"), ("LOCAL_WORLD_SIZE", "x")],
)
def test_a_place_that_there_is_not(name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProcessError, match=f"The variable {name} of the environment"):
        launched({**HERE, name: value})
    for other, usual in {**HERE, name: value}.items():
        monkeypatch.setenv(other, usual)
    assert cli.main(["plan", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
