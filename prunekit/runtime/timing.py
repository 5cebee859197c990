"""Interleaved timing of several candidates, compared by ratios of paired times.

A processor's clock, its caches and its other load change absolute times by a quarter within minutes. So the candidates
alternate on the same batch, in an order that rotates, and the result is the ratio of two times measured one right after
the other. Percentiles in milliseconds are reported beside it, for orientation.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import ParameterError, StatisticsError
from prunekit.runtime.bootstrap import bootstrap_invocations
from prunekit.runtime.records import Clock, Comparison, Ratio, Timing, environment
from prunekit.runtime.session import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunekit.data.batches import Encoded

B = TypeVar("B")

HALF_WIDTH = 0.02
_SINGLES, _BUCKETS = 32, 8  # batches of one row, and of several
_RESOLUTION = 1e-6  # seconds
# The least number, and the number that the time is divided into: times vary more between invocations than within one.
_INVOCATIONS = (4, 20)
_CLOCKS: dict[Callable[[], float], Clock] = {time.thread_time: "thread", time.process_time: "process"}
_OTHER_THREADS = 0.02  # largest share of the processor time in other threads at which the time of the calling one is used


def compare(
    candidates: Mapping[str, Callable[[B], object]],
    batches: Sequence[B],
    *,
    baseline: str,
    shapes: Sequence[tuple[int, int]],
    min_rounds: int = 30,
    max_seconds: float = 30.0,
    warmup: int = 3,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    lap: Callable[[], float] | None = None,
    reopen: Callable[[int], Mapping[str, Callable[[B], object]]] | None = None,
    enough: Callable[[Sequence[Ratio]], bool] | None = None,
) -> Comparison:
    """Time candidates against a baseline, interleaved.

    A round times every candidate once on one batch. Before that the candidate runs on the previous batch, untimed, because the
    others evicted its data from the processor's caches: in service only its own last request precedes. The order of the
    candidates rotates from batch to batch, and from one pass over the batches to the next, so that none always comes first, on
    any batch. It stops after the first pass at which the ratios suffice, or after the first round at which the time runs out.

    With `reopen` there are several invocations (`Comparison.invocations`), of a twentieth of the time each and four at least: each
    loads the candidates again, because the placement of a model in memory is random for each load.

    Parameters
    ----------
    candidates : mapping
        {name: function of a batch}.
    batches : sequence
    baseline : str
        The name of the candidate that the others are compared with.
    shapes : sequence of (int, int)
        Rows and padded length of each batch.
    min_rounds : int
        Rounds in any case.
    max_seconds : float
        Time after which no further round begins; the first warm-up is not counted.
    warmup : int
        Passes over the batches before the first that counts, in each invocation.
    seed : int
        Of the bootstrap.
    threads, device
        Those of the candidates, for the record.
    clock : callable
        Seconds; only differences count.
    lap : callable, optional
        Clock of the single runs; default: `clock`.
    reopen : callable, optional
        Number of an invocation -> the candidates, loaded again.
    enough : callable, optional
        Whether the ratios suffice; by default, if each interval has a half-width of at most 2% of its ratio.

    Returns
    -------
    Comparison

    Raises
    ------
    ParameterError
        No candidates, no batches, an unknown baseline or a limit below 1.
    StatisticsError
        A clock that did not move.
    """
    _check(candidates, batches, baseline, shapes, min_rounds, warmup)
    protocol = _Protocol(min_rounds, max_seconds, warmup, clock, lap or clock)
    enough = enough or narrow
    measured = _measure(
        candidates, batches, protocol, reopen, lambda measured: enough(_ratios(measured.taken, measured.invocations, baseline, seed))
    )
    rows = sum(shapes[index][0] for index in measured.order)
    return Comparison(
        baseline=baseline,
        device=device,
        threads=threads,
        batch_size=max(rows for rows, _ in shapes),
        shapes=tuple((int(rows), int(length)) for rows, length in shapes),
        order=tuple(measured.order),
        invocations=tuple(measured.invocations),
        warmup=warmup * len(batches),
        stopped=measured.stopped,
        seconds=measured.seconds,
        seed=seed,
        timings=tuple(_timing(name, seconds, rows) for name, seconds in measured.taken.items()),
        ratios=_ratios(measured.taken, measured.invocations, baseline, seed),
        environment=environment(),
        clock=_CLOCKS.get(protocol.lap, "wall"),
    )


@dataclass(frozen=True)
class _Protocol:
    """Stopping rule and clocks of a comparison; the fields are parameters of `compare`."""

    min_rounds: int
    max_seconds: float
    warmup: int
    clock: Callable[[], float]
    lap: Callable[[], float]


@dataclass
class _Measurements:
    """Measured times: the seconds of each candidate in each round, the batch of each round, and the first round of each invocation."""

    taken: dict[str, list[float]]
    order: list[int] = field(default_factory=list)
    invocations: list[int] = field(default_factory=lambda: [0])
    stopped: Literal["narrow", "time"] = "time"
    seconds: float = 0.0


def _measure(
    candidates: Mapping[str, Callable[[B], object]],
    batches: Sequence[B],
    protocol: _Protocol,
    reopen: Callable[[int], Mapping[str, Callable[[B], object]]] | None,
    enough: Callable[[_Measurements], bool],
) -> _Measurements:
    names, clock = list(candidates), protocol.clock
    measured = _Measurements({name: [] for name in names})
    order, invocations = measured.order, measured.invocations
    next_check = protocol.min_rounds
    warm_up(candidates, batches, protocol.warmup)
    with _garbage_collection_off():
        begin = loaded = clock()
        while True:
            cycle, index = divmod(len(order) - invocations[-1], len(batches))
            if index == 0 and len(order) >= next_check and (reopen is None or len(invocations) >= _INVOCATIONS[0]):
                if enough(measured):
                    measured.stopped = "narrow"
                    break
                # The bootstrap costs more than a fast round, and a few rounds more change the interval little.
                next_check = len(order) * 11 // 10
            if len(order) >= protocol.min_rounds and clock() - begin >= protocol.max_seconds:
                break
            if reopen is not None and cycle and index == 0 and clock() - loaded >= protocol.max_seconds / _INVOCATIONS[1]:
                candidates = reopen(len(invocations))
                warm_up(candidates, batches, protocol.warmup)
                invocations.append(len(order))
                gc.collect()
                loaded, cycle = clock(), 0
            first = (index + cycle + len(invocations) - 1) % len(names)
            for name in (*names[first:], *names[:first]):
                run = candidates[name]
                run(batches[index - 1])
                start = protocol.lap()
                run(batches[index])
                measured.taken[name].append(protocol.lap() - start)
            del run  # it would hold a candidate while the next ones are loaded
            order.append(index)
        measured.seconds = clock() - begin
    return measured


def warm_up(candidates: Mapping[str, Callable[[B], object]], batches: Sequence[B], passes: int = 1) -> None:
    """Run every candidate on every batch, `passes` times."""
    for turn in range(passes * len(batches)):
        for run in candidates.values():
            run(batches[turn % len(batches)])


def _check(
    candidates: Mapping[str, object], batches: Sequence[object], baseline: str, shapes: Sequence[object], min_rounds: int, warmup: int
) -> None:
    if baseline not in candidates:
        raise ParameterError("baseline", "compare", f"one of {', '.join(candidates)}", baseline)
    if not batches:
        raise ParameterError("batches", "compare", "at least one", "nothing")
    if len(shapes) != len(batches):
        raise ParameterError("shapes", "compare", f"one for each of the {len(batches)} batches", len(shapes))
    if min_rounds < 1:
        raise ParameterError("min_rounds", "compare", "at least 1", min_rounds)
    if warmup < 0:
        raise ParameterError("warmup", "compare", "at least 0", warmup)


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Disable garbage collection, which would be counted as time of the candidate that it interrupts."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ratios(seconds: Mapping[str, Sequence[float]], invocations: Sequence[int], baseline: str, seed: int) -> tuple[Ratio, ...]:
    ratios = []
    base = np.asarray(seconds[baseline], dtype=np.float64)
    for name, times in seconds.items():
        if name == baseline:
            continue
        own = np.asarray(times, dtype=np.float64)
        if base.min() <= 0 or own.min() <= 0:
            raise StatisticsError(f"The clock did not move while {baseline!r} or {name!r} ran: the batches are too small to be timed.")
        paired = np.split(np.log(base / own), invocations[1:])
        value, low, high = (
            math.exp(log_ratio) for log_ratio in bootstrap_invocations([rounds for rounds in paired if len(rounds)], seed=seed)
        )
        ratios.append(Ratio(name, value, low, high))
    return tuple(ratios)


def ratio_between(found: Comparison, candidate: str, other: str) -> Ratio:
    """Return the speed-up of one candidate over another, from the same rounds; KeyError if there is none of that name."""
    taken = {name: found.timing(name).milliseconds for name in (other, candidate)}
    (ratio,) = _ratios(taken, found.invocations, other, found.seed)
    return ratio


def narrow(ratios: Sequence[Ratio]) -> bool:
    """Return whether each interval has a half-width of at most 2% of its ratio."""
    return all((ratio.high - ratio.low) / 2 <= HALF_WIDTH * ratio.value for ratio in ratios)


def _timing(name: str, seconds: Sequence[float], rows: int) -> Timing:
    # A clock's own resolution is far above 10 ns, so nothing is lost by rounding to that.
    raw = tuple(round(1000 * value, 5) for value in seconds)
    p50, p90, p99 = (float(value) for value in np.percentile(raw, [50, 90, 99]))
    return Timing(name, raw, p50, p90, p99, rows / sum(seconds))


def single_rows(lengths: NDArray[np.int64], count: int, *, seed: int = 0) -> tuple[NDArray[np.int64], ...]:
    """Select batches of one row, with the lengths of all rows and in the order of the data, as requests come.

    Parameters
    ----------
    lengths : ndarray of shape (n,), int64
        Tokens in each row.
    count : int
        Batches, at most.
    seed : int

    Returns
    -------
    tuple of int64 ndarray of shape (1,)
        One row of each `count`-th of the rows by length.
    """
    order = np.argsort(lengths, kind="stable")
    edges = np.linspace(0, len(order), min(count, len(order)) + 1).astype(np.int64)
    rows = order[np.random.default_rng(seed).integers(edges[:-1], edges[1:])]
    return tuple(np.sort(rows)[:, None])


def bucketed_rows(lengths: NDArray[np.int64], batch_size: int, count: int, *, seed: int = 0) -> tuple[NDArray[np.int64], ...]:
    """Select batches of rows of about one length, as a server that sorts its queue makes them.

    Parameters
    ----------
    lengths : ndarray of shape (n,), int64
        Tokens in each row.
    batch_size : int
        Rows in a batch; all there are, if there are fewer.
    count : int
        Batches, at most.
    seed : int

    Returns
    -------
    tuple of int64 ndarray of shape (min(batch_size, n),)
        From short to long, one batch of each `count`-th of all full batches.
    """
    size = min(batch_size, len(lengths))
    order = np.argsort(lengths, kind="stable")
    full = len(order) // size
    edges = np.linspace(0, full, min(count, full) + 1).astype(np.int64)
    chosen = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    # The rows that do not fill a batch are split between both ends, so that not only the longest are left out.
    start = (len(order) - full * size) // 2
    return tuple(order[start + size * at : start + size * (at + 1)] for at in chosen)


def stopwatch(threads: int, device: str = "cpu", work: Callable[[], object] | None = None) -> Callable[[], float]:
    """Return the clock for one thread on the processor: its processor time, if there is a clock of that; else wall time.

    Other processes interrupt a long run more often than a short one, so that by wall time a slim model seems faster the
    higher the load of the machine: by a factor of 2, with eight programs on two cores. On an idle machine both agree.

    Parameters
    ----------
    threads : int
        Of each candidate.
    device : str
    work : callable, optional
        Function to be timed: if other threads than the caller's do part of the work, the clock is the processor time of the
        process. It is run twice, the first time to warm up. By default they are assumed not to, as with onnxruntime.
    """
    fine = all(time.get_clock_info(name).resolution <= _RESOLUTION for name in ("thread_time", "process_time"))
    if threads != 1 or device != "cpu" or not fine:
        return time.perf_counter
    return time.thread_time if work is None or _runs_in_caller(work) else time.process_time


def _runs_in_caller(work: Callable[[], object]) -> bool:
    """Return whether the calling thread does all of the work."""
    work()  # compilation and first allocations are not counted
    process, thread = time.process_time(), time.thread_time()
    work()
    thread, process = time.thread_time() - thread, time.process_time() - process
    return thread >= (1 - _OTHER_THREADS) * process


def latency_of_files(
    files: Mapping[str, str | Path],
    encoded: Encoded,
    *,
    baseline: str = "dense",
    own: Mapping[str, Encoded] | None = None,
    batch_sizes: Sequence[int] = (1, 32),
    threads: int = 1,
    device: str = "cpu",
    min_rounds: int = 10,
    max_seconds: float = 20.0,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare ONNX files on the data's real lengths.

    Files are loaded again for each invocation of `compare`, four times at least unless the time runs out before: the placement of a
    model in memory changes the ratio by more than rounds within one load do.

    Parameters
    ----------
    files : mapping
        {name: ONNX file}, at least two.
    encoded : Encoded
        Rows to take batches from.
    baseline : str
        The name of the file that the others are compared with.
    own : mapping, optional
        {name: the same rows as that file's own tokenizer encodes them}, for files whose vocabulary is not that of `encoded`.
    batch_sizes : sequence of int
        One comparison for each. Single rows come in the order of the data, larger batches hold rows of about one length.
    threads : int
        Processor threads of each session.
    device : {"cpu", "cuda"}
    min_rounds, max_seconds, seed
        As in `compare`, for each comparison.

    Returns
    -------
    tuple of Comparison
        In the order of `batch_sizes`.

    Raises
    ------
    ParameterError
        A batch size below 1, rows in `own` that are not as many, or as in `compare`.
    ModelError, DependencyError
        As in `OnnxSession`.
    """
    encodings = {name: (own or {}).get(name, encoded) for name in files}
    for name, encoding in encodings.items():
        if len(encoding) != len(encoded):
            raise ParameterError("own", "latency_of_files", f"of the {len(encoded)} rows", f"{len(encoding)} rows for {name!r}")
    comparisons = []
    for size in batch_sizes:
        if size < 1:
            raise ParameterError("batch_sizes", "latency_of_files", "at least 1", size)
        rows = single_rows(encoded.lengths, _SINGLES, seed=seed) if size == 1 else bucketed_rows(encoded.lengths, size, _BUCKETS, seed=seed)
        inputs = {name: [encodings[name].batch(selected).inputs for selected in rows] for name in files}
        reopen = partial(_anew, {}, partial(load_files, files, inputs, threads, device))
        comparisons.append(
            compare(
                reopen(0),
                range(len(rows)),
                baseline=baseline,
                shapes=[(len(selected), int(encoded.lengths[selected].max())) for selected in rows],
                min_rounds=min_rounds,
                max_seconds=max_seconds,
                warmup=1,
                seed=seed,
                threads=threads,
                device=device,
                lap=stopwatch(threads, device),
                reopen=reopen,
            )
        )
    return tuple(comparisons)


def _anew(loaded: dict[str, Callable[[int], None]], load: Callable[[], dict[str, Callable[[int], None]]], _: int) -> dict[str, Any]:
    """Load the files again, the earlier ones freed first: a session holds the memory of its largest batch."""
    loaded.clear()
    loaded.update(load())
    return loaded


def load_files(
    files: Mapping[str, str | Path], inputs: Mapping[str, Sequence[Mapping[str, NDArray[np.int64]]]], threads: int, device: str = "cpu"
) -> dict[str, Callable[[int], None]]:
    """Load every file as a function of the number of one of its batches."""
    sessions = {name: OnnxSession(path, threads=threads, device=device) for name, path in files.items()}
    return {name: partial(_run, session, [session.feeds(batch) for batch in inputs[name]]) for name, session in sessions.items()}


def _run(session: OnnxSession, feeds: Sequence[dict[str, NDArray[np.int64]]], index: int) -> None:
    session.run(feeds[index])
