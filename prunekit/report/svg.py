"""The elements that figures are drawn from: inline SVG whose text takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape


def svg(width: float, height: float, body: str, title: str) -> str:
    """A figure that scales with its column."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title, quote=True)}">{body}</svg>'


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    """Words at a place; `anchor` is "start", "middle" or "end"."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them, a step of 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / raw)))
    first = math.ceil(low / step - 1e-9)
    return [at * step for at in range(first, math.floor(high / step + 1e-9) + 1)]


def scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """The linear map from values low..high to places start..stop."""
    return lambda value: start + (value - low) / (high - low) * (stop - start)
