"""Figures as inline SVG; text takes its colours from the page, so that it is legible in light and dark mode."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prunekit.report import words
from prunekit.report.model import Point, Report
from prunekit.report.svg import dot, element, line, path, scale, svg, text, ticks

_WIDTH = 760
_LABEL = 220  # width of the names at the left
_VALUE = 150  # width of the numbers at the right
_ROW = 30
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, _WIDTH - 16, 14, 270  # edges of a plot with two axes


@dataclass(frozen=True)
class Whisker:
    """Value with its interval; `kind` is a CSS class: "slim", "dense" or "other"."""

    label: str
    value: float
    low: float
    high: float
    text: str
    kind: str


def whiskers(rows: Sequence[Whisker], show: Callable[[float], str], title: str, reference: float | None = None, axis: str = "") -> Markup:
    """Draw values with intervals on one axis, one row each, with the numbers at the right.

    Parameters
    ----------
    rows : sequence of Whisker
    show : callable
        Formats the value of a tick.
    title : str
        Accessible name of the figure.
    reference : float, optional
        Value that is marked through all rows.
    axis : str
        Label of the axis, with its unit.
    """
    ends = [end for row in rows for end in (row.low, row.high)] + ([] if reference is None else [reference])
    margin = 0.08 * (max(ends) - min(ends)) or 0.05 * abs(max(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin
    x = scale(low, high, _LABEL, _WIDTH - _VALUE)
    bottom = _ROW * len(rows) + 6
    parts = []
    for tick in ticks(low, high):
        parts += [line(x(tick), 0, x(tick), bottom, "grid"), text(x(tick), bottom + 18, show(tick), "tick", "middle")]
    if reference is not None:
        parts.append(line(x(reference), 0, x(reference), bottom, "reference"))
    for at, row in enumerate(rows):
        y = _ROW * at + _ROW / 2 + 3
        parts += [
            text(0, y + 4.5, row.label, f"label {row.kind}"),
            line(x(row.low), y, x(row.high), y, f"whisker {row.kind}"),
            dot(x(row.value), y, 5, f"dot {row.kind}"),
            text(_WIDTH, y + 4.5, row.text, f"figure {row.kind}", "end"),
        ]
    if axis:
        parts.append(text((_LABEL + _WIDTH - _VALUE) / 2, bottom + 38, axis, "tick", "middle"))
    return svg(_WIDTH, bottom + (44 if axis else 24), parts, title)


def scores(report: Report) -> Markup:
    """Draw each classifier's score with its interval."""
    kinds = {"slim": "slim", "dense": "dense", "oracle": "dense"}
    rows = [
        Whisker(
            words.name_of(report, row.name),
            row.value,
            row.low,
            row.high,
            f"{words.metric_value(report, row.value)}  ({words.metric_value(report, row.low)} – {words.metric_value(report, row.high)})",
            kinds.get(row.name, "other"),
        )
        for name in words.NAMES
        if (row := report.row(name)) is not None
    ]
    name = words.metric_name(report)
    return whiskers(
        rows, lambda value: words.metric_tick(report, value), f"{name} with 95% intervals", axis=f"{name}, test split, with 95% intervals"
    )


def speeds(report: Report) -> Markup:
    """Draw the interleaved speed ratio at each batch size."""
    rows = [
        Whisker(
            f"batch {comparison.batch_size}, {ratio.candidate}",
            ratio.value,
            ratio.low,
            ratio.high,
            f"{words.times(ratio.value)}  ({words.times(ratio.low)} – {words.times(ratio.high)})",
            "slim" if ratio.candidate == "slim" else "other",
        )
        for comparison in report.latency
        for ratio in comparison.ratios
    ]
    axis = "times as fast as dense, paired on the same batch, with 95% intervals"
    return whiskers(rows, lambda value: f"{value:g}×", "speed relative to the dense model", reference=1.0, axis=axis)


def kept(report: Report) -> Markup:
    """Draw the share of each size that is kept, as bars."""
    rows = words.kept_shares(report)
    x = scale(0, 1, _LABEL, _WIDTH - _VALUE)
    parts = []
    for at, (name, _, left, share) in enumerate(rows):
        y = _ROW * at + 8
        parts += [
            text(0, y + 12.5, name.partition(",")[0], "label"),
            element("rect", x=x(0), y=y, width=x(1) - x(0), height=15, rx=2, class_="bar whole"),
            element("rect", x=x(0), y=y, width=max(1.5, x(min(share, 1)) - x(0)), height=15, rx=2, class_="bar slim"),
            text(_WIDTH, y + 12.5, f"{words.share(share)}  ({left})", "figure", "end"),
        ]
    return svg(_WIDTH, _ROW * len(rows) + 4, parts, "share of the dense model that is kept")


