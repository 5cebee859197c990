"""An analysis as one HTML page, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from prunekit import __version__
from prunekit.analyzers.base import AnalyzerResult
from prunekit.report.plots import draw
from prunekit.report.tables import plain_text
from prunekit.validation.templates import render


@dataclass(frozen=True, eq=False)
class Section:
    """Result of one analyzer, with its heading."""

    name: str
    title: str
    result: AnalyzerResult


@dataclass(frozen=True, eq=False)
class Page:
    """Contents of the page of an analysis.

    Attributes
    ----------
    title : str
        Model and data.
    about : str
        Task, rows, pooling, seed.
    sections : tuple of Section
    skipped : {name: reason}
        Analyzers that could not run on the given inputs.
    notes : tuple of str
        Decisions taken while reading the inputs.
    machine : str
        Processor, versions, and the time of each stage.
    """

    title: str
    about: str
    sections: tuple[Section, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    machine: str


def analysis_html(shown: Page) -> str:
    """Return the page: first the summary of every analyzer, then the figures."""
    return render(
        "report/analysis.html.jinja",
        page=shown,
        title=shown.title,
        notes=(*shown.notes, *_skipped(shown)),
        draw=draw,
        version=__version__,
    )


def print_analysis(shown: Page) -> None:
    """Print the summary of every analyzer on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    plain = not console.encoding.startswith("utf")
    console.print(plain_text(shown.title, plain, "bold"))
    for section in shown.sections:
        console.print()
        console.print(plain_text(section.title, plain, "bold"))
        for line in section.result.summary():
            console.print(plain_text(f"  {line}", plain))
    for line in _skipped(shown):
        console.print(plain_text(f"\n{line}", plain, "dim"))


def _skipped(shown: Page) -> tuple[str, ...]:
    return tuple(f"not run: {name}, {reason}" for name, reason in shown.skipped.items())
