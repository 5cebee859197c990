"""Plot of the retained metric against the speed-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from prunekit.errors import StatisticsError
from prunekit.report.model import Report
from prunekit.report.svg import dot, element, line, path, scale, svg, text, ticks, turned

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, _WIDTH - 24, 16, 320


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, which notebooks show.

    Attributes
    ----------
    svg : str
        Standalone document, with its style.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Write the figure to a file."""
        Path(path).write_text(self.svg, encoding="utf-8")


@dataclass(frozen=True)
class _Point:
    name: str
    kind: str
    dtype: str
    speed: float
    share: float


def _points(report: Report) -> list[_Point]:
    """Return the models that were scored and timed at the first batch size: speed, and share of the reference's metric."""
    reference = report.row("dense") or report.row("oracle")
    if reference is None or reference.value <= 0 or not report.latency:
        return []
    comparison, points = report.latency[0], []
    for file in (*report.rivals, *report.files):
        if file.value is not None:
            speed = 1.0 if file.timing == comparison.baseline else comparison.ratio(file.timing).value
            points.append(_Point(f"{file.of}, {file.dtype}", file.of, file.dtype, speed, file.value / reference.value))
    return points


def tradeoff(reports: Mapping[str, Report]) -> Picture:
    """Draw the share of the dense metric that is kept against the speed, dense and slim, in each precision that was measured.

    Parameters
    ----------
    reports : {name: Report}
        One line of the legend, and one colour, for each; eight at most have colours of their own.

    Returns
    -------
    Picture
        Speed at the first batch size is on a logarithmic axis.

    Raises
    ------
    StatisticsError
        Reports without scores or times.
    """
    drawn = {name: points for name, report in reports.items() if (points := _points(report))}
    if not drawn:
        raise StatisticsError("There is nothing to draw: no report has both a metric and times of a dense and a slim model.")
    all_points = [point for points in drawn.values() for point in points]
    low, high = (edge(math.log2(point.speed) for point in all_points) for edge in (min, max))
    x = scale(low - 0.25, max(high, low + 1) + 0.25, _LEFT, _RIGHT)
    worst, best = (edge(point.share for point in all_points) for edge in (min, max))
    margin = max(0.1 * (best - worst), 0.005)
    y = scale(worst - margin, best + margin, _BOTTOM, _TOP)
    parts: list[Markup] = []
    for tick in ticks(worst - margin, best + margin):
        parts += [line(_LEFT, y(tick), _RIGHT, y(tick), "grid"), text(_LEFT - 8, y(tick) + 4, f"{100 * tick:.4g}%", "tick", "end")]
    for power in range(math.floor(low), math.ceil(high) + 1):
        if _LEFT <= x(power) <= _RIGHT:
            parts.append(text(x(power), _BOTTOM + 20, f"{2.0**power:g}×", "tick", "middle"))  # noqa: RUF001
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    for at, (name, points) in enumerate(drawn.items()):
        parts.append(element("g", Markup("").join(_series(name, points, x, y)), class_=f"c{at % 8}"))
        # The precisions of the first report stand for those of all.
        parts += [] if at else [text(x(math.log2(point.speed)), y(point.share) - 10, point.dtype, "tick", "middle") for point in points]
        parts.append(element("g", _legend(name, at, len(drawn)), class_=f"c{at % 8}"))
    sizes = {report.latency[0].batch_size for report in reports.values() if report.latency}
    batch = f" at batch {sizes.pop()}" if len(sizes) == 1 else ""
    parts.append(
        text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, f"times as fast as dense in fp32{batch}; rings: dense, dots: slim", "tick", "middle")
    )
    parts.append(turned(14, (_TOP + _BOTTOM) / 2, "of the dense metric"))
    style = element("style", Markup(resources.files("prunekit.report").joinpath("page.css").read_text(encoding="utf-8")))
    title = "Share of the dense metric against speed"
    return Picture(str(svg(_WIDTH, _HEIGHT, [style, *parts], title, xmlns="http://www.w3.org/2000/svg")))


def _series(name: str, points: list[_Point], x: object, y: object) -> list[Markup]:
    assert callable(x)
    assert callable(y)
    elements = []
    for kind in ("dense", "slim"):
        selected = [point for point in points if point.kind == kind]
        positions = [(x(math.log2(point.speed)), y(point.share)) for point in selected]
        if len(positions) > 1:
            elements.append(path(positions, "line stroke interval"))
        css = "fill" if kind == "slim" else "blank stroke"
        titles = (f"{name}: {point.name}, {point.speed:.2f}× as fast, {100 * point.share:.1f}%" for point in selected)  # noqa: RUF001
        elements += [dot(*position, 5, css, title) for position, title in zip(positions, titles, strict=True)]
    return elements


def _legend(name: str, at: int, count: int) -> Markup:
    width = (_RIGHT - _LEFT) / min(count, 4)
    left, top = _LEFT + width * (at % 4), _BOTTOM + 62 + 18 * (at // 4)
    return Markup("").join([dot(left + 4, top - 4, 4, "fill"), text(left + 14, top, name, "label")])
