"""``python -m tests.campaign``: run every hostile case, and list those that do not end as promised.

Exit code 0 where each case ends with one line on stderr, exit code 2, and nothing left behind; 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="that one case may take")
    parser.add_argument("--limit", type=float, default=3600.0, metavar="S", help="that all may take together")
    parser.add_argument("--memory", type=int, default=12 * 2**30, metavar="BYTES", help="address space of one case")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from tests.campaign.cases import all_cases
    from tests.campaign.places import Places, imported

    cases = [case for case in all_cases() if given.only in case.name]
    if given.list:
        print("\n".join(case.name for case in cases))
        return 0
    from tests.campaign.case import run

    start, bad, done = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="prunekit-campaign-") as home:
        places = Places(Path(home) / "places").made()
        imported()
        for at, case in enumerate(cases):
            if time.monotonic() - start > given.limit:
                break
            scratch = Path(home) / f"{at}"
            fault = run(case, places, scratch, given.seconds, given.memory)
            shutil.rmtree(scratch, ignore_errors=True)
            done += 1
            if fault:
                bad += 1
                print(f"{case.name}: {fault}", flush=True)
    print(f"{done} of {len(cases)} cases in {time.monotonic() - start:.0f} s: {done - bad} as promised, {bad} not")
    return int(bad > 0 or done < len(cases))


if __name__ == "__main__":
    sys.exit(main())
