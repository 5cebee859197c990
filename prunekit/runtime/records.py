"""Records of measurements: frozen values of plain JSON, each with its unit in its name or its docstring."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AliasChoices, Field

Clock = Literal["wall", "thread", "process"]
PACKAGES = (
    "prunekit",
    "torch",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "numpy",
    "scikit-learn",
)
# Instruction sets that determine the speed of low precision, by their names in /proc/cpuinfo.
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx_vnni": "AVX_VNNI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_bf16": "AMX_BF16",
    "amx_int8": "AMX_INT8",
    "asimd": "NEON",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}


@dataclass(frozen=True)
class Environment:
    """Machine and software of a measurement.

    Attributes
    ----------
    python, system : str
    packages : dict
        {distribution: version} of those that are installed.
    processor : str
        Model name.
    instructions : tuple of str
        Those that determine the speed of low precision: AVX512_VNNI, AMX_INT8, ...
    cores : int
        Logical processors of the machine.
    affinity : int
        Logical processors that this process may use.
    """

    python: str
    system: str
    packages: dict[str, str]
    processor: str
    instructions: tuple[str, ...]
    cores: int
    affinity: int


def environment(cpuinfo: Path = Path("/proc/cpuinfo")) -> Environment:
    """Record the machine and the installed packages; nothing is imported."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    processor, flags = platform.processor() or platform.machine(), set[str]()
    if cpuinfo.is_file():
        fields = dict(_field(line) for line in reversed(cpuinfo.read_text(encoding="utf-8").splitlines()) if ":" in line)
        processor = fields.get("model name", processor)
        flags = set((fields.get("flags") or fields.get("Features") or "").split())
    cores = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    instructions = tuple(name for flag, name in _INSTRUCTIONS.items() if flag in flags)
    return Environment(
        platform.python_version(), f"{platform.system()} {platform.release()}", packages, processor, instructions, cores, affinity
    )


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


@dataclass(frozen=True)
class ShapeParity:
    """Difference between two models on one batch.

    Attributes
    ----------
    batch, length : int
        Rows and padded length.
    max_abs_difference : float
        Over all outputs, of real tokens only where there is one output per token.
    largest : float
        Largest absolute value that the PyTorch model gave, for scale.
    addends : float
        Of a readout, the largest sum of absolute values of the products that an output is the sum of; 0 of any other model.
    """

    batch: int
    length: int
    max_abs_difference: float
    largest: float
    addends: float = 0.0


@dataclass(frozen=True)
class Parity:
    """Difference between the deployed file and the PyTorch model.

    Attributes
    ----------
    max_abs_difference : float
        Over all shapes.
    tolerance : float
        Allowed difference, absolute.
    relative : float
        Difference allowed in addition, as a share of the largest output.
    shapes : tuple of ShapeParity
    seed : int
        Of the random inputs.
    """

    max_abs_difference: float
    tolerance: float
    relative: float
    shapes: tuple[ShapeParity, ...]
    seed: int


@dataclass(frozen=True)
class Fidelity:
    """Difference between a file in lower precision and the float32 one.

    Attributes
    ----------
    error : float
        Mean squared difference of the outputs, as a share of the variance of the float32 file's.
    agreement : float or None
        Share of predictions that are the same, in [0, 1]; None for outputs that predict no class.
    """

    error: float
    agreement: float | None = None


@dataclass(frozen=True)
class Score:
    """Score of a file on a split.

    Attributes
    ----------
    value, low, high : float
        The metric and its 95% confidence interval.
    agreement : float or None
        Share of predictions that are those of the float32 file; None for values.
    error : float or None
        Mean squared difference of the outputs to those of the float32 file, as a share of their variance; None where they do not vary.
    """

    value: float
    low: float
    high: float
    agreement: float | None
    error: float | None


