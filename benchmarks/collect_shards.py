"""Collecting in parts: what 1, 2 and 4 processes take by CPU time, what merging takes, and whether all give the same.

    python benchmarks/collect_shards.py MODEL DATA benchmarks/results/collect_shards.json [PARTS...]

MODEL and DATA as `prunekit collect` takes them. Processes run one after another, each with one thread, so that the figures are those of
the work and not of how many cores there are. The plan of each division is made with `--keep "10% neurons"`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.plan import Plan
from prunekit.runtime.records import environment
from prunekit.stats.record import Statistics

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def seconds(*words: object) -> float:
    """CPU seconds, of user and system, of one command of prunekit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "prunekit", *map(str, words), "-q"], check=True, env=ONE_THREAD, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def division(model: str, data: str, parts: int, folder: Path) -> dict[str, Any]:
    """What a division into so many parts takes; its statistics are left at `folder/PARTS`."""
    out = folder / str(parts)
    if parts == 1:
        return {"parts": 1, "collect": [seconds("collect", model, "--data", data, "-o", out)], "merge": 0.0}
    pieces = [folder / f"{part}-of-{parts}" for part in range(1, parts + 1)]
    collected = [
        seconds("collect", model, "--data", data, "--shard", f"{number}/{parts}", "-o", piece) for number, piece in enumerate(pieces, 1)
    ]
    merged = seconds("merge", *pieces, "-o", out)
    for piece in pieces:
        piece.unlink()
    return {"parts": parts, "collect": collected, "merge": merged}


def compared(folder: Path, parts: int) -> dict[str, Any]:
    """The statistics of a division against those of one process."""
    one, other = Statistics.load(folder / "1"), Statistics.load(folder / str(parts))
    difference = np.abs(one.moments.comoment - other.moments.comoment).max() / np.abs(one.moments.comoment).max()
    same = np.array_equal(one.train.sample.rows, other.train.sample.rows)
    return {"rows": one.moments.count, "difference": float(difference), "rows equal": bool(same)}


def main(model: str, data: str, out: str, *parts: str) -> None:
    """Measure, and write what was measured."""
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), []
        for number in sorted({1, *map(int, parts or ("2", "4"))}):
            entry = division(model, data, number, folder) | compared(folder, number)
            plan = folder / f"plan-{number}.json"
            seconds("plan", model, "--data", data, "--keep", "10% neurons", "--statistics", folder / str(number), "-o", plan)
            found.append({**entry, "plan": Plan.load(plan).digest})
            print(found[-1], flush=True)
    record = {"model": Path(model).name, "data": Path(data).name, "runs": found, "packages": environment().packages}
    Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
