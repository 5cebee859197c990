"""Results of a benchmark: frozen values that serialise to plain JSON, raw times included."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from prunekit.errors import DataError
from prunekit.runtime.records import Comparison, Environment, Ratio
from prunekit.validation.arguments import Place, checked
from prunekit.validation.limits import BENCHMARK_BYTES
from prunekit.validation.reading import ReadError, parse_json, read_text

VERSION = 1

Count = Literal["params", "macs", "nodes", "bytes"]
#: Exact counts, in the order in which they are reported.
COUNTS: tuple[Count, ...] = get_args(Count)


@dataclass(frozen=True)
class Footprint:
    """Costs of a candidate other than its time.

    Attributes
    ----------
    name : str
    backend, device : str
    path : str
        Path as the user named it.
    bytes : int
        Size of its file, or of a checkpoint's weights.
    params : int
        Elements of its weights.
    nodes : int or None
        Nodes of the graph in the file; None where there is no graph.
    macs : int or None
        Multiply-accumulates of one row of `macs_length` tokens; None where there is no graph.
    macs_length : int
    load_seconds : float
        Median time to load it, the file in the system's cache.
    peak_bytes : int or None
        Peak memory of a process that loads it and runs every batch once; None where it was not measured.
    placement : dict
        Number of nodes by provider or device: {"CPUExecutionProvider": 257}.
    agreement : float or None
        Share of rows for which it ranks the same class first as the baseline does; None where there is nothing to compare.
    plan : str or None
        Digest of the plan beside it; None where there is none.
    """

    name: str
    backend: str
    device: str
    path: str
    bytes: int
    params: int
    nodes: int | None
    macs: int | None
    macs_length: int
    load_seconds: float
    peak_bytes: int | None
    placement: dict[str, int]
    agreement: float | None
    plan: str | None = None

    def count(self, what: Count) -> int | None:
        """Return one of the exact counts."""
        return {"params": self.params, "macs": self.macs, "nodes": self.nodes, "bytes": self.bytes}[what]


@dataclass(frozen=True)
class Verdict:
    """Outcome of one check of a gate for one candidate.

    Attributes
    ----------
    check : str
        "latency" or "speedup" with the comparison, or an exact count.
    candidate : str
    limit : float
        The growth that is allowed (0.1: 10% more than the baseline), or for a speed-up the ratio that is asked for.
    value, low, high : float
        The growth, or the ratio, with its 95% interval; all three are the same for an exact count.
    outcome : {"passed", "failed", "undecided"}
        Growth of time fails where the whole interval is above the limit, and is undecided where the limit lies within it;
        a speed-up passes where the whole interval is at or above what is asked for, and fails otherwise.
    """

    check: str
    candidate: str
    limit: float
    value: float
    low: float
    high: float
    outcome: Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Benchmark:
    """Result of a benchmark.

    Attributes
    ----------
    version : int
        Of this format.
    baseline : str
    time : str
        Time of the benchmark, ISO 8601, UTC.
    costs : tuple of Footprint
        One for each candidate.
    labels : tuple of str
        Batches of each comparison: "batch 1, data".
    comparisons : tuple of Comparison
        With the raw times.
    verdicts : tuple of Verdict
    environment : Environment
    """

    version: int
    baseline: str
    time: str
    costs: tuple[Footprint, ...]
    labels: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    environment: Environment

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(verdict.outcome != "failed" for verdict in self.verdicts)

    def cost(self, name: str) -> Footprint:
        """Return one candidate's costs; raise KeyError if there is none of that name."""
        return {cost.name: cost for cost in self.costs}[name]

    def ratio(self, candidate: str | None = None, label: str | None = None) -> Ratio:
        """Return the speed of a candidate relative to the baseline.

        Parameters
        ----------
        candidate : str, optional
            The first that is not the baseline, where not given.
        label : str, optional
            Label of the comparison; the first where not given.

        Raises
        ------
        KeyError
            If there is no such candidate or comparison.
        """
        names = [cost.name for cost in self.costs if cost.name != self.baseline]
        comparison = dict(zip(self.labels, self.comparisons, strict=True))[label or self.labels[0]]
        if not names:
            raise KeyError("There is one candidate, and nothing to compare it with.")
        return comparison.ratio(candidate or names[0])

    def to_json(self) -> str:
        """Return the benchmark as JSON."""
        return json.dumps(asdict(self), allow_nan=False) + "\n"

    @classmethod
    @checked("Benchmark.from_json")
    def from_json(cls, text: str, *, name: str = "benchmark") -> Benchmark:
        """Read a benchmark from JSON.

        Raises
        ------
        DataError
            Not a benchmark, or one of a later version.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            fields = parse_json(text)
        except ReadError as error:
            raise DataError(f"{name} cannot be read: {error}") from None
        version = fields.get("version") if isinstance(fields, dict) else None
        if isinstance(version, int) and version > VERSION:
            raise DataError(f"{name} has version {version}; this prunekit reads up to {VERSION}. Upgrade prunekit.")
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(f"{name} is not a benchmark: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    @classmethod
    @checked("Benchmark.load")
    def load(cls, path: Place) -> Benchmark:
        """Read a file with the text of `to_json`; raise DataError where it is invalid."""
        try:
            text = read_text(path, BENCHMARK_BYTES)
        except ReadError as error:
            raise DataError(f"The benchmark {str(path)!r} cannot be read: {error}.") from None
        return cls.from_json(text, name=str(path))