@dataclass(frozen=True)
class WeightError:
    """Error of quantising one weight alone.

    Attributes
    ----------
    name : str
        Where the graph reads it.
    error : float
        As in `Fidelity`.
    share : float
        Of the errors of all weights.
    bytes_share : float
        Of the bytes of all weights.
    kept : bool
        Whether it is not quantised: 16 or 32 bits.
    balanced : bool
        Whether the ranges of the channels of its input are balanced before quantisation.
    bits : int or None
        Of each number in the file: 6, 8, 16 or 32; None in earlier reports.
    """

    name: str
    error: float
    share: float
    bytes_share: float
    kept: bool
    balanced: bool = False
    bits: int | None = None


@dataclass(frozen=True)
class Timing:
    """Times of one candidate.

    Attributes
    ----------
    name : str
    milliseconds : tuple of float
        Raw time of each round by `Comparison.clock`, in the order of the rounds; round r is a batch of
        `Comparison.shapes[Comparison.order[r]]`.
    p50_ms, p90_ms, p99_ms : float
        Percentiles of `milliseconds`.
    rows_per_second : float
        All rows over all time.
    """

    name: str
    milliseconds: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    rows_per_second: float

    @property
    def p95_ms(self) -> float:
        """95th percentile of `milliseconds`."""
        return float(np.percentile(self.milliseconds, 95))


@dataclass(frozen=True)
class Ratio:
    """Speed-up of a candidate over the baseline.

    Attributes
    ----------
    candidate : str
    value : float
        Median over the rounds of time(baseline) / time(candidate) on the same batch, one right after the other; the
        median of these medians over several invocations.
    low, high : float
        95% bootstrap interval over the invocations and the rounds within them.
    """

    candidate: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """An interleaved comparison; every round times every candidate once on one batch, after a run that is not timed.

    Attributes
    ----------
    baseline : str
    device : str
        Device: "cpu", "cuda".
    threads : int
        Processor threads of each candidate.
    batch_size : int
        Most rows in a batch.
    shapes : tuple of (int, int)
        Rows and padded length of each batch.
    order : tuple of int
        The batch of each round.
    warmup : int
        Rounds before the first that counts, in each invocation.
    stopped : {"narrow", "time"}
        Whether every interval became narrow enough, or the time ran out.
    seconds : float
        Wall time from the first round that counts to the last.
    seed : int
        Of the bootstrap.
    timings : tuple of Timing
    ratios : tuple of Ratio
        One for each candidate but the baseline.
    environment : Environment
    invocations : tuple of int
        The first round of each invocation; the candidates are loaded again for each.
    clock : {"wall", "thread", "process"}
        Clock of the times: "thread" is the processor time of the one thread, "process" that of all threads.
    """

    baseline: str
    device: str
    threads: int
    batch_size: int
    shapes: tuple[tuple[int, int], ...]
    order: tuple[int, ...]
    warmup: int
    stopped: Literal["narrow", "time"]
    seconds: float
    seed: int
    timings: tuple[Timing, ...]
    ratios: tuple[Ratio, ...]
    environment: Environment
    # Its name in reports and benchmarks of earlier versions is read too.
    invocations: Annotated[tuple[int, ...], Field(validation_alias=AliasChoices("invocations", "sittings"))] = (0,)
    clock: Clock = "wall"

    @property
    def rounds(self) -> int:
        """Number of rounds that count."""
        return len(self.order)

    @property
    def mean_length(self) -> float:
        """Mean padded length of the batches, tokens, each weighted by its rows."""
        rows = sum(rows for rows, _ in self.shapes)
        return sum(rows * length for rows, length in self.shapes) / rows

    def timing(self, name: str) -> Timing:
        """Return the times of one candidate; KeyError if there is none of that name."""
        return {timing.name: timing for timing in self.timings}[name]

    def ratio(self, candidate: str) -> Ratio:
        """Return the ratio of one candidate; KeyError if there is none of that name."""
        return {ratio.candidate: ratio for ratio in self.ratios}[candidate]
