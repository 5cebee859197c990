"""File formats of a benchmark, for CI services and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from prunekit.benchmark.results import COUNTS, Benchmark, Footprint, Verdict
from prunekit.report.words import amount, machine, milliseconds, times
from prunekit.runtime.records import Comparison, Timing
from prunekit.validation.escape import markdown

_UNITS = {"params": "parameters", "macs": "MACs", "nodes": "nodes", "bytes": "bytes"}


def rows(found: Benchmark) -> Iterator[tuple[str, Comparison, Timing, Footprint]]:
    """Yield (label, comparison, timing, costs) of each candidate in each comparison."""
    for label, comparison in zip(found.labels, found.comparisons, strict=True):
        for timing in comparison.timings:
            yield label, comparison, timing, found.cost(timing.name)


def to_github(found: Benchmark) -> str:
    """Return the JSON that benchmark-action/github-action-benchmark reads with ``tool: customSmallerIsBetter``.

    Times are shares of the baseline's, measured side by side, so that a slower machine raises no alarm; only a single
    candidate is reported in milliseconds. Exact counts follow.
    """
    entries: list[dict[str, Any]] = []
    for label, comparison, timing, _ in rows(found):
        if len(comparison.timings) == 1:
            entries.append({"name": f"{timing.name}: p50, {label}", "value": timing.p50_ms, "unit": "ms"})
        elif timing.name != comparison.baseline:
            ratio = comparison.ratio(timing.name)
            low, high = 1 / ratio.high, 1 / ratio.low
            entries.append(
                {
                    "name": f"{timing.name}: time, {label}",
                    "value": 1 / ratio.value,
                    "unit": f"of {comparison.baseline}'s",
                    "range": f"{low:.4f} - {high:.4f}",
                    "extra": f"p50 {timing.p50_ms:.3f} ms, {timing.rows_per_second:.1f} rows/s, {comparison.rounds} rounds",
                }
            )
    for cost in found.costs:
        for count in COUNTS:
            value = cost.count(count)
            if value is not None:
                entries.append({"name": f"{cost.name}: {count}", "value": value, "unit": _UNITS[count]})
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"


def to_pytest_benchmark(found: Benchmark) -> str:
    """Return the JSON that ``pytest-benchmark compare`` and ``tool: pytest`` of github-action-benchmark read; times in seconds."""
    benchmarks = []
    for label, comparison, timing, cost in rows(found):
        name = f"{timing.name}[{label}]"
        benchmarks.append(
            {
                "group": label,
                "name": name,
                "fullname": f"prunekit/{name}",
                "params": None,
                "param": None,
                "extra_info": {
                    "baseline": comparison.baseline,
                    **_ratio_info(comparison, timing.name),
                    **{str(count): cost.count(count) for count in COUNTS},
                    "rows_per_second": timing.rows_per_second,
                    "backend": cost.backend,
                },
                "options": {
                    "disable_gc": True,
                    "timer": "perf_counter",
                    "min_rounds": 1,
                    "max_time": comparison.seconds,
                    "min_time": 0.0,
                    "warmup": comparison.warmup > 0,
                },
                "stats": _statistics(np.asarray(timing.milliseconds) / 1000),
            }
        )
    environment = found.environment
    return (
        json.dumps(
            {
                "machine_info": {
                    "node": "",
                    "processor": environment.processor,
                    "machine": "",
                    "python_implementation": "CPython",
                    "python_version": environment.python,
                    "system": environment.system.partition(" ")[0],
                    "release": environment.system.partition(" ")[2],
                    "cpu": {"brand_raw": environment.processor, "count": environment.cores, "flags": list(environment.instructions)},
                },
                "commit_info": {
                    "id": os.environ.get("GITHUB_SHA", "unversioned"),
                    "time": found.time,
                    "author_time": found.time,
                    "dirty": False,
                    "project": "prunekit",
                    "branch": os.environ.get("GITHUB_REF_NAME", "(unknown)"),
                },
                "benchmarks": benchmarks,
                "datetime": found.time,
                "version": "5.1.0",
            },
            indent=1,
            allow_nan=False,
        )
        + "\n"
    )


def _ratio_info(comparison: Comparison, name: str) -> dict[str, float]:
    if name == comparison.baseline:
        return {}
    ratio = comparison.ratio(name)
    return {"speedup": ratio.value, "speedup_low": ratio.low, "speedup_high": ratio.high}


def _statistics(seconds: np.ndarray) -> dict[str, Any]:
    """Return the fields of pytest-benchmark's `Stats`, by its definitions."""
    q1, median, q3 = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    mean, deviation = float(seconds.mean()), float(seconds.std(ddof=1)) if len(seconds) > 1 else 0.0
    inner = seconds[(seconds >= q1 - 1.5 * (q3 - q1)) & (seconds <= q3 + 1.5 * (q3 - q1))]
    spread = np.abs(seconds - mean) > deviation
    return {
        "min": float(seconds.min()),
        "max": float(seconds.max()),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(seconds),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": len(seconds) - len(inner),
        "stddev_outliers": int(spread.sum()),
        "outliers": f"{int(spread.sum())};{len(seconds) - len(inner)}",
        "ld15iqr": float(inner.min()),
        "hd15iqr": float(inner.max()),
        "ops": 1 / mean,
        "total": float(seconds.sum()),
        "data": seconds.tolist(),
        "iterations": 1,
    }


