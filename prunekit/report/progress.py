"""Progress of a run: a bar for the total, beneath it one for the stage in its own unit; without a terminal, a line for each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.progress import Task as Bar
from rich.text import Text

from prunekit.report.time_left import Expected, TimeLeft, duration
from prunekit.validation.escape import terminal

#: Steps of the bar for the total.
_TOTAL = 1000


class _BarText(ProgressColumn):
    """Column with the current text of a bar."""

    def render(self, task: Bar) -> Text:
        """Return the text of the bar's own function."""
        return Text(task.fields["text"]())


class Stages:
    """Stages of a run, timed and shown.

    Enter one with ``with stage("read train", unit="rows"):``; inside, `step` moves its bar. A stage within another is part of it.

    Attributes
    ----------
    seconds : dict
        {stage: seconds} of the finished stages.
    """

    def __init__(self, bars: Progress | None = None, console: Console | None = None, *, verbose: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._bars, self._console, self._verbose = bars, console, verbose
        self._time_left = TimeLeft()
        self._total_bar: TaskID | None = None
        self._stage_bar: TaskID | None = None
        self._depth = 0
        self._begin = 0.0
        self._share, self._note, self._unit, self._steps = 0.0, "", "", (0, 0)

    @property
    def shown(self) -> bool:
        """Whether anything is printed."""
        return self._bars is not None or self._console is not None

    def expect(self, stages: Sequence[Expected]) -> None:
        """Set the stages to come, so that the time left is known; where there is no bar, print the total once."""
        behind = self._time_left.behind
        self._time_left = TimeLeft(stages)
        self._time_left.behind = behind
        if self._verbose:
            for stage in stages:
                self.say(f"expected: {stage.name}, {duration(stage.seconds)}{' at most' if stage.bounded else ''}")
        if self._bars is not None:
            self._total_bar = self._bars.add_task("in all", total=_TOTAL, text=self._total_text)
        elif self._console is not None:
            self._console.print(f"this takes about {duration(self._time_left.seconds())}")

    @contextmanager
    def __call__(self, name: str, unit: str = "") -> Iterator[None]:
        """Time a stage, and show it."""
        begin = time.perf_counter()
        outer = self._depth == 0
        self._depth += 1
        if outer:
            self._begin, self._unit, self._note, self._share, self._steps = begin, unit, "", 0.0, (0, 0)
            self._time_left.enter(name)
            self._open(name)
        try:
            yield
        finally:
            self._depth -= 1
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        if outer:
            self._close(name, time.perf_counter() - begin)

    def say(self, line: str) -> None:
        """Print a line between the stages."""
        console = self._bars.console if self._bars is not None else self._console
        if console is not None:
            console.print(Text(terminal(line)))

    def detail(self, line: str) -> None:
        """Print a line between the stages, in verbose mode only."""
        if self._verbose:
            self.say(line)

    def step(self, done: int, total: int, note: str = "") -> None:
        """Record that `done` of `total` steps of the stage are done, with a note; a stage within another does not move the bar."""
        if self._depth > 1:
            return
        self._share, self._steps = (done / total if total else 0.0), (done, total)
        self._note = note
        if self._bars is not None and self._stage_bar is not None:
            self._bars.update(self._stage_bar, completed=done, total=total)

    def _open(self, name: str) -> None:
        if self._bars is not None:
            self._stage_bar = self._bars.add_task(f"  {name}", total=None, text=self._stage_text)
        elif self._verbose:
            self.say(f"{name} ...")

    def _close(self, name: str, seconds: float) -> None:
        self._time_left.leave(seconds)
        if self._bars is not None and self._stage_bar is not None:
            self._bars.remove_task(self._stage_bar)
            self._stage_bar = None
            if self._verbose:
                self.say(self._line(name, seconds))
        elif self._console is not None:
            self._console.print(Text(terminal(self._line(name, seconds))))

    def _line(self, name: str, seconds: float) -> str:
        """Return the line of a finished stage."""
        details = [f"{self._steps[1]:,} {self._unit}"] if self._unit and self._steps[1] and self._unit != "%" else []
        details += [self._note] if self._note else []
        if self._time_left.known:
            details.append(f"about {duration(self._time_left.seconds())} left")
        return ", ".join([f"{name}: {seconds:.1f} s", *details])

    def _stage_text(self) -> str:
        done, total = self._steps
        elapsed = time.perf_counter() - self._begin
        if not total:
            return duration(elapsed)
        count = f"{100 * done / total:.0f}%" if self._unit == "%" else f"{done:,}/{total:,} {self._unit}".rstrip()
        return f"{count}, {self._note}" if self._note else count

    def _total_text(self) -> str:
        elapsed = time.perf_counter() - self._begin if self._depth else 0.0
        share = self._time_left.share(elapsed, self._share)
        if self._bars is not None and self._total_bar is not None:
            # The bar never moves back, even where stages take longer than expected.
            before = next((task.completed for task in self._bars.tasks if task.id == self._total_bar), 0.0)
            self._bars.update(self._total_bar, completed=max(before, _TOTAL * share))
        return f"about {duration(self._time_left.seconds(elapsed, self._share))} left"


@contextmanager
def stages(show: bool, *, verbose: bool = False) -> Iterator[Stages]:
    """Yield the stages of one run; shown on stderr if `show`, with more lines if `verbose`."""
    if not show:
        yield Stages()
        return
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        yield Stages(None, console, verbose=verbose)
        return
    with Progress(TextColumn("{task.description:<18}"), BarColumn(), _BarText(), console=console) as bars:
        yield Stages(bars, verbose=verbose)
