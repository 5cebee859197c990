"""``python -m tests.fuzz --examples 100000``: a long run of every target, or of those that are named.

Exit code 0 where nothing was found; 1 otherwise, with the smallest example of each failure, a line for tests/fuzz/corpus/TARGET.txt.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from typing import Any

from hypothesis import HealthCheck, Verbosity, given, seed, settings


def main() -> int:
    """Run what was asked for."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1")
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} [default: all]")
    parser.add_argument("--examples", type=int, default=100_000, metavar="N", help="of each target [default: 100000]")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="that each target may take [default: 600]")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    given_ = parser.parse_args()
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="Implicitly cleaning up")  # the places of the targets, at the end
    total = found = 0
    with tempfile.TemporaryDirectory(prefix="prunekit-fuzz-") as place:
        os.chdir(place)
        for name in given_.targets or TARGETS:
            start = time.monotonic()
            ran, failed = _fuzz(TARGETS[name], given_.examples, given_.seconds, given_.seed)
            total, found = total + ran, found + bool(failed)
            print(f"{name}: {ran:,} examples in {time.monotonic() - start:.0f} s, {failed or 'nothing found'}", flush=True)
    print(f"{total:,} examples, {found} targets with a finding")
    return int(found > 0)


#: Examples that one run of Hypothesis makes; it remembers all of a run, to repeat none.
_BATCH = 2000


def _fuzz(target: Any, examples: int, seconds: float, first: int) -> tuple[int, str]:
    ran, last = 0, None
    start = time.monotonic()
    for turn in range(-(-examples // _BATCH)):
        if time.monotonic() - start > seconds:
            break

        @seed(first + turn)
        @settings(
            max_examples=min(_BATCH, examples - turn * _BATCH),
            deadline=None,
            database=None,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(target.examples)
        def run(example: Any) -> None:
            nonlocal ran, last
            ran += 1
            last = example
            target.run(example)

        try:
            run()
        except Exception as error:
            return ran, f"FAILED on {last!r}: {''.join(traceback.format_exception_only(error)).strip()[-600:]}"
    return ran, ""


if __name__ == "__main__":
    sys.exit(main())
