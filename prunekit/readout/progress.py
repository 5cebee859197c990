"""Stages of a selection: progress reports and durations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prunekit.readout.choice import STAGES, Progress


class StageTimer:
    """Timer of named stages, which also reports their progress.

    Attributes
    ----------
    seconds : dict of str to float
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Report and time one stage."""
        if self._progress is not None:
            self._progress(name, STAGES.index(name), len(STAGES))
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
