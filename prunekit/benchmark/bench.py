"""`prunekit.bench`: candidates side by side, in one process, on the same batches."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from prunekit.benchmark.backends.base import Runner
from prunekit.benchmark.batches import Case, check_positions, check_sizes, data_cases, fixed_case, row_of, usual_lengths
from prunekit.benchmark.candidates import Candidate, parse, prepare, told_apart
from prunekit.benchmark.counts import bytes_of, macs_of, params_of, read_graph, vocabulary_size, weights_of
from prunekit.benchmark.gate import CHECKS, Gate
from prunekit.benchmark.memory import peak_bytes
from prunekit.benchmark.results import VERSION, Benchmark, Footprint
from prunekit.benchmark.rivals import rivals
from prunekit.data.options import Column, check_columns
from prunekit.errors import ModelError, ParameterError, StatisticsError
from prunekit.runtime.records import Comparison, environment
from prunekit.runtime.timing import compare, narrow, stopwatch, warm_up
from prunekit.validation.arguments import NotEmpty, Place, Seed, Within, checked
from prunekit.validation.limits import BATCH_TOKENS, POSITIONS, THREADS
from prunekit.validation.limits import SECONDS as LONGEST
from prunekit.validation.scratch import temporary

LENGTHS = (16, 128)
SECONDS = 60.0
_ROUNDS = 20  # with fewer, bootstrap intervals are too narrow


@checked("bench")
def bench(
    *models: Place,
    baseline: Place | None = None,
    backends: Annotated[Sequence[str], NotEmpty()] | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    batch_sizes: Annotated[Sequence[int], NotEmpty()] = (1,),
    lengths: Annotated[Sequence[int], NotEmpty()] | Literal["data"] | None = None,
    data: Place | None = None,
    columns: Mapping[Column, str | None] | None = None,
    max_length: Annotated[int, Within(4, POSITIONS)] | None = None,
    threads: Annotated[int, Within(1, THREADS)] = 1,
    max_regression: float | None = None,
    min_speedup: float | None = None,
    checks: Annotated[Sequence[str], NotEmpty()] = CHECKS,
    against: Sequence[str] = (),
    time_budget: Annotated[float, Within(1e-6, LONGEST)] = SECONDS,
    memory: bool = True,
    seed: Seed = 0,
) -> Benchmark:
    """Time models side by side.

    Parameters
    ----------
    *models : path or str
        ``[NAME=][BACKEND:]PATH``: an ONNX file, or a directory with one or with a checkpoint.
    baseline : path or str, optional
        Reference of the comparisons: the name of one of the models, or one more of them; the first where not given.
    backends : sequence of str, optional
        For models that name none; onnxruntime on `device` where not given.
    device : {"cpu", "cuda"}
        Where onnxruntime runs a model that names no backend.
    batch_sizes : sequence of int
        Rows in a batch; one comparison for each, and for each length.
    lengths : sequence of int, or "data", optional
        Tokens in a row, or the data's own lengths in batches of about one length; the latter where `data` is given, 16 and 128
        where not.
    data : path or str, optional
        As `prunekit.data.load.load_data` reads it; its test split is used.
    columns : mapping, optional
        `load_data`'s parameters that name columns.
    max_length : int, optional
        Tokens after which a row of the data is cut; default: 128, 384 for questions, or the models' positions where they are fewer.
    threads : int
        Processor threads of each candidate.
    max_regression, min_speedup, checks
        As in `Gate`.
    against : sequence of str
        Alternatives to compare with, of `prunekit.benchmark.rivals.RIVALS`, made from the model that the first artefact among the
        models names as its source; where no baseline is given, the first of these is the baseline.
    time_budget : float
        Seconds for all comparisons together.
    memory : bool
        Whether to measure the peak memory, in a process for each candidate.
    seed : int
        Of the batches and the bootstrap.

    Returns
    -------
    Benchmark

    Raises
    ------
    ParameterError, ModelError, DataError
        Parameters, files or data that cannot be used.
    DependencyError
        A runtime or a device that is not there, or nodes that ran elsewhere than asked.
    StatisticsError
        Outputs that are not finite, or a clock that did not move.
    """
    gate = Gate(max_regression, min_speedup, tuple(checks))
    check_sizes("batch", batch_sizes)
    check_columns(columns or {}, data, of="bench")
    if lengths is not None and lengths != "data":
        _check_lengths(batch_sizes, lengths, data)
    candidates, base = _candidates(models, baseline, backends, device)
    if len(candidates) + len(against) < 2 and (max_regression is not None or min_speedup is not None):
        raise ParameterError("baseline", "bench", "given where one model is gated", "nothing")
    if lengths is None and data is not None:
        lengths = "data"
    if lengths == "data" and data is None:
        raise ParameterError("data", "bench", "given for the data's own lengths", "nothing", "Give --data, or --length 128.")
    with temporary() as scratch:
        others = rivals(against, candidates, device, scratch)
        ready = [prepare(candidate, scratch) for candidate in told_apart((*candidates, *others))]
        base = ready[len(candidates)].name if others and baseline is None else base
        if lengths == "data":
            assert data is not None
            cases = data_cases(ready, batch_sizes, data, baseline=base, max_length=max_length, seed=seed, columns=columns or {})
        else:
            lengths = usual_lengths(ready, LENGTHS) if lengths is None else lengths
            check_positions(ready, lengths)
            cases = [fixed_case(ready, size, length, seed=seed) for size in batch_sizes for length in lengths]
        loaded = _LoadedCandidates(ready, base, threads, cases[0].batches)
        costs = _costs(ready, loaded, cases, threads, memory)
        comparisons = [_compare(case, loaded, gate, time_budget / len(cases), seed, threads) for case in cases]
        costs = [replace(cost, load_seconds=float(np.median(loaded.load_seconds[cost.name]))) for cost in costs]
    labels = tuple(case.label for case in cases)
    verdicts = gate.verdicts(next(cost for cost in costs if cost.name == base), costs, labels, comparisons)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Benchmark(VERSION, base, now, tuple(costs), labels, tuple(comparisons), verdicts, environment())


def _check_lengths(batch_sizes: Sequence[int], lengths: Sequence[int], data: Place | None) -> None:
    check_sizes("length", lengths)
    if data is not None:
        must = "left out where lengths are named: rows of random tokens are timed, not those of the data"
        raise ParameterError("data", "bench", must, os.fspath(data), "Leave out --length, or say --length data.")
    if max(batch_sizes) * max(lengths) > BATCH_TOKENS:
        must = f"such that a batch has at most {BATCH_TOKENS:,} tokens"
        raise ParameterError("batch", "bench", must, f"{max(batch_sizes):,} rows of {max(lengths):,}")


def _candidates(
    models: Sequence[str | Path], baseline: str | Path | None, backends: Sequence[str] | None, device: str
) -> tuple[tuple[Candidate, ...], str]:
    """Return the candidates, whose backends can run here, and the name of the baseline."""
    if not models:
        raise ParameterError("models", "bench", "one or more", "nothing")
    if device not in ("cpu", "cuda"):
        raise ParameterError("device", "bench", "one of cpu, cuda", device)
    default_backends = tuple(backends or ("ort-cuda" if device == "cuda" else "ort",))
    specs = [str(model) for model in models]
    candidates = parse(specs, default_backends)
    base = candidates[0].name if baseline is None else str(baseline)
    if base not in {candidate.name for candidate in candidates}:
        candidates = parse([base, *specs], default_backends)
        base = candidates[0].name
    for backend in {candidate.backend.name: candidate.backend for candidate in candidates}.values():
        backend.check()
    return candidates, base


class _LoadedCandidates:
    """Loaded candidates, loaded again for each invocation.

    Attributes
    ----------
    load_seconds : dict
        {candidate: seconds of each load}.
    """

    def __init__(self, candidates: Sequence[Candidate], baseline: str, threads: int, calibration: Mapping[str, Sequence[Any]]) -> None:
        self.candidates, self.baseline = list(candidates), baseline
        self._threads, self._calibration = threads, calibration
        self.load_seconds: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
        self.runners: dict[str, Runner] = {}
        self._feeds: dict[str, list[Any]] = {}
        self.load(0)

    def load(self, invocation: int) -> None:
        """Load all candidates, in rotating order; those that take long to load are loaded once."""
        first = invocation % len(self.candidates)
        reloaded = [
            candidate
            for candidate in (*self.candidates[first:], *self.candidates[:first])
            if not (candidate.backend.once and candidate.name in self.runners)
        ]
        for candidate in reloaded:
            self._feeds.pop(candidate.name, None)
            self.runners.pop(candidate.name, None)
        gc.collect()
        for candidate in reloaded:
            start = time.perf_counter()
            self.runners[candidate.name] = candidate.backend.load(
                candidate.source, threads=self._threads, calibration=self._calibration[candidate.name]
            )
            self.load_seconds[candidate.name].append(time.perf_counter() - start)

    def bind(self, case: Case) -> dict[str, Callable[[int], None]]:
        """Return each candidate as a function of the index of a batch."""
        for candidate in self.candidates:
            name = candidate.name
            self._feeds[name] = [self.runners[name].feeds(batch) for batch in case.batches[name]]
        return {candidate.name: self._run(candidate.name) for candidate in self.candidates}

    def _run(self, name: str) -> Callable[[int], None]:
        # Looked up at each call, so that no reference keeps a model in memory while the next one is loaded.
        def run(at: int) -> None:
            self.runners[name].run(self._feeds[name][at])

        return run


def _compare(case: Case, loaded: _LoadedCandidates, gate: Gate, seconds: float, seed: int, threads: int) -> Comparison:
    def reopen(invocation: int) -> dict[str, Callable[[int], None]]:
        loaded.load(invocation)
        return loaded.bind(case)

    devices = ", ".join(dict.fromkeys(candidate.backend.device for candidate in loaded.candidates))
    candidates, batches = loaded.bind(case), range(len(case.shapes))
    return compare(
        candidates,
        batches,
        baseline=loaded.baseline,
        shapes=case.shapes,
        min_rounds=max(_ROUNDS, 2 * len(case.shapes)),
        max_seconds=seconds,
        warmup=1,
        seed=seed,
        threads=threads,
        device=devices,
        lap=stopwatch(threads, devices, partial(warm_up, candidates, batches)),
        reopen=reopen,
        enough=lambda ratios: narrow(ratios) and gate.decided(ratios),
    )


def _costs(
    candidates: Sequence[Candidate], loaded: _LoadedCandidates, cases: Sequence[Case], threads: int, memory: bool
) -> list[Footprint]:
    shapes = cases[0].shapes
    length = round(sum(rows * length for rows, length in shapes) / sum(rows for rows, _ in shapes))
    row = row_of(candidates, length)
    answers = {candidate.name: _answers(loaded.runners[candidate.name], candidate.name, cases[0]) for candidate in candidates}
    # Random tokens are comparable between models only if their vocabularies have the same size.
    alike = cases[0].length is None or len({vocabulary_size(candidate.source) for candidate in candidates}) == 1
    compared = {candidate.name for candidate in candidates if alike} - {loaded.baseline}
    costs = []
    for candidate in candidates:
        runner, source = loaded.runners[candidate.name], candidate.source
        feeds = runner.feeds(row)
        nodes: int | None = None
        macs: int | None = None
        if candidate.backend.reads == "onnx":
            assert source.onnx is not None
            graph = read_graph(source.onnx)
            params, size, nodes = params_of(graph), bytes_of(source.onnx, graph), len(graph.graph.node)
            macs = macs_of(source.onnx, row)
        else:
            assert source.folder is not None
            params, size = weights_of(source.folder)
        cost = Footprint(
            name=candidate.name,
            backend=candidate.backend.name,
            device=candidate.backend.device,
            path=str(source.path),
            bytes=size,
            params=params,
            nodes=nodes,
            macs=macs,
            macs_length=length,
            load_seconds=0.0,
            peak_bytes=_peak(candidate, cases, threads) if memory else None,
            placement=runner.placement(feeds),
            agreement=_agreement(answers[loaded.baseline], answers[candidate.name]) if candidate.name in compared else None,
            plan=source.plan,
        )
        costs.append(cost)
    return costs


def _peak(candidate: Candidate, cases: Sequence[Case], threads: int) -> int | None:
    return peak_bytes(candidate, [batch for case in cases for batch in case.batches[candidate.name]], threads=threads)


def _answers(runner: Runner, name: str, case: Case) -> list[NDArray[Any]]:
    """Return the first output for each batch of a case."""
    outputs = []
    for batch in case.batches[name]:
        output = next(iter(runner.outputs(runner.feeds(batch)).values()))
        if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
            raise ModelError(f"The model {name!r} answers with other than numbers. No time was taken.")
        if not np.isfinite(output).all():
            raise StatisticsError(f"The model {name!r} gives NaN or infinity. No time was taken.")
        outputs.append(output)
    return outputs


def _agreement(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float | None:
    """Return the share of rows with the same largest output, for outputs (rows, classes)."""
    if any(first.shape != second.shape or first.ndim != 2 or first.shape[1] < 2 for first, second in zip(ours, theirs, strict=True)):
        return None
    same = [first.argmax(-1) == second.argmax(-1) for first, second in zip(ours, theirs, strict=True)]
    return float(np.concatenate(same).mean())
