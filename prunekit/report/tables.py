"""The report for a terminal and as Markdown."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from prunekit.analyzers.figures import Table
from prunekit.report import words
from prunekit.report.model import Report
from prunekit.validation.escape import terminal
from prunekit.validation.templates import render

_ASCII = str.maketrans({"×": "x", "–": "-", "≤": "<=", "’": "'", "·": ".", **{chr(0x2580 + level): str(level) for level in range(1, 9)}})
_PIPE_COLUMNS = 100


def render_terminal(report: Report, console: Console | None = None) -> None:
    """Print the report; 80 columns suffice, and a pipe receives plain text only.

    Parameters
    ----------
    report : Report
    console : rich.console.Console, optional
        Default: standard output.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width; at 80 columns long names would be folded without need.
        console = Console(file=console.file, width=max(console.width, _PIPE_COLUMNS), highlight=False, color_system=None)
    plain = not console.encoding.startswith("utf")
    console.print(plain_text(report.verdict, plain, "bold"))
    console.print(plain_text(f"{report.model} on {report.data}: {words.headline(report)}.", plain, "bold"))
    for table in _tables(report):
        if table.rows:
            console.print()
            console.print(_rich(table, plain))
    console.print()
    console.print(plain_text(f"{words.parity(report)} Plan {report.plan_digest[:12]}.", plain, "dim"))


def _rich(table: Table, plain: bool) -> RichTable:
    title = plain_text(table.title, plain, "bold")
    rich_table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for at, name in enumerate(table.header):
        rich_table.add_column(plain_text(name, plain), justify="right" if at else "left", no_wrap=bool(at), overflow="fold")
    for at, row in enumerate(table.rows):
        rich_table.add_row(*(plain_text(cell, plain) for cell in row), style="bold" if at == table.strong else None)
    return rich_table


def plain_text(text: str, plain: bool, style: str = "") -> Text:
    """Return text without markup, for a model may be called [anything]; ASCII where the terminal encodes nothing else."""
    shown = "\n".join(map(terminal, text.split("\n")))
    return Text(shown.translate(_ASCII) if plain else shown, style)


def _tables(report: Report) -> tuple[Table, ...]:
    """Return all tables, some of which may be empty."""
    builders = (
        words.scores,
        words.paired,
        words.vectors,
        words.retrieval,
        words.dimensions,
        words.sizes,
        words.blocks,
        words.files,
        words.latency,
        words.budgets,
        words.frontier,
    )
    return tuple(build(report) for build in builders)


def to_markdown(report: Report) -> str:
    """Render the report as GitHub-flavoured Markdown."""
    return render("report/report.md.jinja", report=report, words=words, tables=_tables(report), stages=stages(report))


def stages(report: Report) -> Table:
    """Tabulate the seconds of each stage."""
    return Table("Time", ("stage", "seconds"), tuple((name, f"{seconds:.1f}") for name, seconds in report.stages.items()))
