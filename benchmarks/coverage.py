"""How often the intervals of the reports hold the truth: rows are drawn anew from a known population, again and again.

    python benchmarks/coverage.py [--draws 1000] [--rows 200 1000] [--metric NAME ...] [--out FILE.md]

The truth is the metric of a million rows (of entity F1, of 200,000 sentences). Of accuracy, whose interval depends on the number of right
answers alone, coverage is summed over the binomial distribution, exactly. One core takes about 20 minutes for all of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom

from prunekit.metrics import Interval, Judged, Metric, compare, interval, judged, judged_spans

Draw = Callable[[np.random.Generator, int], Judged]


def of_classes(metric: Metric, shares: tuple[float, ...], right: tuple[float, ...]) -> Draw:
    """Classes of given shares; each is right with a probability of its own, and else any other."""

    def draw(generator: np.random.Generator, rows: int) -> Judged:
        truth = generator.choice(len(shares), size=rows, p=shares)
        other = (truth + generator.integers(1, len(shares), size=rows)) % len(shares)
        guess = np.where(generator.random(rows) < np.asarray(right)[truth], truth, other)
        return judged(metric, guess, truth, classes=len(shares))

    return draw


def of_values(metric: Metric, r: float, *, tails: bool = False) -> Draw:
    """Pairs with a correlation; with heavy tails, of Student's t with 5 degrees of freedom."""

    def draw(generator: np.random.Generator, rows: int) -> Judged:
        x, noise = generator.normal(size=(2, rows))
        y = r * x + np.sqrt(1 - r * r) * noise
        scale = np.sqrt(5 / generator.chisquare(5, size=rows)) if tails else 1.0
        return judged(metric, x * scale, y * scale, classes=1)

    return draw


def of_entities(generator: np.random.Generator, rows: int) -> Judged:
    """Sentences with no to several entities; hard sentences miss more of them, and name more that are not there."""
    hard = generator.beta(2, 8, size=rows)
    actual = generator.poisson(1.5, size=rows)
    hits = generator.binomial(actual, 1 - hard)
    named = hits + generator.poisson(1.5 * hard)
    return judged_spans(hits.astype(np.float64), named.astype(np.float64), actual.astype(np.float64))


def shared_rows(generator: np.random.Generator, rows: int) -> tuple[Judged, Judged]:
    """A slim and a dense model on the same rows: most errors are common."""
    truth = generator.integers(2, size=rows)
    dense = generator.random(rows) < 0.92
    slim = np.where(generator.random(rows) < 0.05, ~dense, dense)
    ours, theirs = (judged(Metric.ACCURACY, np.where(right, truth, 1 - truth), truth, classes=2) for right in (slim, dense))
    return ours, theirs


@dataclass(frozen=True)
class Case:
    """A metric on a population: an interval of some rows, and what it should hold."""

    name: str
    found: Callable[[np.random.Generator, int], Interval]
    truth: Callable[[np.random.Generator], float]


def alone(name: str, draw: Draw, *, many: int = 1_000_000) -> Case:
    """The metric of one model."""
    return Case(name, lambda generator, rows: interval(draw(generator, rows)), lambda generator: draw(generator, many).value)


def _share(generator: np.random.Generator) -> float:
    ours, theirs = shared_rows(generator, 1_000_000)
    return ours.value / theirs.value


CASES = {
    case.name: case
    for case in (
        alone("accuracy, 90%", of_classes(Metric.ACCURACY, (0.5, 0.5), (0.9, 0.9))),
        alone("macro F1, two classes", of_classes(Metric.F1, (0.7, 0.3), (0.93, 0.85))),
        alone("macro F1, five unequal classes", of_classes(Metric.F1, (0.4, 0.25, 0.2, 0.1, 0.05), (0.9, 0.9, 0.85, 0.8, 0.7))),
        alone("Matthews, two classes", of_classes(Metric.MATTHEWS, (0.7, 0.3), (0.93, 0.85))),
        alone("Spearman 0.85", of_values(Metric.SPEARMAN, 0.85)),
        alone("Spearman 0.85, heavy tails", of_values(Metric.SPEARMAN, 0.85, tails=True)),
        alone("Pearson 0.85", of_values(Metric.PEARSON, 0.85)),
        alone("entity F1", of_entities, many=200_000),
        Case("share of dense, accuracy", lambda generator, rows: compare(*shared_rows(generator, rows)), _share),
    )
}


def exact_accuracy(rows: int, right: float) -> float:
    """Coverage of the interval of a share of right answers."""
    hits = np.arange(rows + 1)
    held = []
    for count in hits:
        guess = (hits[1:] <= count).astype(np.int64)
        _, low, high = interval(judged(Metric.ACCURACY, guess, np.ones(rows, dtype=np.int64), classes=2))
        held.append(low <= right <= high)
    return float(binom.pmf(hits, rows, right) @ np.array(held))


def covered(name: str, rows: int, draws: int, seed: int = 0) -> tuple[float, float, float]:
    """The share of draws whose interval holds the truth, and the shares that lie below and above it."""
    case = CASES[name]
    if name.startswith("accuracy"):
        return exact_accuracy(rows, 0.9), float("nan"), float("nan")
    truth = case.truth(np.random.default_rng(10_000 + seed))
    found = np.array([case.found(np.random.default_rng((seed, at)), rows) for at in range(draws)])
    below, above = float((found[:, 2] < truth).mean()), float((found[:, 1] > truth).mean())
    return 1 - below - above, below, above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--metric", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    lines = ["| metric | rows | held | truth above | truth below |", "|---|---:|---:|---:|---:|"]
    print("\n".join(lines), flush=True)
    for name in asked.metric:
        for rows in asked.rows:
            held, below, above = covered(name, rows, asked.draws)
            sides = "exact | " if np.isnan(below) else f"{below:.1%} | {above:.1%}"
            lines.append(f"| {name} | {rows:,} | {held:.1%} | {sides} |")
            print(lines[-1], flush=True)
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
