"""Gates on ratios of times measured side by side and on exact counts, never on milliseconds.

Milliseconds of one model on one machine vary by a quarter within minutes, and between a CI service's machines by a factor of more
than two. The ratio of two models that take turns in one process does not, and its interval gives its uncertainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prunekit.benchmark.results import COUNTS, Footprint, Verdict
from prunekit.errors import ParameterError
from prunekit.runtime.records import Comparison, Ratio

CHECKS = ("latency", *COUNTS)
_Outcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Gate:
    """Requirements for every candidate but the baseline.

    Attributes
    ----------
    max_regression : float or None
        Growth against the baseline that is allowed: 0.1 is 10% more time, parameters, multiply-accumulates, nodes or bytes.
    min_speedup : float or None
        Smallest speed relative to the baseline.
    checks : tuple of str
        Quantities that `max_regression` limits, of `CHECKS`.
    """

    max_regression: float | None = None
    min_speedup: float | None = None
    checks: tuple[str, ...] = CHECKS

    def __post_init__(self) -> None:
        if self.max_regression is not None and not 0 <= self.max_regression < float("inf"):
            raise ParameterError("max_regression", "bench", "a percentage of at least 0%", f"{self.max_regression:.0%}")
        if self.min_speedup is not None and not 0 < self.min_speedup < float("inf"):
            raise ParameterError("min_speedup", "bench", "a number above 0", self.min_speedup)
        unknown = [check for check in self.checks if check not in CHECKS]
        if unknown or not self.checks:
            raise ParameterError("gate", "bench", f"some of {', '.join(CHECKS)}", ", ".join(unknown) or "nothing")

    def of_ratio(self, label: str, ratio: Ratio) -> tuple[Verdict, ...]:
        """Return the verdicts on a candidate's time in one comparison."""
        verdicts = []
        if self.max_regression is not None and "latency" in self.checks:
            value, low, high = 1 / ratio.value - 1, 1 / ratio.high - 1, 1 / ratio.low - 1
            outcome: _Outcome = "failed" if low > self.max_regression else "passed" if high <= self.max_regression else "undecided"
            verdicts.append(Verdict(f"latency, {label}", ratio.candidate, self.max_regression, value, low, high, outcome))
        if self.min_speedup is not None:
            outcome = "passed" if ratio.low >= self.min_speedup else "failed"
            verdicts.append(Verdict(f"speedup, {label}", ratio.candidate, self.min_speedup, ratio.value, ratio.low, ratio.high, outcome))
        return tuple(verdicts)

    def decided(self, ratios: Sequence[Ratio]) -> bool:
        """Return whether more rounds could not change the verdicts: no limit lies within an interval."""
        limits = [] if self.min_speedup is None else [self.min_speedup]
        if self.max_regression is not None and "latency" in self.checks:
            limits.append(1 / (1 + self.max_regression))
        return not any(ratio.low <= limit <= ratio.high for ratio in ratios for limit in limits)

    def of_counts(self, baseline: Footprint, candidate: Footprint) -> tuple[Verdict, ...]:
        """Return the verdicts on a candidate's exact counts, where both have them."""
        verdicts = []
        for count in COUNTS if self.max_regression is not None else ():
            before, after = baseline.count(count), candidate.count(count)
            if count not in self.checks or not before or after is None:
                continue
            assert self.max_regression is not None
            growth = (after - before) / before
            verdicts.append(
                Verdict(
                    count,
                    candidate.name,
                    self.max_regression,
                    growth,
                    growth,
                    growth,
                    "failed" if growth > self.max_regression else "passed",
                )
            )
        return tuple(verdicts)

    def verdicts(
        self, baseline: Footprint, costs: Sequence[Footprint], labels: Sequence[str], comparisons: Sequence[Comparison]
    ) -> tuple[Verdict, ...]:
        """Return all verdicts: times first, comparison by comparison, then the counts of each candidate."""
        times = [
            verdict
            for label, comparison in zip(labels, comparisons, strict=True)
            for ratio in comparison.ratios
            for verdict in self.of_ratio(label, ratio)
        ]
        return (*times, *(verdict for cost in costs if cost.name != baseline.name for verdict in self.of_counts(baseline, cost)))
