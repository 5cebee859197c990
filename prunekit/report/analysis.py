"""An analysis as one HTML page, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from rich.console import Console

from prunekit import __version__
from prunekit.analyzers.base import Result
from prunekit.report.page import page
from prunekit.report.plots import draw
from prunekit.report.tables import plain_text


@dataclass(frozen=True, eq=False)
class Section:
    """What one analyzer found, with its heading."""

    name: str
    title: str
    result: Result


@dataclass(frozen=True, eq=False)
class Page:
    """What an analysis shows.

    Attributes
    ----------
    title : str
        Model and data.
    about : str
        The task, the rows, how they are pooled, the seed.
    sections : tuple of Section
    skipped : {name: why}
        Analyzers that could not run on what was given.
    notes : tuple of str
        What was decided while reading.
    machine : str
        Processor, versions, and where the time went.
    """

    title: str
    about: str
    sections: tuple[Section, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    machine: str


def analysis_html(shown: Page) -> str:
    """The page: first what every analyzer says in a line, then its figures."""
    glance = "".join(
        f'<li><a href="#{section.name}">{escape(section.title)}</a>: {escape(section.result.summary()[0])}</li>'
        for section in shown.sections
    )
    about = f'<p class="muted">{escape(shown.about)}</p>'
    parts = [
        f'<header><p class="eyebrow">prunekit analysis</p><h1>{escape(shown.title)}</h1>{about}</header>',
        f'<h2>At a glance</h2><ul class="glance">{glance}</ul>',
    ]
    for section in shown.sections:
        said = "".join(f"<li>{escape(line)}</li>" for line in section.result.summary())
        parts.append(f'<section id="{section.name}"><h2>{escape(section.title)}</h2><ul>{said}</ul>')
        parts += [draw(figure) for figure in section.result.figures()]
        parts.append("</section>")
    said = "".join(f"<li>{escape(line)}</li>" for line in (*shown.notes, *_skipped(shown)))
    parts.append(f"<h2>How it was measured</h2><ul>{said}</ul>")
    parts.append(f"<footer><p>{escape(shown.machine)}</p><p>prunekit {__version__}.</p></footer>")
    return page(shown.title, parts)


def print_analysis(shown: Page) -> None:
    """What every analyzer says, on standard output."""
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
    return tuple(f"not run: {name}, {why}" for name, why in shown.skipped.items())
