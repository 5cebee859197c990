"""Budgets of what may be kept: `Budget.parse("10%")`, `"40% params"`, `"8 MB"`.

A percentage without a unit is of the model: it bounds both the parameters of the layers and the neurons that a readout reads.
``"10% neurons"`` is the count of Dalvi et al. (2020): the (layer, dimension) pairs that the classifier reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from prunekit.errors import ParameterError
from prunekit.validation.arguments import checked
from prunekit.validation.suggestions import near

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*([A-Za-z]*)\s*", re.ASCII)
_MUST = "a percentage in (0%, 100%] (of the model, or with a unit: neurons, params, macs, latency) or a file size such as '20 MB'"


class Unit(StrEnum):
    """Quantity that a budget bounds. All but the last two, which are absolute, are shares of the dense model.

    `MODEL` bounds the parameters of the layers and the neurons that a readout reads. A model that keeps its own head has no readout:
    its head still reads one layer.
    """

    MODEL = "model"
    NEURONS = "neurons"
    PARAMS = "params"
    MACS = "macs"
    LATENCY = "latency"
    BYTES = "bytes"
    P95 = "p95"


#: Units of which an amount is no share of the dense model's.
ABSOLUTE = (Unit.BYTES, Unit.P95)
#: Units of time, which is measured at the end.
TIMES = (Unit.LATENCY, Unit.P95)
_SHARES = {unit.value: unit for unit in Unit if unit not in ABSOLUTE}


@dataclass(frozen=True)
class Budget:
    """At most `amount` of `unit` may be kept.

    Attributes
    ----------
    unit : Unit
        The quantity bounded.
    amount : float
        A share in (0, 1] of the dense model, a number of bytes for `Unit.BYTES`, or seconds for `Unit.P95`: the 95th percentile of the
        time of one row.
    factor : float or None
        The speed-up, for a budget of latency that was stated as one.
    """

    unit: Unit
    amount: float
    factor: float | None = field(default=None, compare=False)

    @classmethod
    @checked("Budget.parse")
    def parse(cls, text: str, *, of: str = "compress") -> Budget:
        """Parse a budget; raises ParameterError."""
        match = _AMOUNT.fullmatch(text)
        if match is None:
            raise ParameterError("keep", of, _MUST, text)
        number, percent, word = float(match[1]), match[2], match[3]
        if not percent:
            if word.upper() not in _BYTES or number <= 0:
                raise ParameterError("keep", of, _MUST, text, _suggestion(number, percent, word))
            return cls(Unit.BYTES, number * _BYTES[word.upper()])
        name = word.lower() or Unit.MODEL.value
        if name not in _SHARES or not 0 < number <= 100:
            raise ParameterError("keep", of, _MUST, text, _suggestion(number, percent, word))
        return cls(_SHARES[name], number / 100)

    @classmethod
    def speedup(cls, factor: float) -> Budget:
        """Return the budget of latency that corresponds to a speed-up."""
        return cls(Unit.LATENCY, 1 / factor, factor)

    @classmethod
    def p95(cls, seconds: float) -> Budget:
        """Return the budget of the 95th percentile of the time of one row."""
        return cls(Unit.P95, seconds)

    @property
    def option(self) -> str:
        """The command-line option that states this budget."""
        if self.unit is Unit.P95:
            return f"--p95 {milliseconds(self.amount)}"
        return f"--keep {str(self)!r}" if self.factor is None else f"--speedup {self.factor:g}x"

    def __str__(self) -> str:
        if self.factor is not None:
            return f"{self.factor:g}x as fast"
        if self.unit is Unit.BYTES:
            return f"{self.amount / 10**6:g} MB"
        if self.unit is Unit.P95:
            return f"{milliseconds(self.amount)} at the 95th percentile"
        return f"{self.amount * 100:g}%" if self.unit is Unit.MODEL else f"{self.amount * 100:g}% {self.unit.value}"


def milliseconds(seconds: float) -> str:
    """Return a time as an option states it: "5ms"."""
    return f"{seconds * 1e3:.15g}ms"


def _suggestion(number: float, percent: str, word: str) -> str:
    """Return a suggestion for a missing percent sign, a misspelled unit or a factor; the empty string if there is none."""
    if word.lower() == "x" and number > 1:
        return f"Did you mean --speedup {number:g}x?"
    if word.lower() == "ms" and number > 0:
        return f"Did you mean --p95 {number:g}ms?"
    unit = near(word, _SHARES) if word else ""
    share = number if percent or number >= 1 else 100 * number
    if unit is None or not 0 < share <= 100:
        return ""
    return f"Did you mean '{' '.join(filter(None, (f'{share:g}%', unit)))}'?"


def parse_budgets(texts: str | Iterable[str], *, of: str = "compress") -> tuple[Budget, ...]:
    """Parse one or several budgets, all of which must hold; refuse two of the same unit."""
    budgets = tuple(Budget.parse(text, of=of) for text in ([texts] if isinstance(texts, str) else texts))
    if not budgets:
        raise ParameterError("keep", of, _MUST, "nothing")
    units = [budget.unit for budget in budgets]
    for budget, unit in zip(budgets, units, strict=True):
        if units.count(unit) > 1:
            raise ParameterError("keep", of, f"given once for each unit ({unit.value} came twice)", str(budget))
    return budgets


#: Bounds of "auto": training stops earlier once validation no longer improves.
AUTO_SECONDS, AUTO_PASSES = 300.0, 40.0

_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}

_EFFORT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", re.ASCII)


@dataclass(frozen=True)
class Effort:
    """Upper bound on training.

    Attributes
    ----------
    unit : {"seconds", "epochs"}
    amount : float
        More than 0: wall-clock seconds, or passes over the training rows.
    passes : float or None
        Passes over the training rows after which it ends as well, where time is counted.
    """

    unit: Literal["seconds", "epochs"]
    amount: float
    passes: float | None = None

    @classmethod
    def parse(cls, text: str, *, of: str = "compress", parameter: str = "recover") -> Effort:
        """Parse an effort; raises ParameterError."""
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
