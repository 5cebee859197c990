"""The frame of every page: nothing is fetched, it prints well, and it follows the reader's light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from prunekit.analyzers.figures import Table
from prunekit.report.words import NOT_MET

_LONG = 40  # characters of a table's cell that may be broken
_STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c1f23; --muted: #5d646d; --rule: #e3e4df; --soft: #f2f3ee;
  --slim: #0b6e69; --slim-soft: #cfe5e2; --dense: #6b7280; --other: #a2a7ae; --bad: #b3261e; --shadow: #00000030;
  --c1: #b45f06; --c2: #5b4fb3; --c3: #a02c5a; --c4: #3d7a1f; --c5: #2b6cb0; --c6: #8a6d00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --ink: #e7e8e5; --muted: #9aa2ab; --rule: #2b3036; --soft: #1c2024;
  --slim: #5fcfc4; --slim-soft: #1d4744; --dense: #a5adb8; --other: #6b737d; --bad: #ff8a80; --shadow: #ffffff38;
  --c1: #f0a35e; --c2: #a99ef5; --c3: #f08bb4; --c4: #8fce6b; --c5: #7fb4ee; --c6: #d9c04a; } }
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
a { color: var(--slim); }
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
svg .heat { fill: var(--slim); } svg .heat.below { fill: var(--c1); }
svg .blank { fill: var(--soft); } svg .cut { stroke: var(--ink); stroke-width: 1.5; }
svg .number { font-size: 11.5px; } svg .number.over { fill: var(--paper); }
.c0 { --c: var(--slim); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--other); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .stroke { stroke: var(--c); } svg .fill { fill: var(--c); }
svg .interval { stroke-width: 1.5; opacity: .55; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .3rem 0 .2rem; color: var(--muted); font-size: .8125rem; }
.legend i { display: inline-block; width: .9em; height: .6em; margin-right: .45em; border-radius: 2px; background: var(--c); }
h3 { font-size: .9375rem; font-weight: 620; margin: 1.6rem 0 .3rem; }
figcaption { color: var(--muted); font-size: .875rem; max-width: 44rem; }
figure .scroll { margin: .4rem 0; }
/* What goes on beyond an edge throws a shadow there, which its own end covers. */
.scroll { overflow-x: auto; margin: 1rem 0 .5rem; background:
    linear-gradient(90deg, var(--paper) 40%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(270deg, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(90deg, var(--shadow), transparent) left / .8rem 100% no-repeat scroll,
    linear-gradient(270deg, var(--shadow), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.4; }
caption { text-align: left; color: var(--muted); padding-bottom: .4rem; }
th, td { text-align: right; padding: .42rem 0 .42rem 1.1rem; border-bottom: 1px solid var(--rule);
  white-space: nowrap; vertical-align: baseline; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--muted); font-weight: 500; border-bottom-color: var(--dense); white-space: normal; }
td.long { white-space: normal; min-width: 11rem; padding-left: 2rem; }
tr.strong td { font-weight: 650; color: var(--slim); }
td.bad { color: var(--bad); font-weight: 650; }
ul { padding-left: 1.1rem; margin: .5rem 0; } li { margin: .3rem 0; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); font-size: .8125rem; color: var(--muted); }
@media (max-width: 34rem) { main { padding-top: 2rem; } h1 { font-size: 1.6rem; } }
@media print { main { max-width: none; padding: 0; } h2, figure, .scroll { break-inside: avoid; } }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A self-contained HTML page."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} · prunekit</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(numbers: Table, *, caption: bool = True) -> str:
    """A table; what a budget misses is marked."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in numbers.header)
    body = "".join(_table_row(row, strong=at == numbers.strong) for at, row in enumerate(numbers.rows))
    title = f"<caption>{escape(numbers.title)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table_row(cells: tuple[str, ...], *, strong: bool) -> str:
    opened = '<tr class="strong">' if strong else "<tr>"
    return opened + "".join(_table_cell(cell) for cell in cells) + "</tr>"


def _table_cell(cell: str) -> str:
    css = ' class="bad"' if cell == NOT_MET else ' class="long"' if len(cell) > _LONG else ""
    return f"<td{css}>{escape(cell)}</td>"
