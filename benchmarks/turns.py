"""What taking turns changes: `prunekit bench` against plain onnxruntime in a process for each file, which has the caches to itself.

    python benchmarks/turns.py DENSE.onnx SLIM.onnx --data SST2_DIR --batch 1 32

Each process loads one file and runs the same batches over and over, as a service that has nothing else to do; the two are never
at work at once, and whole passes over the batches alternate. Of every pass the processor time of the thread counts; the first
pass after the other process worked does not. `prunekit bench` then times the two files on the same batches.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import prunekit
from prunekit.benchmark.batches import data_cases
from prunekit.benchmark.candidates import parse


def serve(pipe: Any, file: str, batches: list[Any]) -> None:
    """Load a file; run the batches as often as the other end asks; answer with seconds per pass."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [wanted.name for wanted in session.get_inputs()]
    feeds = [{name: batch[name] for name in names} for batch in batches]
    while passes := pipe.recv():
        seconds = []
        for _ in range(passes):
            begin = time.thread_time()
            for each in feeds:
                session.run(None, each)
            seconds.append(time.thread_time() - begin)
        pipe.send(seconds)


def alone(files: list[str], batches: list[list[Any]], seconds: float) -> np.ndarray:
    """Seconds of a pass over the batches, (turns, files): the median of three passes in a row, after one that is not counted."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for file, own in zip(files, batches, strict=True):
        pipe, end = context.Pipe()
        workers.append(context.Process(target=serve, args=(end, file, own), daemon=True))
        workers[-1].start()
        pipes.append(pipe)
    found: list[list[float]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(found) < 3:
        turn = []
        for pipe in pipes:
            pipe.send(4)
            turn.append(float(np.median(pipe.recv()[1:])))
        found.append(turn)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(0)
        worker.join()
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=2, type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the two ways, for each batch size")
    args = parser.parse_args()
    names = ["dense", "slim"]
    specs = [f"{name}={file}" for name, file in zip(names, args.files, strict=True)]
    cases = data_cases(parse(specs, ["ort"]), args.batch, args.data, baseline="dense", max_length=128, seed=0, columns={})
    for size, case in zip(args.batch, cases, strict=True):
        taken = alone([str(file) for file in args.files], [list(case.batches[name]) for name in names], args.seconds)
        ratios = taken[:, 0] / taken[:, 1]
        low, high = np.quantile(ratios, [0.1, 0.9])
        print(f"batch {size}: alone {np.median(ratios):.2f} (80% of {len(ratios)} turns: {low:.2f} to {high:.2f})", flush=True)
        own = (
            prunekit.bench(*specs, data=args.data, batch_sizes=[size], time_budget=args.seconds, memory=False).comparisons[0].ratio("slim")
        )
        print(f"batch {size}: prunekit bench {own.value:.2f} ({own.low:.2f} to {own.high:.2f})", flush=True)


if __name__ == "__main__":
    main()
