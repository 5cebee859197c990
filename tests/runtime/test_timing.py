from __future__ import annotations

import gc
import itertools
import json
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, _Padding
from prunekit.errors import ParameterError, StatisticsError
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.runtime.records import Comparison, environment
from prunekit.runtime.timing import bucketed_rows, compare, latency_of_files, single_rows, stopwatch
from tests.models import build


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


class Clock:
    """Seconds that only pass when someone works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def worker(self, seconds: Callable[[Any], float]) -> Callable[[Any], None]:
        def work(batch: Any) -> None:
            self.now += seconds(batch)

        return work


def race(candidates: dict[str, Callable[[Any], float]], batches: Any = (1.0, 2.0, 5.0), **changes: Any) -> Comparison:
    """Compare on an invented clock; by default the batch is the time that a candidate multiplies."""
    clock = Clock()
    given: dict[str, Any] = {"baseline": "dense", "shapes": [(4, 10)] * len(batches), "max_seconds": 1e9, "clock": clock}
    return compare({name: clock.worker(seconds) for name, seconds in candidates.items()}, batches, **{**given, **changes})


def test_a_known_ratio_is_found_exactly() -> None:
    found = race({"dense": lambda batch: 3.0 * batch, "slim": lambda batch: 0.5 * batch})
    ratio = found.ratio("slim")
    assert (ratio.value, ratio.low, ratio.high) == (6.0, 6.0, 6.0)
    assert found.stopped == "narrow"
    assert found.rounds == 30


def test_drift_that_both_share_does_not_matter() -> None:
    # The machine becomes ten times slower on the way: medians over all rounds would not tell.
    clock = Clock()
    slow = {"dense": 3.0, "slim": 1.0}

    def worker(name: str) -> Callable[[Any], None]:
        def work(batch: float) -> None:
            clock.now += slow[name] * batch * (1 + clock.now / 1000)

        return work

    found = compare(
        {name: worker(name) for name in slow},
        [1.0, 1.5, 2.0],
        baseline="dense",
        shapes=[(1, 1)] * 3,
        min_rounds=300,
        clock=clock,
        max_seconds=1e9,
    )
    assert found.timing("dense").milliseconds[-1] > 5 * found.timing("dense").milliseconds[0]
    ratio = found.ratio("slim")
    # Within a round the machine slows by the 4 or so seconds that one takes in the 1000 that it slows by once, and no more.
    assert ratio.value == pytest.approx(3.0, rel=0.01)
    assert ratio.low <= ratio.value <= ratio.high
    assert (ratio.high - ratio.low) / 2 < 0.01 * ratio.value


def test_of_drift_that_alternates_and_both_share_nothing_is_left() -> None:
    # One round in two the machine is half as fast: neither the ratio nor its interval may show any of it.
    clock = Clock()
    turns = 0

    def worker(seconds: float) -> Callable[[Any], None]:
        def work(batch: float) -> None:
            nonlocal turns
            slow = 1 + (turns // 4) % 2  # a round is two candidates, each run twice
            clock.now += seconds * batch * slow
            turns += 1

        return work

    found = compare(
        {"dense": worker(3.0), "slim": worker(1.0)},
        [1.0, 1.5, 2.0],
        baseline="dense",
        shapes=[(1, 1)] * 3,
        warmup=0,
        clock=clock,
        max_seconds=1e9,
    )
    raw = found.timing("dense").milliseconds
    assert raw[3] == 2 * raw[0]
    assert raw[1] == 2 * 1.5 * raw[0]
    ratio = found.ratio("slim")
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3.0, 3.0, 3.0), rel=1e-9)


def test_what_the_others_drove_out_of_the_caches_is_back_before_the_time_counts() -> None:
    clock = Clock()
    last = ""

    def worker(name: str) -> Callable[[Any], None]:
        def work(batch: Any) -> None:
            nonlocal last
            clock.now += 1.0 if last == name else 2.0
            last = name

        return work

    found = compare(
        {"dense": worker("dense"), "slim": worker("slim")}, [0, 1], baseline="dense", shapes=[(1, 1)] * 2, min_rounds=20, clock=clock
    )
    assert set(found.timing("dense").milliseconds) == set(found.timing("slim").milliseconds) == {1000.0}


@pytest.mark.parametrize("names", [("dense", "slim"), ("dense", "slim", "int8")])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_the_order_rotates_on_every_batch(names: tuple[str, ...], count: int) -> None:
    calls: list[tuple[str, int]] = []
    clock = Clock()

    def worker(name: str) -> Callable[[int], None]:
        def work(batch: int) -> None:
            calls.append((name, batch))
            clock.now += 1.0

        return work

    rounds = len(names) * count * 2
    found = compare(
        {name: worker(name) for name in names},
        range(count),
        baseline="dense",
        shapes=[(1, 1)] * count,
        min_rounds=rounds,
        warmup=2,
        clock=clock,
    )
    warm, measured = calls[: 2 * count * len(names)], calls[2 * count * len(names) :]
    assert found.warmup == 2 * count
    assert {name for name, _ in warm} == set(names)
    assert measured[::2] == [(name, (batch - 1) % count) for name, batch in measured[1::2]], "untimed, on the batch before"
    measured = measured[1::2]
    turns = [measured[at : at + len(names)] for at in range(0, len(measured), len(names))]
    assert len(turns) == found.rounds == rounds
    assert found.order == tuple(turn[0][1] for turn in turns) == tuple(at % count for at in range(rounds))
    for turn in turns:
        # Each candidate once, all on one batch.
        assert {name for name, _ in turn} == set(names)
        assert len({batch for _, batch in turn}) == 1
    for batch in range(count):
        firsts = [turn[0][0] for turn in turns if turn[0][1] == batch]
        # No candidate comes first on a batch more often than another.
        assert all(firsts.count(name) == len(firsts) / len(names) for name in names)
    if count > 1 and len(names) == 2:
        assert turns[0][0][0] != turns[1][0][0]


def noisy(rng: np.random.Generator, milliseconds: float) -> Callable[[Any], float]:
    return lambda batch: milliseconds * batch * float(np.exp(rng.normal(0, 0.1)))


def test_the_interval_of_a_race_holds_the_truth(rng: np.random.Generator) -> None:
    found = race({"dense": noisy(rng, 3.0), "slim": noisy(rng, 1.0)}, min_rounds=60, max_seconds=0).ratio("slim")
    assert found.low <= 3.0 <= found.high
    assert (found.low, found.high) != (found.value, found.value)


def test_it_stops_when_it_knows_enough(rng: np.random.Generator) -> None:
    found = race({"dense": noisy(rng, 2.0), "slim": noisy(rng, 1.0)})
    ratio = found.ratio("slim")
    assert found.stopped == "narrow"
    assert (ratio.high - ratio.low) / 2 <= 0.02 * ratio.value
    assert 30 < found.rounds < 1000
    assert found.rounds % 3 == 0


def test_it_stops_when_time_is_up(rng: np.random.Generator) -> None:
    last_round: deque[float] = deque(maxlen=4)

    def wait(batch: Any) -> float:
        last_round.append(float(np.exp(rng.normal(0, 2))))
        return last_round[-1]

    wild = {"dense": wait, "slim": wait}
    found = race(wild, max_seconds=5000.0)
    assert found.stopped == "time"
    assert found.seconds >= 5000
    assert found.seconds - sum(last_round) < 5000
    assert race(wild, max_seconds=0.0, min_rounds=7).rounds == 7


def test_percentiles_and_throughput_are_of_the_raw_values() -> None:
    found = race(
        {"dense": lambda batch: batch, "slim": lambda batch: batch / 4}, batches=[0.001, 0.002, 0.009], shapes=[(1, 5), (2, 7), (3, 9)]
    )
    dense = found.timing("dense")
    raw = np.array(dense.milliseconds)
    assert raw[:3].tolist() == pytest.approx([1.0, 2.0, 9.0])
    assert [dense.p50_ms, dense.p90_ms, dense.p95_ms, dense.p99_ms] == pytest.approx(np.percentile(raw, [50, 90, 95, 99]).tolist())
    assert dense.rows_per_second == pytest.approx(6 / 0.012)
    assert found.timing("slim").rows_per_second == pytest.approx(4 * dense.rows_per_second)
    assert (found.batch_size, found.mean_length) == (3, pytest.approx((5 + 14 + 27) / 6))


def test_garbage_is_not_collected_in_anyones_turn() -> None:
    states: list[bool] = []
    clock = Clock()

    def work(batch: int) -> None:
        states.append(gc.isenabled())
        clock.now += 1

    compare({"dense": work, "slim": work}, [0], baseline="dense", shapes=[(1, 1)], warmup=0, clock=clock)
    assert not any(states)
    assert gc.isenabled()

    def fail(batch: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        compare({"dense": fail, "slim": fail}, [0], baseline="dense", shapes=[(1, 1)], warmup=0, clock=clock)
    assert gc.isenabled()


def test_a_comparison_is_plain_json() -> None:
    found = race({"dense": lambda batch: 3.0 * batch, "slim": lambda batch: batch}, seed=5, threads=2)
    text = json.dumps(asdict(found), allow_nan=False)
    assert TypeAdapter(Comparison).validate_json(text) == found
    assert json.loads(text)["threads"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "fat"}, "'baseline' parameter of compare must be one of dense, slim"),
        ({"batches": ()}, "'batches'"),
        ({"shapes": [(1, 1)]}, "'shapes' .* one for each of the 3 batches"),
        ({"min_rounds": 0}, "'min_rounds'"),
        ({"warmup": -1}, "'warmup'"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        race({"dense": lambda batch: 1.0, "slim": lambda batch: 1.0}, **changes)


def test_one_candidate_has_times_and_no_ratio() -> None:
    found = race({"dense": lambda batch: 1.0})
    assert found.ratios == ()
    assert (found.stopped, found.rounds) == ("narrow", 30)


def test_turns_may_be_timed_by_another_clock_than_the_one_that_ends_it() -> None:
    wall, own = Clock(), Clock()

    def work(seconds: float) -> Callable[[Any], None]:
        def run(_: Any) -> None:
            own.now += seconds
            wall.now += 20 * seconds if seconds > 1 else seconds

        return run

    found = compare(
        {"dense": work(2.0), "slim": work(0.5)}, [0], baseline="dense", shapes=[(1, 1)], clock=wall, lap=own, warmup=0, max_seconds=1000.0
    )
    # Interruptions of the longer turns count towards the end alone.
    assert found.ratio("slim").value == pytest.approx(4.0)
    assert found.seconds == pytest.approx(2 * 40.5 * found.rounds)


def test_one_thread_is_timed_by_its_own_time() -> None:
    assert stopwatch(2) is stopwatch(1, "cuda") is time.perf_counter
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    assert stopwatch(1) is (time.thread_time if fine else time.perf_counter)


@pytest.mark.parametrize(("own", "whole", "name"), [(1.0, 1.01, "thread_time"), (1.0, 1.1, "process_time"), (0.0, 1.0, "process_time")])
def test_work_of_other_threads_is_timed_by_the_process(own: float, whole: float, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"thread_time": Clock(), "process_time": Clock()}

    def work() -> None:
        clocks["thread_time"].now += own
        clocks["process_time"].now += whole

    for each, clock in clocks.items():
        monkeypatch.setattr(time, each, clock)
    if time.get_clock_info("thread_time").resolution <= 1e-6:
        assert stopwatch(1, "cpu", work) is clocks[name]
    assert stopwatch(2, "cpu", work) is stopwatch(1, "cpu, cuda", work) is time.perf_counter


def test_the_clock_is_recorded() -> None:
    def work(_: int) -> None:
        sum(range(1000))

    for clock, name in ((time.thread_time, "thread"), (time.process_time, "process"), (time.perf_counter, "wall")):
        assert compare({"dense": work}, [0], baseline="dense", shapes=[(1, 1)], min_rounds=1, max_seconds=0.0, lap=clock).clock == name


def test_a_clock_that_stands_still_is_an_error() -> None:
    with pytest.raises(StatisticsError, match="The clock did not move"):
        race({"dense": lambda batch: 1.0, "slim": lambda batch: 0.0})


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=90).map(lambda found: np.array(found, dtype=np.int64))


@settings(deadline=None)
@given(lengths, st.integers(1, 40), st.integers(0, 9))
def test_single_rows_have_the_lengths_of_the_data_in_its_order(lengths: np.ndarray, count: int, seed: int) -> None:
    rows = np.concatenate(single_rows(lengths, count, seed=seed))
    assert len(rows) == min(count, len(lengths))
    assert (np.diff(rows) > 0).all()
    # One of each stratum by length: no order statistic is off by more than a stratum.
    order, drawn = np.sort(lengths), np.sort(lengths[rows])
    edges = np.linspace(0, len(order), len(drawn) + 1).astype(int)
    assert all(order[low] <= value <= order[high - 1] for low, high, value in zip(edges, edges[1:], drawn, strict=False))


@settings(deadline=None)
@given(lengths, st.integers(1, 40), st.integers(1, 9), st.integers(0, 9))
def test_buckets_are_full_disjoint_and_of_about_one_length(lengths: np.ndarray, size: int, count: int, seed: int) -> None:
    buckets = bucketed_rows(lengths, size, count, seed=seed)
    rows = np.concatenate(buckets)
    assert len(set(rows.tolist())) == len(rows)
    assert {len(bucket) for bucket in buckets} == {min(size, len(lengths))}
    assert len(buckets) == min(count, len(lengths) // min(size, len(lengths)))
    spans = [(lengths[bucket].min(), lengths[bucket].max()) for bucket in buckets]
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def encoded(rng: np.random.Generator, rows: int = 70, vocabulary: int = 50) -> Encoded:
    sizes = rng.integers(1, 20, size=rows)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    ids = rng.integers(2, vocabulary, size=offsets[-1]).astype(np.int32)
    return Encoded(ids, np.zeros(len(ids), dtype=np.int8), offsets, np.zeros(rows, dtype=np.int64), 0, 0, _Padding(1, 0, False))


@pytest.mark.needs("onnxruntime")
def test_files_are_compared_on_the_datas_lengths(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {}
    for name, layers in (("dense", 4), ("slim", 1)):
        model = build("bert", "ForSequenceClassification", num_hidden_layers=layers)
        file = export_onnx(model, tmp_path / f"{name}.onnx", inputs=ModelView.of(model).inputs, space=sample_space(model.config))
        paths[name] = file.path
    data = encoded(rng)
    found = latency_of_files(paths, data, max_seconds=0.0, min_rounds=3, seed=7)
    assert [each.batch_size for each in found] == [1, 32]
    assert [len(each.shapes) for each in found] == [32, 2]
    assert all(set(length for _, length in each.shapes) <= set(data.lengths.tolist()) for each in found)
    assert all([timing.name for timing in each.timings] == ["dense", "slim"] and each.baseline == "dense" for each in found)
    assert found[0].environment == environment()
    again = latency_of_files(paths, data, max_seconds=0.0, min_rounds=3, seed=7)
    assert [each.shapes for each in again] == [each.shapes for each in found]
    with pytest.raises(ParameterError, match="'batch_sizes'"):
        latency_of_files(paths, data, batch_sizes=(0,))
    # A file with fewer tokens runs on rows of its own.
    with pytest.raises(ParameterError, match=r"of the 70 rows\. Got \"3 rows for 'slim'\""):
        latency_of_files(paths, data, own={"slim": encoded(rng, rows=3)})
    assert latency_of_files(paths, data, own={"slim": encoded(rng)}, batch_sizes=(2,), max_seconds=0.0, min_rounds=1)[0].batch_size == 2
    # Where a file comes to lie in memory is drawn at each load: one load says nothing of that. The clock is a count of the looks at it.
    looks = itertools.count()
    monkeypatch.setattr("prunekit.runtime.timing.compare", partial(compare, clock=lambda: next(looks) / 10))
    assert len(latency_of_files(paths, data, batch_sizes=(2,), max_seconds=8.0)[0].invocations) >= 4


def test_files_are_freed_before_they_are_loaded_anew(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most, loads = weakref.WeakSet[Any](), list[int](), itertools.count()

    class Session:
        def __init__(self, *_: Any, **__: Any) -> None:
            next(loads)
            alive.add(self)
            most.append(len(alive))

        def feeds(self, batch: Any) -> Any:
            return batch

        def run(self, feeds: Any) -> None:
            pass

    looks, laps = itertools.count(), itertools.count()
    monkeypatch.setattr("prunekit.runtime.timing.OnnxSession", Session)
    monkeypatch.setattr("prunekit.runtime.timing.compare", partial(compare, clock=lambda: next(looks) / 10))
    monkeypatch.setattr("prunekit.runtime.timing.stopwatch", lambda *_: lambda: next(laps))
    latency_of_files({"dense": "a", "slim": "b", "slim int8": "c"}, encoded(rng), batch_sizes=(2,), max_seconds=8.0)
    assert next(loads) >= 4 * 3
    assert max(most) == 3


def test_the_environment_reads_the_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: Xeon 9\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n\nprocessor\t: 1\nmodel name\t: Xeon 9\n"
    )
    found = environment(info)
    assert found.processor == "Xeon 9"
    assert found.instructions == ("AVX2", "AVX512_VNNI", "AMX_INT8")
    assert 1 <= found.affinity <= found.cores
    assert found.packages["torch"]
    assert replace(environment(tmp_path / "none"), processor="") == replace(found, processor="", instructions=())
