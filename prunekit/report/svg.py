"""Elements of figures: inline SVG whose text takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape


def element(name: str, content: str = "", /, **attributes: object) -> Markup:
    """Return an element; its text and its attributes are escaped unless they are markup.

    A float is written with one decimal. ``class_`` is the attribute ``class``, ``text_anchor`` is ``text-anchor``.
    """
    written = (f"{value:.1f}" if isinstance(value, float) else str(value) for value in attributes.values())
    names = (key.rstrip("_").replace("_", "-") for key in attributes)
    start = name + "".join(f' {key}="{escape(value)}"' for key, value in zip(names, written, strict=True))
    return Markup(f"<{start}>{escape(content)}</{name}>")


def svg(width: float, height: float, parts: Iterable[Markup], title: str, **attributes: object) -> Markup:
    """Return a figure that scales with its column."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", Markup("").join(parts), viewBox=box, **attributes, role="img", aria_label=title)


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start", **attributes: object) -> Markup:
    """Return text at a position; `anchor` is "start", "middle" or "end"."""
    return element("text", words, x=float(x), y=float(y), class_=css, text_anchor=anchor, **attributes)


def turned(x: float, y: float, words: str, anchor: str = "middle") -> Markup:
    """Return text that reads upwards."""
    return text(x, y, words, "tick", anchor, transform=f"rotate(-90 {x:.1f} {y:.1f})")


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=css)


def dot(x: float, y: float, radius: float, css: str, title: str = "") -> Markup:
    """Return a circle; `title` is shown on hover."""
    return element("circle", element("title", title) if title else "", cx=float(x), cy=float(y), r=f"{radius:g}", class_=css)


def path(points: Iterable[tuple[float, float]], css: str) -> Markup:
    """Return straight lines from point to point."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=css)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from `low` to `high`, about five of them, a step of 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / raw)))
    first = math.ceil(low / step - 1e-9)
    return [at * step for at in range(first, math.floor(high / step + 1e-9) + 1)]


def scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Return the linear map from values low..high to positions start..stop."""
    return lambda value: start + (value - low) / (high - low) * (stop - start)