def to_csv(found: Benchmark) -> str:
    """Return CSV with one line for each candidate in each comparison; the unit is in the column's name."""
    header = (
        "name", "backend", "device", "threads", "batch_size", "mean_length", "comparison", "rounds", "invocations", "average_latency_ms",
        "latency_50_percentile", "latency_90_percentile", "latency_99_percentile", "QPS", "speedup", "speedup_low", "speedup_high",
        "baseline", "load_s", "peak_bytes", "params", "macs", "macs_length", "nodes", "bytes", "agreement", "datetime", "clock",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for label, comparison, timing, cost in rows(found):
        ratio = None if timing.name == comparison.baseline else comparison.ratio(timing.name)
        speed = ("", "", "") if ratio is None else (ratio.value, ratio.low, ratio.high)
        values: Sequence[object] = (
            timing.name, cost.backend, cost.device, comparison.threads, comparison.batch_size, comparison.mean_length, label,
            comparison.rounds, len(comparison.invocations), float(np.mean(timing.milliseconds)), timing.p50_ms, timing.p90_ms,
            timing.p99_ms, timing.rows_per_second, *speed, comparison.baseline, cost.load_seconds, cost.peak_bytes, cost.params, cost.macs,
            cost.macs_length, cost.nodes, cost.bytes, cost.agreement, found.time, comparison.clock,
        )  # fmt: skip
        writer.writerow("" if value is None else value for value in values)
    return text.getvalue()


def time_table(found: Benchmark) -> list[tuple[str, ...]]:
    """Return times and ratios as text, header first."""
    table: list[tuple[str, ...]] = [("", "p50 ms", "p90 ms", "p99 ms", "rows/s", f"speed, {found.baseline} = 1", "95% interval")]
    for label, comparison, timing, _ in rows(found):
        ratio = None if timing.name == comparison.baseline else comparison.ratio(timing.name)
        speed = ("1", "") if ratio is None else (times(ratio.value), f"{times(ratio.low)} – {times(ratio.high)}")  # noqa: RUF001
        percentiles = (milliseconds(value) for value in (timing.p50_ms, timing.p90_ms, timing.p99_ms))
        table.append((f"{label}: {timing.name}", *percentiles, amount(timing.rows_per_second), *speed))
    return table


def cost_table(found: Benchmark) -> list[tuple[str, ...]]:
    """Return the costs of each candidate other than its time as text, header first."""
    length = found.costs[0].macs_length
    table: list[tuple[str, ...]] = [
        ("", "backend", "parameters", f"MACs, 1×{length}", "nodes", "file", "load s", "peak memory", "same answers", "ran on")  # noqa: RUF001
    ]
    for cost in found.costs:
        table.append(
            (
                cost.name,
                cost.backend,
                amount(cost.params),
                _or_dash(cost.macs),
                "–" if cost.nodes is None else str(cost.nodes),  # noqa: RUF001
                amount(cost.bytes, "B"),
                f"{cost.load_seconds:.2f}",
                _or_dash(cost.peak_bytes, "B"),
                "–" if cost.agreement is None else f"{cost.agreement:.1%}",  # noqa: RUF001
                ", ".join(f"{place} {count}" for place, count in cost.placement.items()),
            )
        )
    return table


def _or_dash(value: int | None, unit: str = "") -> str:
    return "–" if value is None else amount(value, unit)  # noqa: RUF001


def verdict_lines(found: Benchmark) -> list[str]:
    """Return one sentence for each verdict."""
    return [_sentence(verdict, found.baseline) for verdict in found.verdicts]


def _sentence(verdict: Verdict, baseline: str) -> str:
    if verdict.check.startswith("speedup"):
        description = (
            f"{times(verdict.value)} as fast as {baseline} ({times(verdict.low)} to {times(verdict.high)}), asked {times(verdict.limit)}"
        )
    else:
        spread = "" if verdict.low == verdict.high else f" ({verdict.low:+.1%} to {verdict.high:+.1%})"
        description = f"{verdict.value:+.1%}{spread} against {baseline}, allowed {verdict.limit:+.1%}"
    return f"{verdict.outcome.upper()}: {verdict.candidate}, {verdict.check}: {description}"


_CLOCKS = {
    "wall": "by the clock on the wall",
    "thread": "by the processor time of the thread",
    "process": "by the processor time of the process",
}


def conditions(found: Benchmark) -> str:
    """Return how and where the benchmark was measured, in a sentence or two."""
    first = found.comparisons[0]
    stops = [
        f"{label}: {comparison.rounds} rounds in {len(comparison.invocations)} invocations"
        f"{'' if comparison.stopped == 'narrow' else ', out of time'}"
        for label, comparison in zip(found.labels, found.comparisons, strict=True)
    ]
    clocks = " and ".join(dict.fromkeys(_CLOCKS[comparison.clock] for comparison in found.comparisons))
    return (
        f"Interleaved in one process, {first.threads} thread{'s' * (first.threads != 1)} each, timed {clocks} after an untimed run; "
        f"speed is the median of paired ratios with a bootstrap interval ({'; '.join(stops)}). "
        f"{machine(found.environment)}."
    )


def to_markdown(found: Benchmark) -> str:
    """Return Markdown tables for a pull request or a job summary."""
    lines = ["## prunekit bench", ""]
    if found.verdicts:
        lines += [*(f"- {markdown(line)}" for line in verdict_lines(found)), ""]
    for table in (time_table(found), cost_table(found)):
        header, *body = table
        lines.append(f"| {' | '.join(map(markdown, header))} |")
        lines.append(f"|---|{'---:|' * (len(header) - 1)}")
        lines += [f"| {' | '.join(map(markdown, row))} |" for row in body]
        lines.append("")
    return "\n".join([*lines, markdown(conditions(found))]) + "\n"


FORMATS = {
    "json": Benchmark.to_json,
    "csv": to_csv,
    "markdown": to_markdown,
    "github": to_github,
    "pytest_benchmark": to_pytest_benchmark,
}
