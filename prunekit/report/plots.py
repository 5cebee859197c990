"""Figures of analyzers, drawn as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from prunekit.analyzers.figures import Bars, Curves, Dendrogram, Figure, Heatmap, Series, Table
from prunekit.report.svg import dot, element, line, path, scale, svg, text, ticks, turned
from prunekit.validation.templates import render

_WIDTH = 560
#: Number of colours of curves and parts; those beyond it share the last colour.
COLOURS = 8
_FEW = 3  # most parts of a bar that differ by colour, and whose first value is printed
_CELL_LOW, _CELL_HIGH = 17, 40
_CELL_NUMBER = 30  # narrowest cell that shows its number


def draw(figure: Figure) -> Markup:
    """Return a figure as HTML: its title, the drawing, and the sentence on how to read it."""
    if isinstance(figure, Table):
        drawing = None
    elif isinstance(figure, Heatmap):
        drawing = _heatmap(figure)
    elif isinstance(figure, Curves):
        drawing = _curves(figure)
    elif isinstance(figure, Bars):
        drawing = _bars(figure)
    else:
        drawing = _dendrogram(figure)
    return Markup(render("report/figure.html.jinja", figure=figure, drawing=drawing, missed=None))


def _svg(width: float, height: float, parts: list[Markup], title: str, smallest: float) -> Markup:
    """Return a drawing at its natural size, or somewhat larger or smaller to fit the page."""
    style = f"max-width:{1.12 * width:.0f}px;min-width:{smallest:.0f}px"
    return element("div", svg(width, height, parts, title, style=style), class_="scroll")


def _heatmap(figure: Heatmap) -> Markup:
    rows, columns = figure.values.shape
    cell = min(_CELL_HIGH, max(_CELL_LOW, (_WIDTH - 80) / max(rows, columns)))
    left = 34 + 7 * max(map(len, figure.rows))
    # Column names are rotated where they are wider than the cells.
    longest = 7 * max(map(len, figure.columns))
    rotated = longest > cell
    bottom = cell * rows
    step = 1 if rotated or cell >= 22 else 2
    parts = []
    for i in range(rows):
        parts.append(text(left - 8, (i + 0.5) * cell + 4, figure.rows[i], "tick", "end"))
        parts += [part for j in range(columns) for part in _cell(figure, i, j, left + j * cell, i * cell, cell)]
    for j in range(0, columns, step):
        x = left + (j + 0.5) * cell
        if rotated:
            parts.append(turned(x + 4, bottom + 8, figure.columns[j], "end"))
        else:
            parts.append(text(x, bottom + 17, figure.columns[j], "tick", "middle"))
    for cut in figure.cuts:
        at = cut * cell
        parts += [line(left, at, left + columns * cell, at, "cut"), line(left + at, 0, left + at, bottom, "cut")]
    below = bottom + (longest + 12 if rotated else 24)
    parts.append(text(left + columns * cell / 2, below + 14, figure.x, "tick", "middle"))
    parts.append(turned(12, bottom / 2, figure.y))
    width = max(left + columns * cell + 2, left + 130 + 6.6 * len(figure.unit), 300)
    parts += _colour_bar(figure, left, below + 30)
    return _svg(width, below + 66, parts, figure.title, min(width, 300 if cell < _CELL_NUMBER else 0.9 * width))


def _cell(figure: Heatmap, i: int, j: int, x: float, y: float, cell: float) -> list[Markup]:
    value = float(figure.values[i, j])
    name = f"{figure.y} {figure.rows[i]}, {figure.x} {figure.columns[j]}: "
    if math.isnan(value):
        return [_box(x, y, cell - 1, cell - 1, "blank", name + "not defined")]
    css, opacity = _heat(figure, value)
    number = f"{round(value, figure.digits) + 0.0:.{figure.digits}f}"  # no -0.00
    elements = [_box(x, y, cell - 1, cell - 1, css, name + number, fill_opacity=f"{opacity:.3f}")]
    if cell >= _CELL_NUMBER:
        elements.append(text(x + (cell - 1) / 2, y + cell / 2 + 4, number, "number over" if opacity > 0.62 else "number", "middle"))
    return elements


def _box(x: float, y: float, width: float, height: float, css: str, title: str, **attributes: object) -> Markup:
    """Return a filled rectangle; `title` is shown on hover."""
    return element("rect", element("title", title), x=x, y=y, width=width, height=height, class_=css, **attributes)


def _heat(figure: Heatmap, value: float) -> tuple[str, float]:
    """Return the colour class and opacity of a value: the lowest is pale, or 0 where values have two signs, each with its own colour."""
    if figure.low >= 0:
        return "heat", min(1.0, max(0.0, (value - figure.low) / (figure.high - figure.low)))
    return "heat below" if value < 0 else "heat", min(1.0, abs(value) / max(-figure.low, figure.high))


def _colour_bar(figure: Heatmap, x: float, y: float) -> list[Markup]:
    """Return the colour bar with its ends and its unit."""
    steps, width = 24, 120
    shades = [_heat(figure, figure.low + (at + 0.5) / steps * (figure.high - figure.low)) for at in range(steps)]
    return [
        *(
            element("rect", x=x + at * width / steps, y=y, width=width / steps + 0.3, height=9, class_=css, fill_opacity=f"{opacity:.3f}")
            for at, (css, opacity) in enumerate(shades)
        ),
        text(x, y + 23, f"{figure.low:.3g}", "tick"),
        text(x + width, y + 23, f"{figure.high:.3g}", "tick", "end"),
        text(x + width + 10, y + 9, figure.unit, "tick"),
    ]


def _legend(names: Sequence[str], *, shaded: bool = False) -> Markup:
    """Return the names beside their colours, as text that wraps."""
    if len(names) < 2:
        return Markup()
    entries = Markup()
    for at, name in enumerate(names):
        shade = {"style": f"opacity:{_shade(at, len(names)):.3f}"} if shaded else {}
        entries += element("span", element("i", class_=_colour(at, shaded), **shade) + name)
    return element("p", entries, class_="legend")


def _colour(number: int, shaded: bool) -> str:
    return "c0" if shaded else f"c{min(number, COLOURS - 1)}"


def _shade(number: int, parts: int) -> float:
    """Return the opacity of a part: many parts, which have an order such as layers, are shades of one colour, from pale to full."""
    return 0.1 + 0.9 * number / (parts - 1)


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    padding = margin * (high - low) or 0.05 * abs(high) or 0.5
    return low - padding, high + padding


def _percent(value: float) -> str:
    return f"{100 * value:.10g}%"


def _plain(value: float) -> str:
    return f"{value:,.10g}"


def _points(series: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]


def _curves(figure: Curves) -> Markup:
    left, right, top, height = 58, _WIDTH - 14, 26, 230
    bottom = top + height
    transform: Callable[[float], float] = math.log10 if figure.log_x else float
    points = [point for series in figure.series for point in _points(series)]
    if not points:
        return element("p", "nothing to draw", class_="muted")
    ends = [value for series in figure.series for value in (*series.low, *series.high) if math.isfinite(value)]
    levels = [y for _, y in points] + ends + ([] if figure.reference is None else [figure.reference[1]])
    low, high = _range(levels, 0.06)
    xs = [x for series in figure.series for x in series.x]
    begin, end = transform(min(xs)), transform(max(xs))
    x_scale = scale(begin, end if end > begin else begin + 1, left + 10, right - 10)
    y_scale = scale(low, high, bottom, top)
    show = _percent if figure.percent else _plain
    parts = [text(0, 12, figure.y, "tick")]
    for tick in ticks(low, high):
        parts += [line(left, y_scale(tick), right, y_scale(tick), "grid"), text(left - 8, y_scale(tick) + 4, show(tick), "tick", "end")]
    for tick in _x_ticks(figure, min(xs), max(xs)):
        at = x_scale(transform(tick))
        parts += [line(at, bottom, at, bottom + 5, "axis"), text(at, bottom + 19, _plain(tick), "tick", "middle")]
    parts += [line(left, bottom, right, bottom, "axis"), text((left + right) / 2, bottom + 40, figure.x, "tick", "middle")]
    if figure.reference is not None:
        name, level = figure.reference
        parts.append(line(left, y_scale(level), right, y_scale(level), "reference"))
        # Label the reference at the end where the first curve is farther away.
        curve = next(filter(None, map(_points, figure.series)))
        first, last = (abs(curve[at][1] - level) for at in (0, -1))
        at, anchor = (left + 4, "start") if first > last else (right, "end")
        parts.append(text(at, y_scale(level) - 6 if y_scale(level) - 18 > top else y_scale(level) + 15, name, "tick halo", anchor))
    for number, series in reversed(list(enumerate(figure.series))):
        parts += _curve(series, f"c{min(number, COLOURS - 1)}", lambda x: x_scale(transform(x)), y_scale)
    if figure.chosen is not None:
        parts += _mark(figure.chosen, x_scale(transform(figure.chosen[1])), y_scale(figure.chosen[2]), bottom)
    drawing = _svg(_WIDTH, bottom + 48, parts, figure.title, 0.82 * _WIDTH)
    return _legend([series.name for series in figure.series]) + drawing


def _curve(series: Series, css: str, x_scale: Callable[[float], float], y_scale: Callable[[float], float]) -> list[Markup]:
    parts = []
    for x, low, high in zip(series.x, series.low, series.high, strict=False):
        parts.append(line(x_scale(x), y_scale(low), x_scale(x), y_scale(high), f"interval stroke {css}"))
    segment: list[tuple[float, float]] = []
    for x, y in (*zip(series.x, series.y, strict=True), (0.0, math.nan)):
        if math.isfinite(y):
            segment.append((x_scale(x), y_scale(y)))
        elif segment:
            parts.append(path(segment, f"line stroke {css}"))
            segment = []
    if len(series.x) <= 40:
        parts += [dot(x_scale(x), y_scale(y), 3.2, f"fill {css}", f"{series.name}: {y:.4g} at {x:.10g}") for x, y in _points(series)]
    return parts


def _mark(chosen: tuple[str, float, float], x: float, y: float, bottom: float) -> list[Markup]:
    below = y + 26 if y + 34 < bottom else y - 14
    anchor, shift = ("start", 6) if x < 0.55 * _WIDTH else ("end", 4)
    return [dot(x, y, 7, "chosen"), text(x + shift, below, chosen[0], "figure slim halo", anchor)]


def _x_ticks(figure: Curves, low: float, high: float) -> list[float]:
    if figure.log_x:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        factors = (1, 2, 5) if last - first <= 3 else (1,)
        return [tick for power in range(first, last + 1) for factor in factors if low <= (tick := factor * 10.0**power) <= high] or [low]
    if figure.whole_x:
        step = max(1, math.ceil((high - low) / 13))
        return [float(tick) for tick in range(math.ceil(low), math.floor(high) + 1, step)]
    return ticks(low, high) if high > low else [low]


def _bars(figure: Bars) -> Markup:
    left = 14 + 7.2 * max(map(len, figure.rows))
    row, thick = 25, 14
    right, bottom = _WIDTH - 62, row * len(figure.rows) + 4
    totals = [sum(values) for values in figure.values]
    show, shaded = _percent if figure.percent else _plain, len(figure.parts) > _FEW
    x_scale = scale(0.0, max(*totals, 1e-12), left, right)
    parts = []
    for tick in ticks(0.0, max(*totals, 1e-12)):
        parts += [line(x_scale(tick), 0, x_scale(tick), bottom, "grid"), text(x_scale(tick), bottom + 17, show(tick), "tick", "middle")]
    for at, (name, values) in enumerate(zip(figure.rows, figure.values, strict=True)):
        y, start = row * at + 5, 0.0
        parts.append(text(left - 8, y + thick - 2, name, "label", "end"))
        for number, value in enumerate(values):
            width = x_scale(start + value) - x_scale(start)
            shade = {"fill_opacity": f"{_shade(number, len(values)):.3f}"} if shaded else {}
            title = f"{name}, {figure.parts[number]}: {value:.4g}"
            parts.append(_box(x_scale(start), y, width, thick, f"fill {_colour(number, shaded)}", title, **shade))
            start += value
        # Of two or three parts the first is of interest; of more, none is.
        if len(values) <= 3:
            shown = f"{100 * values[0]:.1f}%" if figure.percent else f"{values[0]:,.4g}"
            parts.append(text(_WIDTH, y + thick - 2, shown, "figure", "end"))
    parts.append(text((left + right) / 2, bottom + 38, figure.unit, "tick", "middle"))
    return _legend(figure.parts, shaded=shaded) + _svg(_WIDTH, bottom + 46, parts, figure.title, 0.82 * _WIDTH)


def _dendrogram(figure: Dendrogram) -> Markup:
    m, row = len(figure.leaves), 19
    left = 14 + 6.6 * max(map(len, figure.leaves))
    order = _leaf_order(figure, m)
    heights = np.concatenate([np.zeros(m), figure.heights])
    positions = np.zeros(2 * m - 1)
    positions[order] = row * (np.arange(m) + 0.5)
    bottom = row * m + 6
    x_scale = scale(0.0, max(float(heights.max()), 1e-12), left, _WIDTH - 14)
    parts = [
        part
        for tick in ticks(0.0, max(float(heights.max()), 1e-12))
        for part in (
            line(x_scale(tick), 0, x_scale(tick), bottom, "grid"),
            text(x_scale(tick), bottom + 17, _plain(tick), "tick", "middle"),
        )
    ]
    parts += [text(left - 8, positions[leaf] + 4, figure.leaves[leaf], "tick", "end") for leaf in range(m)]
    for at, (a, b) in enumerate(figure.merges):
        positions[m + at] = (positions[a] + positions[b]) / 2
        ends = ((heights[a], positions[a]), (heights[m + at], positions[a]), (heights[m + at], positions[b]), (heights[b], positions[b]))
        parts.append(path(((x_scale(height), y) for height, y in ends), "line stroke c0"))
    parts.append(text((left + _WIDTH) / 2, bottom + 38, figure.unit, "tick", "middle"))
    return _svg(_WIDTH, bottom + 46, parts, figure.title, 0.82 * _WIDTH)


def _leaf_order(figure: Dendrogram, m: int) -> list[int]:
    """Return the leaves from top to bottom, so that no two branches cross."""
    members: list[list[int]] = [[leaf] for leaf in range(m)]
    for a, b in figure.merges:
        members.append(members[a] + members[b])
    return members[-1]
