"""What analyzers show, drawn as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from prunekit.analyzers.figures import Bars, Curves, Dendrogram, Figure, Heatmap, Series, Table
from prunekit.report.page import table
from prunekit.report.svg import line, scale, text, ticks

_WIDTH = 560
#: Colours of curves and parts; more of them than this are drawn in the last one.
COLOURS = 8
_FEW = 3  # parts of a bar that differ by colour, and whose first is written out
_CELL_LOW, _CELL_HIGH = 17, 40
_CELL_NUMBER = 30  # a cell of this width has room for its number


def draw(figure: Figure) -> str:
    """One figure as HTML: its title, the drawing, and the sentence that says how to read it."""
    if isinstance(figure, Table):
        body = table(figure, caption=False)
    elif isinstance(figure, Heatmap):
        body = _heatmap(figure)
    elif isinstance(figure, Curves):
        body = _curves(figure)
    elif isinstance(figure, Bars):
        body = _bars(figure)
    else:
        body = _dendrogram(figure)
    return f"<figure><h3>{escape(figure.title)}</h3>{body}<figcaption>{escape(figure.note)}</figcaption></figure>"


def _svg(width: float, height: float, body: str, title: str, smallest: float) -> str:
    """A drawing at its natural size, or somewhat larger or smaller where the page is."""
    style = f"max-width:{1.12 * width:.0f}px;min-width:{smallest:.0f}px"
    label = escape(title, quote=True)
    return f'<div class="scroll"><svg viewBox="0 0 {width:g} {height:g}" style="{style}" role="img" aria-label="{label}">{body}</svg></div>'


def _turned(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="tick" text-anchor="middle" transform="rotate(-90 {x:.1f} {y:.1f})">{escape(words)}</text>'


def _heatmap(figure: Heatmap) -> str:
    rows, columns = figure.values.shape
    cell = min(_CELL_HIGH, max(_CELL_LOW, (_WIDTH - 80) / max(rows, columns)))
    left = 34 + 7 * max(map(len, figure.rows))
    # Names of columns stand upright where the cells are narrower than they are.
    longest = 7 * max(map(len, figure.columns))
    upright = longest > cell
    bottom = cell * rows
    every = 1 if upright or cell >= 22 else 2
    parts = []
    for i in range(rows):
        parts.append(text(left - 8, (i + 0.5) * cell + 4, figure.rows[i], "tick", "end"))
        parts += [_cell(figure, i, j, left + j * cell, i * cell, cell) for j in range(columns)]
    for j in range(0, columns, every):
        x = left + (j + 0.5) * cell
        if upright:
            place = f'x="{x + 4:.1f}" y="{bottom + 8:.1f}" transform="rotate(-90 {x + 4:.1f} {bottom + 8:.1f})"'
            parts.append(f'<text {place} class="tick" text-anchor="end">{escape(figure.columns[j])}</text>')
        else:
            parts.append(text(x, bottom + 17, figure.columns[j], "tick", "middle"))
    for cut in figure.cuts:
        at = cut * cell
        parts += [line(left, at, left + columns * cell, at, "cut"), line(left + at, 0, left + at, bottom, "cut")]
    below = bottom + (longest + 12 if upright else 24)
    parts.append(text(left + columns * cell / 2, below + 14, figure.x, "tick", "middle"))
    parts.append(_turned(12, bottom / 2, figure.y))
    width = max(left + columns * cell + 2, left + 130 + 6.6 * len(figure.unit), 300)
    parts.append(_key(figure, left, below + 30))
    return _svg(width, below + 66, "".join(parts), figure.title, min(width, 300 if cell < _CELL_NUMBER else 0.9 * width))


def _cell(figure: Heatmap, i: int, j: int, x: float, y: float, cell: float) -> str:
    value = float(figure.values[i, j])
    said = f"{figure.y} {figure.rows[i]}, {figure.x} {figure.columns[j]}: "
    box = f'x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}"'
    if math.isnan(value):
        return f'<rect {box} class="blank"><title>{escape(said)}not defined</title></rect>'
    css, full = _heat(figure, value)
    shown = f"{round(value, figure.digits) + 0.0:.{figure.digits}f}"  # no -0.00
    drawn = f'<rect {box} class="{css}" fill-opacity="{full:.3f}"><title>{escape(said + shown)}</title></rect>'
    if cell >= _CELL_NUMBER:
        drawn += text(x + (cell - 1) / 2, y + cell / 2 + 4, shown, "number over" if full > 0.62 else "number", "middle")
    return drawn


def _heat(figure: Heatmap, value: float) -> tuple[str, float]:
    """Colour and opacity of a value: pale is the lowest, or 0 where values have two signs, each with a colour of its own."""
    if figure.low >= 0:
        return "heat", min(1.0, max(0.0, (value - figure.low) / (figure.high - figure.low)))
    return "heat below" if value < 0 else "heat", min(1.0, abs(value) / max(-figure.low, figure.high))


def _key(figure: Heatmap, x: float, y: float) -> str:
    """The scale of colours with its ends and its unit."""
    steps, width = 24, 120
    shades = [_heat(figure, figure.low + (at + 0.5) / steps * (figure.high - figure.low)) for at in range(steps)]
    parts = [
        f'<rect x="{x + at * width / steps:.1f}" y="{y:.1f}" width="{width / steps + 0.3:.1f}" height="9" class="{css}"'
        f' fill-opacity="{full:.3f}"/>'
        for at, (css, full) in enumerate(shades)
    ]
    ends = (text(x, y + 23, f"{figure.low:.3g}", "tick"), text(x + width, y + 23, f"{figure.high:.3g}", "tick", "end"))
    return "".join((*parts, *ends, text(x + width + 10, y + 9, figure.unit, "tick")))


def _legend(names: Sequence[str], *, shaded: bool = False) -> str:
    """Names beside their colours, as text that wraps."""
    if len(names) < 2:
        return ""
    shades = [f' style="opacity:{_shade(at, len(names)):.3f}"' if shaded else "" for at in range(len(names))]
    items = "".join(
        f'<span><i class="{_colour(at, shaded)}"{shade}></i>{escape(name)}</span>'
        for at, (name, shade) in enumerate(zip(names, shades, strict=True))
    )
    return f'<p class="legend">{items}</p>'


def _colour(number: int, shaded: bool) -> str:
    return "c0" if shaded else f"c{min(number, COLOURS - 1)}"


def _shade(number: int, parts: int) -> float:
    """Many parts are shades of one colour, from pale to full: they have an order, such as layers."""
    return 0.1 + 0.9 * number / (parts - 1)


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    around = margin * (high - low) or 0.05 * abs(high) or 0.5
    return low - around, high + around


def _percent(value: float) -> str:
    return f"{100 * value:.10g}%"


def _plain(value: float) -> str:
    return f"{value:,.10g}"


def _points(series: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]


def _curves(figure: Curves) -> str:
    left, right, top, height = 58, _WIDTH - 14, 26, 230
    bottom = top + height
    place: Callable[[float], float] = math.log10 if figure.log_x else float
    points = [point for series in figure.series for point in _points(series)]
    if not points:
        return '<p class="muted">nothing to draw</p>'
    ends = [value for series in figure.series for value in (*series.low, *series.high) if math.isfinite(value)]
    levels = [y for _, y in points] + ends + ([] if figure.reference is None else [figure.reference[1]])
    low, high = _range(levels, 0.06)
    everywhere = [x for series in figure.series for x in series.x]
    begin, end = place(min(everywhere)), place(max(everywhere))
    across = scale(begin, end if end > begin else begin + 1, left + 10, right - 10)
    up = scale(low, high, bottom, top)
    show = _percent if figure.percent else _plain
    parts = [text(0, 12, figure.y, "tick")]
    for tick in ticks(low, high):
        parts += [line(left, up(tick), right, up(tick), "grid"), text(left - 8, up(tick) + 4, show(tick), "tick", "end")]
    for tick in _x_ticks(figure, min(everywhere), max(everywhere)):
        at = across(place(tick))
        parts += [line(at, bottom, at, bottom + 5, "axis"), text(at, bottom + 19, _plain(tick), "tick", "middle")]
    parts += [line(left, bottom, right, bottom, "axis"), text((left + right) / 2, bottom + 40, figure.x, "tick", "middle")]
    if figure.reference is not None:
        name, level = figure.reference
        parts.append(line(left, up(level), right, up(level), "reference"))
        # At the end where the first curve is farther away.
        first, last = (abs(_points(figure.series[0])[at][1] - level) for at in (0, -1))
        at, anchor = (left + 4, "start") if first > last else (right, "end")
        parts.append(text(at, up(level) - 6 if up(level) - 18 > top else up(level) + 15, name, "tick halo", anchor))
    for number, series in reversed(list(enumerate(figure.series))):
        parts.append(_curve(series, f"c{min(number, COLOURS - 1)}", lambda x: across(place(x)), up))
    if figure.chosen is not None:
        parts.append(_mark(figure.chosen, across(place(figure.chosen[1])), up(figure.chosen[2]), bottom))
    drawing = _svg(_WIDTH, bottom + 48, "".join(parts), figure.title, 0.82 * _WIDTH)
    return _legend([series.name for series in figure.series]) + drawing


def _curve(series: Series, css: str, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    parts = []
    for x, low, high in zip(series.x, series.low, series.high, strict=False):
        parts.append(line(across(x), up(low), across(x), up(high), f"interval stroke {css}"))
    run: list[str] = []
    for x, y in (*zip(series.x, series.y, strict=True), (0.0, math.nan)):
        if math.isfinite(y):
            run.append(f"{across(x):.1f},{up(y):.1f}")
        elif run:
            parts.append(f'<polyline points="{" ".join(run)}" class="line stroke {css}"/>')
            run = []
    if len(series.x) <= 40:
        for x, y in _points(series):
            said = escape(f"{series.name}: {y:.4g} at {x:.10g}")
            parts.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.2" class="fill {css}"><title>{said}</title></circle>')
    return "".join(parts)


def _mark(chosen: tuple[str, float, float], x: float, y: float, bottom: float) -> str:
    below = y + 26 if y + 34 < bottom else y - 14
    anchor, shift = ("start", 6) if x < 0.55 * _WIDTH else ("end", 4)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" class="chosen"/>' + text(x + shift, below, chosen[0], "figure slim halo", anchor)


def _x_ticks(figure: Curves, low: float, high: float) -> list[float]:
    if figure.log_x:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = (1, 2, 5) if last - first <= 3 else (1,)
        return [tick for power in range(first, last + 1) for factor in every if low <= (tick := factor * 10.0**power) <= high] or [low]
    if figure.whole_x:
        step = max(1, math.ceil((high - low) / 13))
        return [float(tick) for tick in range(math.ceil(low), math.floor(high) + 1, step)]
    return ticks(low, high) if high > low else [low]


def _bars(figure: Bars) -> str:
    left = 14 + 7.2 * max(map(len, figure.rows))
    row, thick = 25, 14
    right, bottom = _WIDTH - 62, row * len(figure.rows) + 4
    totals = [sum(values) for values in figure.values]
    show, shaded = _percent if figure.percent else _plain, len(figure.parts) > _FEW
    across = scale(0.0, max(*totals, 1e-12), left, right)
    parts = []
    for tick in ticks(0.0, max(*totals, 1e-12)):
        parts += [line(across(tick), 0, across(tick), bottom, "grid"), text(across(tick), bottom + 17, show(tick), "tick", "middle")]
    for at, (name, values) in enumerate(zip(figure.rows, figure.values, strict=True)):
        y, start = row * at + 5, 0.0
        parts.append(text(left - 8, y + thick - 2, name, "label", "end"))
        for number, value in enumerate(values):
            said = escape(f"{name}, {figure.parts[number]}: {value:.4g}")
            width = across(start + value) - across(start)
            box = f'x="{across(start):.1f}" y="{y}" width="{width:.1f}" height="{thick}"'
            opacity = f' fill-opacity="{_shade(number, len(values)):.3f}"' if shaded else ""
            parts.append(f'<rect {box} class="fill {_colour(number, shaded)}"{opacity}><title>{said}</title></rect>')
            start += value
        # Of two or three parts the first is the one to look at; of more, none is.
        if len(values) <= 3:
            shown = f"{100 * values[0]:.1f}%" if figure.percent else f"{values[0]:,.4g}"
            parts.append(text(_WIDTH, y + thick - 2, shown, "figure", "end"))
    parts.append(text((left + right) / 2, bottom + 38, figure.unit, "tick", "middle"))
    return _legend(figure.parts, shaded=shaded) + _svg(_WIDTH, bottom + 46, "".join(parts), figure.title, 0.82 * _WIDTH)


def _dendrogram(figure: Dendrogram) -> str:
    m, row = len(figure.leaves), 19
    left = 14 + 6.6 * max(map(len, figure.leaves))
    order = _leaf_order(figure, m)
    heights = np.concatenate([np.zeros(m), figure.heights])
    places = np.zeros(2 * m - 1)
    places[order] = row * (np.arange(m) + 0.5)
    bottom = row * m + 6
    across = scale(0.0, max(float(heights.max()), 1e-12), left, _WIDTH - 14)
    parts = [
        part
        for tick in ticks(0.0, max(float(heights.max()), 1e-12))
        for part in (line(across(tick), 0, across(tick), bottom, "grid"), text(across(tick), bottom + 17, _plain(tick), "tick", "middle"))
    ]
    parts += [text(left - 8, places[leaf] + 4, figure.leaves[leaf], "tick", "end") for leaf in range(m)]
    for at, (a, b) in enumerate(figure.merges):
        places[m + at] = (places[a] + places[b]) / 2
        ends = ((heights[a], places[a]), (heights[m + at], places[a]), (heights[m + at], places[b]), (heights[b], places[b]))
        points = " ".join(f"{across(height):.1f},{y:.1f}" for height, y in ends)
        parts.append(f'<polyline points="{points}" class="line stroke c0"/>')
    parts.append(text((left + _WIDTH) / 2, bottom + 38, figure.unit, "tick", "middle"))
    return _svg(_WIDTH, bottom + 46, "".join(parts), figure.title, 0.82 * _WIDTH)


def _leaf_order(figure: Dendrogram, m: int) -> list[int]:
    """Leaves from top to bottom, so that no two branches cross."""
    members: list[list[int]] = [[leaf] for leaf in range(m)]
    for a, b in figure.merges:
        members.append(members[a] + members[b])
    return members[-1]
