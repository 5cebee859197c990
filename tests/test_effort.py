from __future__ import annotations

import pytest

from prunekit.budget import Effort
from prunekit.errors import ParameterError


@pytest.mark.parametrize(
    ("text", "unit", "amount", "shown"),
    [
        ("10min", "seconds", 600.0, "10 min"),
        (" 90 s ", "seconds", 90.0, "1.5 min"),
        ("0.5h", "seconds", 1800.0, "30 min"),
        ("5s", "seconds", 5.0, "5 s"),
        ("3epochs", "epochs", 3.0, "3 epochs"),
        ("1 epoch", "epochs", 1.0, "1 epoch"),
        ("0.5epochs", "epochs", 0.5, "0.5 epochs"),
        (" Auto", "seconds", 300.0, "5 min"),
    ],
)
def test_times_and_epochs_are_read_and_shown(text: str, unit: str, amount: float, shown: str) -> None:
    found = Effort.parse(text)
    assert (found.unit, found.amount, str(found)) == (unit, amount, shown)


@pytest.mark.parametrize("text", ["0min", "0 epochs", "10", "min", "-1min", "1e3s", "10 parsecs", "", "1,5min"])
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(
        ParameterError, match=r"The 'recover' parameter of compress must be .auto., or a time or a number of epochs above 0"
    ):
        Effort.parse(text)