def blocks(report: Report) -> Markup:
    """Draw the heads and FFN neurons that are left in each block, as bars side by side."""
    middle = (_LABEL / 2 + _WIDTH) / 2
    sides = (scale(0, 1, _LABEL / 2, middle - 64), scale(0, 1, middle + 8, _WIDTH - 64))
    parts = [text(x(0), 12, name, "tick") for x, name in zip(sides, ("heads", "FFN neurons"), strict=True)]
    for at, block in enumerate(report.blocks):
        y = _ROW * at + 24
        parts.append(text(0, y + 12.5, f"block {at}", "label"))
        for x, left, total in zip(sides, (block.heads, block.ffn), (block.all_heads, block.all_ffn), strict=True):
            parts += [
                element("rect", x=x(0), y=y, width=x(1) - x(0), height=15, rx=2, class_="bar whole"),
                element("rect", x=x(0), y=y, width=(x(left / total) - x(0)) if total else 0.0, height=15, rx=2, class_="bar slim"),
                text(x(1) + 56, y + 12.5, f"{left:,}", "figure", "end"),
            ]
    return svg(_WIDTH, _ROW * len(report.blocks) + 20, parts, "heads and FFN neurons that each block keeps")


def trace(report: Report) -> Markup:
    """Draw the metric on the validation split against the number of neurons, with the chosen number marked."""
    points = sorted(report.trace, key=lambda point: (point.neurons, point.value))
    first, last = math.log10(points[0].neurons), math.log10(points[-1].neurons)
    x = scale(first, last if last > first else first + 1, _LEFT + 14, _RIGHT - 14)
    marks = [(x(math.log10(count)), f"{count:,}") for count in _decades(points[0].neurons, points[-1].neurons)]
    y, parts = _axes(report, [point.value for point in points], marks)
    positions = [(x(math.log10(point.neurons)), y(point.value)) for point in points]
    parts += [path(positions, "curve"), *(dot(*position, 3, "dot slim") for position in positions), *_chosen_mark(report, points, x, y)]
    name = words.metric_name(report)
    parts.append(_x_label(f"neurons read by the classifier; {name}, validation split"))
    return svg(_WIDTH, _BOTTOM + 50, parts, f"{name} on the validation split against the number of neurons")


def frontier(report: Report) -> Markup:
    """Draw the metric on the validation split against the speed at batch 1, with its interval."""
    points = report.frontier
    fastest = max(point.high for point in points)
    x = scale(0.0, 1.06 * fastest, _LEFT, _RIGHT)
    y, parts = _axes(report, [point.value for point in points], [(x(tick), f"{tick:g}×") for tick in ticks(0.0, fastest)])
    parts.append(path(((x(point.speed), y(point.value)) for point in points), "curve"))
    for point in points:
        kind = "dense" if point.name == "dense" else "slim"
        parts += [
            line(x(point.low), y(point.value), x(point.high), y(point.value), f"whisker {kind}"),
            dot(x(point.speed), y(point.value), 4, f"dot {kind}"),
            text(x(point.speed), y(point.value) - 10, point.name, f"label {kind} halo", "middle"),
        ]
    name = words.metric_name(report)
    parts.append(_x_label(f"times as fast as dense at batch 1; {name}, validation split"))
    return svg(_WIDTH, _BOTTOM + 50, parts, f"{name} on the validation split against speed")


def _axes(report: Report, values: Sequence[float], marks: Sequence[tuple[float, str]]) -> tuple[Callable[[float], float], list[Markup]]:
    """Return the scale of the metric and both axes, with `marks` at positions of the lower one."""
    margin = 0.1 * (max(values) - min(values)) or 0.05
    low, high = min(values) - margin, max(values) + margin
    y = scale(low, high, _BOTTOM, _TOP)
    parts = []
    for tick in ticks(low, high):
        tick_label = words.metric_tick(report, tick)
        parts += [line(_LEFT, y(tick), _RIGHT, y(tick), "grid"), text(_LEFT - 8, y(tick) + 4, tick_label, "tick", "end")]
    for at, label in marks:
        parts += [line(at, _BOTTOM, at, _BOTTOM + 5, "axis"), text(at, _BOTTOM + 20, label, "tick", "middle")]
    return y, [*parts, line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis")]


def _x_label(label: str) -> Markup:
    """Label the lower axis."""
    return text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, label, "tick", "middle")


def _chosen_mark(report: Report, points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float]) -> list[Markup]:
    chosen = max((point for point in points if point.neurons == report.slim.neurons), key=lambda point: point.value, default=None)
    if chosen is None:
        return []
    at, height = x(math.log10(chosen.neurons)), y(chosen.value)
    # The curve rises and flattens, so that the area below it on the right is free.
    below = height + 40 if height + 46 < _BOTTOM else height - 16
    label = f"chosen: {chosen.neurons:,} neurons, {words.metric_value(report, chosen.value)}"
    anchor, shift = ("start", 6) if at < 0.7 * _WIDTH else ("end", 0)
    return [dot(at, height, 7, "chosen"), text(at + shift, below, label, "figure slim halo", anchor)]


def _decades(low: int, high: int) -> list[int]:
    """Return 1, 2, 5, 10, ... within the range; only powers of ten where there are many; the ends where there is none."""
    steps = [factor * 10**power for power in range(len(str(high))) for factor in (1, 2, 5)]
    marks = [step for step in steps if low <= step <= high]
    if len(marks) > 8:
        marks = [step for step in marks if str(step)[0] == "1"]
    return marks or sorted({low, high})
