"""The report as one HTML page: nothing is fetched, it prints well, and it follows the reader's light or dark."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

import re
from html import escape
from xml.sax.saxutils import quoteattr

from prunekit import __version__
from prunekit.report import figures, words
from prunekit.report.model import Report
from prunekit.report.tables import stages
from prunekit.report.words import Table

_STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c1f23; --muted: #5d646d; --rule: #e3e4df; --soft: #f2f3ee;
  --slim: #0b6e69; --slim-soft: #cfe5e2; --dense: #6b7280; --other: #a2a7ae; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --ink: #e7e8e5; --muted: #9aa2ab; --rule: #2b3036; --soft: #1c2024;
  --slim: #5fcfc4; --slim-soft: #1d4744; --dense: #a5adb8; --other: #6b737d; --bad: #ff8a80; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 51rem; margin: 0 auto; padding: 3.5rem 1.5rem 4rem; }
header p { margin: 0; }
.eyebrow { color: var(--slim); font-size: .8125rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; margin: .35rem 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.125rem; font-weight: 650; letter-spacing: -.005em; margin: 3rem 0 .25rem; }
h2 + p { margin-top: 0; }
p { margin: .5rem 0 1rem; }
.muted, .muted p { color: var(--muted); }
code { font: .875em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 2rem 0 0; background: var(--rule);
  border: 1px solid var(--rule); border-radius: .6rem; overflow: hidden; }
.tile { flex: 1 1 8.6rem; background: var(--paper); padding: 1.1rem 1.1rem 1rem; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.15; font-weight: 640; letter-spacing: -.025em; white-space: nowrap; }
.tile span { display: block; color: var(--muted); font-size: .8125rem; line-height: 1.4; margin-top: .3rem; }
.tile.first b { color: var(--slim); }
figure { margin: 1rem 0 .5rem; overflow-x: auto; }
svg { display: block; width: 100%; min-width: 34rem; height: auto;
  font: 13px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg text { fill: var(--ink); }
svg .tick { fill: var(--muted); font-size: 12px; }
svg .figure { font-variant-numeric: tabular-nums; }
svg .label.slim, svg .figure.slim { fill: var(--slim); font-weight: 650; }
svg .label.other, svg .figure.other { fill: var(--muted); }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 5px; stroke-linejoin: round; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--dense); } svg .reference { stroke: var(--dense); stroke-dasharray: 3 3; }
svg .whisker { stroke-width: 2.5; stroke-linecap: round; stroke: var(--other); } svg .dot { fill: var(--other); }
svg .whisker.slim { stroke: var(--slim); } svg .dot.slim { fill: var(--slim); }
svg .whisker.dense { stroke: var(--dense); } svg .dot.dense { fill: var(--dense); }
svg .curve { fill: none; stroke: var(--slim); stroke-width: 2; stroke-linejoin: round; }
svg .chosen { fill: none; stroke: var(--slim); stroke-width: 2; }
svg .bar.whole { fill: var(--soft); } svg .bar.slim { fill: var(--slim); }
.scroll { overflow-x: auto; margin: 1rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.4; }
caption { text-align: left; color: var(--muted); padding-bottom: .4rem; }
th, td { text-align: right; padding: .42rem 0 .42rem 1.1rem; border-bottom: 1px solid var(--rule);
  white-space: nowrap; vertical-align: baseline; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--muted); font-weight: 500; border-bottom-color: var(--dense); }
tr.strong td { font-weight: 650; color: var(--slim); }
td.bad { color: var(--bad); font-weight: 650; }
ul { padding-left: 1.1rem; margin: .5rem 0; } li { margin: .3rem 0; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); font-size: .8125rem; color: var(--muted); }
@media (max-width: 34rem) { main { padding-top: 2rem; } h1 { font-size: 1.6rem; } }
@media print { main { max-width: none; padding: 0; } h2, figure, .scroll { break-inside: avoid; } }
"""


def to_html(report: Report) -> str:
    """The report as a page of its own, with figures as inline SVG."""
    title = f"{report.model} on {report.data}"
    sections = [_head(report, title)]
    if report.rows:
        sections.append(_section("What the task needs", words.scores(report), figures.scores(report), _scores_note(report)))
    if len({point.neurons for point in report.trace}) > 1:
        note = "Each point is one step of the search; the number of neurons is on a logarithmic scale."
        sections.append(_section("How many neurons", None, figures.trace(report), note))
    sections.append(_section("What is left of the model", words.sizes(report), figures.kept(report), _sizes_note(report)))
    if report.latency:
        note = "Dense and slim took turns on the same batches of the data’s real lengths. A speed of 2× takes half the time."
        sections.append(_section("How fast it is", words.latency(report), figures.speeds(report), note))
    if report.budgets:
        sections.append(f"<h2>Budgets</h2>{_table(words.budgets(report), caption=False)}")
    sections.append(_end(report))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} · prunekit</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: Report, title: str) -> str:
    tiles = "".join(
        f"<div class={quoteattr('tile first' if at == 0 else 'tile')}><b>{escape(value)}</b><span>{_unbroken(escape(label))}</span></div>"
        for at, (value, label) in enumerate(words.tiles(report))
    )
    what = f"{report.kind.value.replace('-', ' ')}" + (f", {report.classes} classes" if report.classes else "")
    return (
        f'<header><p class="eyebrow">prunekit report</p><h1>{escape(title)}</h1>'
        f'<p class="muted">{escape(what)} · plan <code>{escape(report.plan_digest[:12])}</code> · seed {report.seed}</p></header>\n'
        f'<div class="tiles">{tiles}</div>'
    )


def _unbroken(text: str) -> str:
    """Keep numbers and their units on one line."""
    return re.sub(r"(?<=[0-9]) (?=[kMGT]?B?\b|ms\b)", "\u00a0", text)


def _section(title: str, table: Table | None, figure: str, note: str) -> str:
    shown = "" if table is None else _table(table)
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


def _table(table: Table, *, caption: bool = True) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    body = "".join(_table_row(row, strong=at == table.strong) for at, row in enumerate(table.rows))
    title = f"<caption>{escape(table.title)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table_row(cells: tuple[str, ...], *, strong: bool) -> str:
    opened = '<tr class="strong">' if strong else "<tr>"
    return (
        opened
        + "".join(f'<td class="bad">{cell}</td>' if cell == words.NOT_MET else f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
    )


def _end(report: Report) -> str:
    said = "".join(f"<li>{escape(line)}</li>" for line in (words.parity(report), *words.method(report)))
    parts = [f"<h2>How it was measured</h2><ul>{said}</ul>"]
    if report.stages:
        parts.append(_table(stages(report)))
    parts.append(
        f"<footer><p>{escape(words.machine(report))}</p>"
        f"<p>Plan <code>{escape(report.plan_digest)}</code>. prunekit {__version__}.</p></footer>"
    )
    return "\n".join(parts)
