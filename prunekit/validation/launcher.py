"""The place among several processes that a launcher such as torchrun or accelerate gives this one, read from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prunekit.errors import ProcessError

#: Environment variables by which a launcher tells a process its place; without one of them there is no group.
_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Processes of the machine of rank 0; ranks are counted machine by machine.
_BESIDE = "LOCAL_WORLD_SIZE"


class Place(NamedTuple):
    """A process among those of its run: its number, how many there are, and how many of these run on the machine of rank 0."""

    rank: int
    size: int
    beside: int


def launched(environment: Mapping[str, str]) -> Place | None:
    """Return the place that a launcher gave this process; None where there is one process.

    Raises
    ------
    ProcessError
        Variables of a launcher that are no numbers, or a rank that there is not.
    """
    if not all(environment.get(name) for name in _NAMES):
        return None
    numbers: dict[str, int] = {}
    for name, value in ((name, environment.get(name, "1")) for name in ("RANK", "WORLD_SIZE", _BESIDE)):
        if not value.isascii() or not value.isdigit():
            raise ProcessError(
                f"The variable {name} of the environment must be a number, as torchrun sets it. Got {value[:200]!r} instead."
            )
        numbers[name] = int(value)
    place = Place(numbers["RANK"], numbers["WORLD_SIZE"], min(numbers[_BESIDE], numbers["WORLD_SIZE"]))
    if place.rank >= place.size:
        raise ProcessError(f"The variable RANK of the environment must be below WORLD_SIZE, {place.size}. Got {place.rank} instead.")
    return place if place.size > 1 else None
