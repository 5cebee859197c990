"""How long a model may be trained: `Effort.parse("10min")`, `"3epochs"`, `"auto"`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from prunekit.errors import ParameterError

#: What "auto" is bounded by: training that no longer improves on validation ends before.
AUTO_SECONDS, AUTO_PASSES = 300.0, 40.0
_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}
_EFFORT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", re.ASCII)


@dataclass(frozen=True)
class Effort:
    """So much training and no more.

    Attributes
    ----------
    unit : {"seconds", "epochs"}
    amount : float
        More than 0: wall-clock seconds, or passes over the training rows.
    passes : float or None
        Passes over the training rows that end it too, where time is counted.
    """

    unit: Literal["seconds", "epochs"]
    amount: float
    passes: float | None = None

    @classmethod
    def parse(cls, text: str, *, of: str = "compress", parameter: str = "recover") -> Effort:
        """Read an effort as a person writes it; raises ParameterError."""
        match = _EFFORT.fullmatch(text) if isinstance(text, str) else None
        must = "'auto', or a time or a number of epochs above 0, such as '10min', '90s' or '3epochs'"
        if isinstance(text, str) and text.strip().lower() == "auto":
            return cls("seconds", AUTO_SECONDS, AUTO_PASSES)
        if match is None or float(match[1]) <= 0:
            raise ParameterError(parameter, of, must, text)
        number, word = float(match[1]), match[2].lower()
        if word in ("epoch", "epochs"):
            return cls("epochs", number)
        if word not in _SECONDS:
            raise ParameterError(parameter, of, must, text)
        return cls("seconds", number * _SECONDS[word])

    def __str__(self) -> str:
        if self.unit == "epochs":
            return f"{self.amount:g} epoch{'' if self.amount == 1 else 's'}"
        return f"{self.amount / 60:g} min" if self.amount >= 60 else f"{self.amount:g} s"
