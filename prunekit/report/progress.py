"""Where a run is: one bar for all of it, beneath it the stage in its own unit; where there is no terminal, a line a stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.progress import Task as Bar
from rich.text import Text

from prunekit.report.schedule import Expected, Schedule, duration
from prunekit.validation.escape import terminal

#: How much of the whole bar there is to fill.
_WHOLE = 1000


class _Said(ProgressColumn):
    """What a bar says at this moment."""

    def render(self, task: Bar) -> Text:
        """The text that the bar's own function gives."""
        return Text(task.fields["said"]())


class Stages:
    """Enter a stage with ``with stage("read train", unit="rows"):``; inside, `step` moves its bar. One within another is part of it.

    Attributes
    ----------
    seconds : dict
        {stage: seconds} of the stages left.
    """

    def __init__(self, bars: Progress | None = None, console: Console | None = None, *, verbose: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._bars, self._console, self._verbose = bars, console, verbose
        self._schedule = Schedule()
        self._whole: TaskID | None = None
        self._bar: TaskID | None = None
        self._depth = 0
        self._begin = 0.0
        self._share, self._note, self._unit, self._at = 0.0, "", "", (0, 0)

    @property
    def shown(self) -> bool:
        """Whether anything is printed."""
        return self._bars is not None or self._console is not None

    def expect(self, stages: Sequence[Expected]) -> None:
        """From here on the time left is known; said once beforehand where there is no bar."""
        behind = self._schedule.behind
        self._schedule = Schedule(stages)
        self._schedule.behind = behind
        if self._verbose:
            for each in stages:
                self.say(f"expected: {each.name}, {duration(each.seconds)}{' at most' if each.bounded else ''}")
        if self._bars is not None:
            self._whole = self._bars.add_task("in all", total=_WHOLE, said=self._said_of_all)
        elif self._console is not None:
            self._console.print(f"this takes about {duration(self._schedule.left())}")

    @contextmanager
    def __call__(self, name: str, unit: str = "") -> Iterator[None]:
        """Time a stage, and show it."""
        begin = time.perf_counter()
        outer = self._depth == 0
        self._depth += 1
        if outer:
            self._begin, self._unit, self._note, self._share, self._at = begin, unit, "", 0.0, (0, 0)
            self._schedule.enter(name)
            self._open(name)
        try:
            yield
        finally:
            self._depth -= 1
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        if outer:
            self._close(name, time.perf_counter() - begin)

    def say(self, line: str) -> None:
        """A line between the stages."""
        console = self._bars.console if self._bars is not None else self._console
        if console is not None:
            console.print(Text(terminal(line)))

    def detail(self, line: str) -> None:
        """A line that is printed where more was asked for."""
        if self._verbose:
            self.say(line)

    def step(self, done: int, total: int, note: str = "") -> None:
        """So much of the stage is done; `note` stands beside it. Of a stage within another the outer one does not move."""
        if self._depth > 1:
            return
        self._share, self._at = (done / total if total else 0.0), (done, total)
        self._note = note
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=done, total=total)

    def _open(self, name: str) -> None:
        if self._bars is not None:
            self._bar = self._bars.add_task(f"  {name}", total=None, said=self._said_of_stage)
        elif self._verbose:
            self.say(f"{name} ...")

    def _close(self, name: str, seconds: float) -> None:
        self._schedule.leave(seconds)
        if self._bars is not None and self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None
            if self._verbose:
                self.say(self._line(name, seconds))
        elif self._console is not None:
            self._console.print(Text(terminal(self._line(name, seconds))))

    def _line(self, name: str, seconds: float) -> str:
        """A stage that is done, in a line."""
        about = [f"{self._at[1]:,} {self._unit}"] if self._unit and self._at[1] and self._unit != "%" else []
        about += [self._note] if self._note else []
        if self._schedule.known:
            about.append(f"about {duration(self._schedule.left())} left")
        return ", ".join([f"{name}: {seconds:.1f} s", *about])

    def _said_of_stage(self) -> str:
        done, total = self._at
        elapsed = time.perf_counter() - self._begin
        if not total:
            return duration(elapsed)
        count = f"{100 * done / total:.0f}%" if self._unit == "%" else f"{done:,}/{total:,} {self._unit}".rstrip()
        return f"{count}, {self._note}" if self._note else count

    def _said_of_all(self) -> str:
        elapsed = time.perf_counter() - self._begin if self._depth else 0.0
        share = self._schedule.share(elapsed, self._share)
        if self._bars is not None and self._whole is not None:
            # It never goes back, whatever turns out to take longer.
            before = next((task.completed for task in self._bars.tasks if task.id == self._whole), 0.0)
            self._bars.update(self._whole, completed=max(before, _WHOLE * share))
        return f"about {duration(self._schedule.left(elapsed, self._share))} left"


@contextmanager
def stages(show: bool, *, verbose: bool = False) -> Iterator[Stages]:
    """The stages of one run; shown on stderr if `show`, with more lines if `verbose`."""
    if not show:
        yield Stages()
        return
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        yield Stages(None, console, verbose=verbose)
        return
    with Progress(TextColumn("{task.description:<18}"), BarColumn(), _Said(), console=console) as bars:
        yield Stages(bars, verbose=verbose)
