"""Which stage a run is in: bars with rate and time left on a terminal, one line a stage elsewhere; seconds in any case."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from prunekit.validation.escape import terminal


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Bar) -> Text:
        """Steps a second, of the last steps."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None or not task.total else f"{speed:,.0f}/s", style="progress.data.speed")


class Stages:
    """Enter a stage with ``with stage("collect"):``; inside, `step` moves its bar.

    Attributes
    ----------
    seconds : dict
        {stage: seconds} of the stages left.
    """

    def __init__(self, bars: Progress | None, console: Console | None) -> None:
        self.seconds: dict[str, float] = {}
        self._bars, self._console = bars, console
        self._bar: TaskID | None = None
        self._name = ""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a stage, and show it."""
        begin = time.perf_counter()
        self._name = name
        if self._bars is not None:
            self._bar = self._bars.add_task(name, total=None)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        if self._bars is not None and self._bar is not None:
            bar = next(task for task in self._bars.tasks if task.id == self._bar)
            self._bars.update(self._bar, total=bar.total or 1, completed=bar.total or 1)
            self._bar = None
        elif self._console is not None:
            self._console.print(f"{name}: {self.seconds[name]:.1f} s")

    def say(self, line: str) -> None:
        """A line between the stages."""
        console = self._bars.console if self._bars is not None else self._console
        if console is not None:
            console.print(Text(terminal(line)))

    def step(self, done: int, total: int, note: str = "") -> None:
        """So much of the stage is done; `note` stands beside its name."""
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=done, total=total, description=f"{self._name}, {note}" if note else self._name)


@contextmanager
def stages(show: bool) -> Iterator[Stages]:
    """The stages of one run; shown on stderr if `show`."""
    if not show:
        yield Stages(None, None)
        return
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        yield Stages(None, console)
        return
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        yield Stages(bars, None)
