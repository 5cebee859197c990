"""``python -m tests.fuzz --examples 100000``: a long run of every target, or of those that are named.

Exit code 0 where nothing was found; 1 otherwise, with the smallest example of each failure, a line for tests/fuzz/corpus/TARGET.txt.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
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
    parser.add_argument("--mutants", type=int, default=20, metavar="N", help="texts and bytes near each example [default: 20]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table of what was run and found")
    asked = parser.parse_args()
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="Implicitly cleaning up")  # the places of the targets, at the end
    table, began, home = list[tuple[str, int, int, str]](), time.monotonic(), Path.cwd()
    with tempfile.TemporaryDirectory(prefix="prunekit-fuzz-") as place:
        os.chdir(place)
        for name in asked.targets or TARGETS:
            start = time.monotonic()
            examples, ran, failed = _fuzz(TARGETS[name], asked)
            table.append((name, examples, ran, failed))
            print(f"{name}: {ran:,} executions in {time.monotonic() - start:.0f} s, {failed or 'nothing found'}", flush=True)
            if asked.markdown is not None:
                (home / asked.markdown).write_text(_markdown(table, time.monotonic() - began, asked), encoding="utf-8")
        os.chdir(home)
    found = sum(bool(failed) for *_, failed in table)
    print(f"{sum(ran for _, _, ran, _ in table):,} executions, {found} targets with a finding")
    return int(found > 0)


def _markdown(table: list[tuple[str, int, int, str]], seconds: float, asked: argparse.Namespace) -> str:
    """What was run and found."""
    total, found = sum(ran for _, _, ran, _ in table), sum(bool(failed) for *_, failed in table)
    said = f"`python -m tests.fuzz --examples {asked.examples} --seconds {asked.seconds:.0f} --mutants {asked.mutants}`, seed {asked.seed}"
    rows = [f"| {name} | {examples:,} | {ran:,} | {'a finding' if failed else 'nothing'} |" for name, examples, ran, failed in table]
    head = f"{said}: {total:,} executions in {seconds:.0f} s over {len(table)} targets, {found} with a finding."
    what = "Executions are the examples of the structured generators and the texts and bytes near each of them."
    return "\n".join([head, "", what, "", "| target | examples | executions | found |", "|---|---:|---:|---|", *rows, ""])


#: Examples that one run of Hypothesis makes; it remembers all of a run, to repeat none.
_BATCH = 2000


def _fuzz(target: Any, asked: argparse.Namespace) -> tuple[int, int, str]:
    """Examples, executions, and what failed ("" if nothing did)."""
    from tests.fuzz.strategies import mutants

    examples, ran, last = 0, 0, None
    start = time.monotonic()
    for turn in range(-(-asked.examples // _BATCH)):
        if time.monotonic() - start > asked.seconds:
            break

        @seed(asked.seed + turn)
        @settings(
            max_examples=min(_BATCH, asked.examples - turn * _BATCH),
            deadline=None,
            database=None,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(target.examples)
        def run(example: Any) -> None:
            nonlocal examples, ran, last
            if time.monotonic() - start > asked.seconds:
                return
            examples += 1
            for each in itertools.chain([example], mutants(example, asked.mutants if target.mutates else 0)):
                ran += 1
                last = each
                target.run(each)

        try:
            run()
        except Exception as error:
            return examples, ran, f"FAILED on {last!r}: {''.join(traceback.format_exception_only(error)).strip()[-600:]}"
    return examples, ran, ""


if __name__ == "__main__":
    sys.exit(main())
