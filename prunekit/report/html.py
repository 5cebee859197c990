"""The report as one HTML page: nothing is fetched, it prints well, and it follows the reader's light or dark."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

import re
from html import escape
from xml.sax.saxutils import quoteattr

from prunekit import __version__
from prunekit.analyzers.figures import Table
from prunekit.report import figures, words
from prunekit.report.model import Report
from prunekit.report.page import page, table
from prunekit.report.tables import stages


def to_html(report: Report) -> str:
    """The report as a page of its own, with figures as inline SVG."""
    title = f"{report.model} on {report.data}"
    sections = [_head(report, title)]
    if report.rows:
        sections.append(_section("What the task needs", words.scores(report), figures.scores(report), _scores_note(report)))
        if report.paired:
            sections.append(table(words.paired(report)))
    if len({point.neurons for point in report.trace}) > 1:
        note = "Each point is one step of the search; the number of neurons is on a logarithmic scale."
        sections.append(_section("How many neurons", None, figures.trace(report), note))
    sections.append(_section("What is left of the model", words.sizes(report), figures.kept(report), _sizes_note(report)))
    if words.files(report).rows:
        sections.append(f"<h2>Precision</h2>{table(words.files(report))}")
    if report.latency:
        note = "Dense and slim took turns on the same batches of the data’s real lengths. A speed of 2× takes half the time."
        sections.append(_section("How fast it is", words.latency(report), figures.speeds(report), note))
    if report.frontier:
        note = "Each point is a plan in the folder frontier for prunekit apply --plan. Scores are those of the validation split."
        sections.append(_section("What else could be had", words.frontier(report), figures.frontier(report), note))
    if report.budgets:
        sections.append(f"<h2>Budgets</h2>{table(words.budgets(report), caption=False)}")
    sections.append(_end(report))
    return page(title, sections)


def _head(report: Report, title: str) -> str:
    tiles = "".join(
        f"<div class={quoteattr('tile first' if at == 0 else 'tile')}><b>{escape(value)}</b><span>{_unbroken(escape(label))}</span></div>"
        for at, (value, label) in enumerate(words.tiles(report))
    )
    what = f"{report.kind.value.replace('-', ' ')}" + (f", {report.classes} classes" if report.classes else "")
    return (
        f'<header><p class="eyebrow">prunekit report</p><h1>{escape(title)}</h1>'
        f'<p class="muted">{escape(what)} · plan <code>{escape(report.plan_digest[:12])}</code> · seed {report.seed}</p></header>\n'
        f"<p><strong>{escape(report.verdict)}</strong></p>"
        f'<div class="tiles">{tiles}</div>'
    )


def _unbroken(text: str) -> str:
    """Keep numbers and their units on one line."""
    return re.sub(r"(?<=[0-9]) (?=[kMGT]?B?\b|ms\b)", "\u00a0", text)


def _section(title: str, numbers: Table | None, figure: str, note: str) -> str:
    shown = "" if numbers is None else table(numbers)
    return f'<h2>{escape(title)}</h2><p class="muted">{escape(note)}</p><figure>{figure}</figure>{shown}'


def _scores_note(report: Report) -> str:
    names = {row.name for row in report.rows}
    parts = []
    if "oracle" in names:
        parts.append("The oracle is a probe on every neuron of every layer.")
    if {"random", "magnitude"} & names:
        parts.append("As many neurons taken at random, or those of the largest probe weights, show what the choice itself is worth.")
    return " ".join(parts) or "More is better; the lines are 95% confidence intervals over the draw of the rows."


def _sizes_note(report: Report) -> str:
    return f"MACs are multiply-accumulates for one row at the data’s real lengths, {report.mean_length:.1f} tokens on average."


def _end(report: Report) -> str:
    said = "".join(f"<li>{escape(line)}</li>" for line in (words.parity(report), *words.method(report)))
    parts = [f"<h2>How it was measured</h2><ul>{said}</ul>"]
    if report.stages:
        parts.append(table(stages(report)))
    parts.append(
        f"<footer><p>{escape(words.machine(report.environment))}</p>"
        f"<p>Plan <code>{escape(report.plan_digest)}</code>. prunekit {__version__}.</p></footer>"
    )
    return "\n".join(parts)
