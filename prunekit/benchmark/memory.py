"""Peak memory of a candidate, in a process of its own, because memory cannot be attributed to the models within one process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from prunekit.benchmark.backends import BACKENDS
from prunekit.benchmark.backends.base import Batch, ModelFiles
from prunekit.benchmark.candidates import Candidate
from prunekit.errors import ModelError
from prunekit.validation.scratch import temporary

_STATUS = Path("/proc/self/status")


def peak_bytes(candidate: Candidate, batches: Sequence[Batch], *, threads: int) -> int | None:
    """Measure the peak resident memory of a process that loads a candidate and runs every batch once, interpreter and runtime included.

    Parameters
    ----------
    candidate : Candidate
    batches : sequence of mapping
    threads : int

    Returns
    -------
    int or None
        Bytes of host memory; None where the system does not report it (it is read from /proc).

    Raises
    ------
    ModelError
        If the process fails.
    """
    if not _STATUS.is_file():
        return None
    with temporary() as folder:
        arrays = {f"{at} {name}": array for at, batch in enumerate(batches) for name, array in batch.items()}
        file = folder / "batches.npz"
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
        source = {name: None if path is None else str(path) for name, path in asdict(candidate.source).items()}
        request = json.dumps({"backend": candidate.backend.name, "source": source, "threads": threads, "batches": str(file)})
        process = subprocess.run([sys.executable, "-m", __name__, request], capture_output=True, text=True, check=False)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"The memory of {candidate.name!r} cannot be measured: its process failed with {last}")
    return int(process.stdout.split()[-1])


def main(asked: str) -> None:
    """Load a candidate, run every batch, and print the peak memory in bytes."""
    fields = json.loads(asked)
    paths = {name: None if path is None else Path(path) for name, path in fields["source"].items()}
    source = ModelFiles(Path(fields["source"]["path"]), paths["onnx"], paths["folder"])
    arrays = np.load(fields["batches"])
    batches: dict[str, dict[str, np.ndarray]] = {}
    for key in arrays.files:
        at, _, name = key.partition(" ")
        batches.setdefault(at, {})[name] = arrays[key]
    inputs = list(batches.values())
    runner = BACKENDS[fields["backend"]].load(source, threads=fields["threads"], calibration=inputs)
    for batch in inputs:
        runner.run(runner.feeds(batch))
    # Not getrusage's maximum, which a process inherits from its parent.
    peak = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    print(1024 * int(peak.split()[1]))


if __name__ == "__main__":
    main(sys.argv[1])
