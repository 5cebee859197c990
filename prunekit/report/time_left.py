"""Time left in a run: the expected times of its stages, corrected by the measured times of the finished ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Bounds of the factor, measured on finished stages, by which the expected times of pending ones are corrected.
_CORRECTION = (1 / 4, 4.0)
#: Weight of the expected times in that factor, in seconds of finished stages.
_PRIOR_SECONDS = 2.0
#: Share of a stage from which its own pace is used.
_MIN_SHARE = 0.05


@dataclass(frozen=True)
class Expected:
    """An expected stage.

    Attributes
    ----------
    name : str
        Name under which the stage is entered.
    seconds : float
    bounded : bool
        Whether a time limit sets the duration, which then does not grow on a slow machine.
    """

    name: str
    seconds: float
    bounded: bool = False


class TimeLeft:
    """Time left in a run, of the stages that are finished, current and pending.

    Parameters
    ----------
    expected : sequence of Expected
        In the order in which they are entered; one that is not entered is dropped as soon as a later one is, and one that is not
        expected is predicted by its own pace alone.
    """

    def __init__(self, expected: Sequence[Expected] = ()) -> None:
        self._pending = list(expected)
        self._current: Expected | None = None
        self._measured = self._expected = _PRIOR_SECONDS
        self.behind = 0.0

    @property
    def known(self) -> bool:
        """Whether an expected stage is pending or current."""
        return bool(self._pending) or self._current is not None

    def enter(self, name: str) -> None:
        """Begin a stage."""
        positions = [position for position, stage in enumerate(self._pending) if stage.name == name]
        self._current = None
        if positions:
            self._current = self._pending[positions[0]]
            del self._pending[: positions[0] + 1]

    def leave(self, seconds: float) -> None:
        """End the current stage, which took `seconds`."""
        self.behind += seconds
        if self._current is not None and not self._current.bounded:
            self._measured, self._expected = self._measured + seconds, self._expected + self._current.seconds
        self._current = None

    def seconds(self, elapsed: float = 0.0, share: float = 0.0) -> float:
        """Return the seconds to the end of the run, `elapsed` seconds into a stage of which `share` is done."""
        factor = min(max(self._measured / self._expected, _CORRECTION[0]), _CORRECTION[1])
        left = sum(stage.seconds * (1.0 if stage.bounded else factor) for stage in self._pending)
        if share >= _MIN_SHARE:
            return left + elapsed * (1 - share) / share
        if self._current is None:
            return left
        seconds = self._current.seconds * (1.0 if self._current.bounded else factor)
        # A stage that is late is expected to take another half of its delay.
        return left + max(seconds - elapsed, 0.5 * (elapsed - seconds), 0.0)

    def share(self, elapsed: float = 0.0, share: float = 0.0) -> float:
        """Return the share of the run that is done, in [0, 1]."""
        done = self.behind + elapsed
        return done / max(done + self.seconds(elapsed, share), 1e-9)


def duration(seconds: float) -> str:
    """Format a duration, rounded: "40 s", "3 min", "1 h 20 min"."""
    if seconds < 55:
        return f"{max(1, round(seconds))} s" if seconds < 10 else f"{5 * round(seconds / 5)} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h" if not rest else f"{hours} h {rest} min"
