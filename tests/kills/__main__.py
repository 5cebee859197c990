"""``python -m tests.kills --kills 200``: kill runs at random moments, and list what was half, lost, or left for good.

Each kind of run is measured once, and killed (SIGKILL) at moments that are uniform over that time; two in five are killed in the
milliseconds around their commit instead. One in ten is a fresh interpreter, killed in its imports too; the others are forks of a process
that has imported everything. After each the output must be the old one, byte for byte, or a new one that
is whole, by ``prunekit show --verify``. Then the command runs to its end, after which nothing else may lie beside the output, and what
was somebody else's must. Exit code 0 where all is as promised; 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.campaign.places import imported
from tests.kills.kill import Ended, Kind, killed, names_of, near_the_commit, start, wait

_MAKE = """
import sys, shutil
from pathlib import Path
from tests import lines
home = Path(sys.argv[1])
shutil.copytree(lines.checkpoint("sequence"), home / "model")
shutil.copytree(lines.data("text"), home / "rows")
"""
_ASKED = ("compress", "{home}/model", "--data", "{home}/rows", "--keep", "60% params", "--dtype", "fp32", "-o", "{out}", "--quiet")
#: {what is killed: its command line}.
_WORDS: dict[str, tuple[str, ...]] = {
    "new": (*_ASKED, "--recover", "none"),
    "overwrite": (*_ASKED, "--recover", "none", "--overwrite"),
    "recover": (*_ASKED, "--recover", "2epochs", "--overwrite"),
    "export": ("export", "{home}/model", "-o", "{out}", "--overwrite", "--quiet"),
    "analyze": ("analyze", "{home}/model", "--data", "{home}/rows", "--rows", "40", "-o", "{out}", "--overwrite", "--quiet"),
    "plan": ("plan", "{home}/model", "--data", "{home}/rows", "--keep", "60% params", "-o", "{out}", "--overwrite", "--quiet"),
}
_LONGEST = 900.0


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", choices=_WORDS, nargs="*", default=list(_WORDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    began, found = time.monotonic(), {name: list[Ended]() for name in given.only}
    with tempfile.TemporaryDirectory(prefix="prunekit-kills-") as folder, suppress(KeyboardInterrupt):
        for name, ended, when in _kills(Path(folder), given.only, given.kills, random.Random(given.seed)):
            found[name].append(ended)
            if ended.fault:
                print(f"{name}, {when}: {ended.fault}", flush=True)
    faults = sum(bool(ended.fault) for each in found.values() for ended in each)
    # A run that is interrupted says how far it has come.
    said = f"{sum(map(len, found.values()))} kills, {faults} not as promised, {time.monotonic() - began:.0f} s"
    print(f"{_table(found)}\n\n{said}")
    if given.markdown is not None:
        asked = f"`python -m tests.kills --kills {given.kills}`, seed {given.seed}: {said}."
        given.markdown.write_text(f"{asked}\n\n{_table(found)}\n", encoding="utf-8")
    return int(faults > 0)


def _kills(home: Path, names: Sequence[str], kills: int, draw: random.Random) -> Iterator[tuple[str, Ended, str]]:
    """(what was killed, how that ended, when) until there are as many; a run that is over before its moment does not count."""
    subprocess.run([sys.executable, "-c", _MAKE, str(home)], check=True)
    imports = time.monotonic()
    imported()
    imports = time.monotonic() - imports
    kinds = {name: _measured(home, name) for name in names}
    done = at = 0
    while done < kills:
        name, fresh, commit, at = names[at % len(names)], at % 10 == 9, draw.random() < 0.4, at + 1
        kind, length = kinds[name]
        if name == "new" or (name != "overwrite" and draw.random() < 0.5):
            kind = replace(kind, old=None)
        moment, place = draw.uniform(0.0, 0.05 if commit else length + fresh * imports), home / f"{at}"
        place.mkdir()
        kill = near_the_commit(place / "beside", moment, _LONGEST) if commit else lambda child, moment=moment: wait(child, moment)
        ended = killed(kind, place, kill, fresh=fresh, longest=_LONGEST)
        shutil.rmtree(place)
        if ended.output != "finished":
            done += 1
            yield name, ended, f"{moment * 1000:.0f} ms after the manifest" if commit else f"after {moment:.2f} s of {length:.2f} s"


def _measured(home: Path, name: str) -> tuple[Kind, float]:
    """A kind of run, with an output of another seed to be replaced, and the seconds that it takes."""
    words = tuple(word.replace("{home}", str(home)) for word in _WORDS[name])
    seconds = []
    for folder, more in ((home / f"{name}-old", ("--seed", "1")), (home / f"{name}-new", ())):
        folder.mkdir()
        began = time.monotonic()
        child = start([word.replace("{out}", str(folder / "out")) for word in (*words, *more)], folder, fresh=False)
        if wait(child, _LONGEST) != 0:
            raise SystemExit(f"{name} does not run: {(folder / 'said').read_text(encoding='utf-8')[-1000:]}")
        seconds.append(time.monotonic() - began)
    return Kind(words, home / f"{name}-old" / "out", names_of(home / f"{name}-new" / "out")), seconds[-1]


def _table(found: Mapping[str, Sequence[Ended]]) -> str:
    """What was killed, how often, and what was there afterwards."""
    rows = []
    for name, each in found.items():
        outputs = Counter(ended.output for ended in each)
        lost = sum(bool(ended.fault) for ended in each)
        beside, temporary = sum(ended.left > 0 for ended in each), sum(ended.temporary > 0 for ended in each)
        rows.append([name, len(each), *(outputs[output] for output in ("none", "old", "new")), beside, temporary, lost])
    rows.append(["all", *(sum(row[column] for row in rows) for column in range(1, 8))])
    title = "| run | kills | no output | the old one | a new one | left beside it | left in TMPDIR | not as promised |"
    return "\n".join([title, "|---|" + "---:|" * 7, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


if __name__ == "__main__":
    sys.exit(main())
