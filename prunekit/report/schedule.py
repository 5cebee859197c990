"""How long a run still takes: its stages as they were expected, corrected by how long those behind it have taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Between what bounds stages to come are taken to be off by as much as those behind.
_OFF = (1 / 4, 4.0)
#: Seconds of stages behind that weigh as much as the expectation itself.
_TRUSTED = 2.0
#: From which share of a stage on its own pace is believed.
_PACED = 0.05


@dataclass(frozen=True)
class Expected:
    """A stage to come.

    Attributes
    ----------
    name : str
        As the stage is entered by.
    seconds : float
    bounded : bool
        Whether a limit of time sets it, and not the machine: it is then no longer where the machine is slow.
    """

    name: str
    seconds: float
    bounded: bool = False


class Schedule:
    """Stages behind, under way and to come.

    Parameters
    ----------
    expected : sequence of Expected
        In the order in which they are entered; one that is not entered is dropped as soon as a later one is, and one that nobody
        expected takes the time that it takes.
    """

    def __init__(self, expected: Sequence[Expected] = ()) -> None:
        self._to_come = list(expected)
        self._now: Expected | None = None
        self._took = self._meant = _TRUSTED
        self.behind = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was expected at all."""
        return bool(self._to_come) or self._now is not None

    def enter(self, name: str) -> None:
        """A stage begins."""
        places = [place for place, each in enumerate(self._to_come) if each.name == name]
        self._now = None
        if places:
            self._now = self._to_come[places[0]]
            del self._to_come[: places[0] + 1]

    def leave(self, seconds: float) -> None:
        """The stage has come to its end."""
        self.behind += seconds
        if self._now is not None and not self._now.bounded:
            self._took, self._meant = self._took + seconds, self._meant + self._now.seconds
        self._now = None

    def left(self, elapsed: float = 0.0, share: float = 0.0) -> float:
        """Seconds to the end of the run, `elapsed` into a stage of which `share` is done."""
        off = min(max(self._took / self._meant, _OFF[0]), _OFF[1])
        left = sum(each.seconds * (1.0 if each.bounded else off) for each in self._to_come)
        if share >= _PACED:
            return left + elapsed * (1 - share) / share
        if self._now is None:
            return left
        seconds = self._now.seconds * (1.0 if self._now.bounded else off)
        # What takes longer than it was meant to takes as long again as it is late.
        return left + max(seconds - elapsed, 0.5 * (elapsed - seconds), 0.0)

    def share(self, elapsed: float = 0.0, share: float = 0.0) -> float:
        """How much of the run is done, in [0, 1]."""
        done = self.behind + elapsed
        return done / max(done + self.left(elapsed, share), 1e-9)


def duration(seconds: float) -> str:
    """Roughly, as a person says it: "40 s", "3 min", "1 h 20 min"."""
    if seconds < 55:
        return f"{max(1, round(seconds))} s" if seconds < 10 else f"{5 * round(seconds / 5)} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h" if not rest else f"{hours} h {rest} min"
