"""``python -m tests.campaign``: run every hostile case, and list those that do not end as promised.

Exit code 0 where each case ends with one line on stderr, exit code 2, and nothing left behind; 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases in whose name this is found")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th of them")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="that one case may take")
    parser.add_argument("--limit", type=float, default=3600.0, metavar="S", help="that all may take together")
    parser.add_argument("--memory", type=int, default=12 * 2**30, metavar="BYTES", help="address space of one case")
    parser.add_argument("--places", type=Path, metavar="DIR", help="where a run before has made what the cases work on, or this one is to")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="the first N of them")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table of what was asked and how it ended")
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from tests.campaign.cases import all_cases
    from tests.campaign.places import Places, imported

    cases = [case for case in all_cases() if re.search(given.only, case.name)][given.skip :: given.every]
    if given.list:
        print("\n".join(case.name for case in cases))
        return 0
    from tests.campaign.case import run

    start, tried, bad = time.monotonic(), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="prunekit-campaign-") as home:
        if given.places is not None and given.places.exists():
            shutil.copytree(given.places, Path(home) / "places")
        places = Places(Path(home) / "places").made()
        if given.places is not None and not given.places.exists():
            shutil.copytree(Path(home) / "places", given.places)
        imported()
        before = touched(Path(home) / "places")
        shutil.copytree(Path(home) / "places", Path(home) / "kept")
        for at, case in enumerate(cases):
            if time.monotonic() - start > given.limit:
                break
            scratch = Path(home) / f"{at}"
            fault = run(case, places, scratch, given.seconds, given.memory)
            shutil.rmtree(scratch, ignore_errors=True)
            if touched(Path(home) / "places") != before:
                fault = f"changed what it reads; {fault}"
                shutil.rmtree(Path(home) / "places")
                shutil.copytree(Path(home) / "kept", Path(home) / "places")
                before = touched(Path(home) / "places")
            tried[_kind(case.name)] += 1
            if fault:
                bad[_kind(case.name)] += 1
                print(f"{case.name}: {fault}", flush=True)
    done, wrong = tried.total(), bad.total()
    said = f"{done} of {len(cases)} cases in {time.monotonic() - start:.0f} s: {done - wrong} as promised, {wrong} not"
    print(said)
    if given.markdown is not None:
        rows = [f"| {kind} | {tried[kind]:,} | {tried[kind] - bad[kind]:,} |" for kind in sorted(tried)]
        table = [
            "| what is hostile, and to whom | cases | as promised |",
            "|---|---:|---:|",
            *rows,
            f"| all | {done:,} | {done - wrong:,} |",
        ]
        given.markdown.write_text("\n".join([f"`python -m tests.campaign`: {said}.", "", *table, ""]), encoding="utf-8")
    return int(wrong > 0 or done < len(cases))


def touched(folder: Path) -> list[tuple[str, int]]:
    """Names of all that is in a folder, and when it was last written."""
    return sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def _kind(name: str) -> str:
    """What a case is about, and which command or function it is put to: the first words of its name."""
    return " ".join(name.split(" ")[:2])


if __name__ == "__main__":
    sys.exit(main())
