"""Whether `prunekit show DIR --verify` finds a flipped bit, wherever it is: one at a time, in a copy of a directory that prunekit wrote.

    python benchmarks/flips.py DIR --flips 500 --markdown benchmarks/results/flips.md

Each file is as likely as any other, so that small ones are looked at too, and in it each bit. What is asked is the command itself, in one
process: exit code 1 with one line is found, 0 is missed, anything else is neither. Exit code 1 where one was not found.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from prunekit import cli


def verified(folder: Path) -> tuple[int | str, str]:
    """The exit code, or the name of what was raised, and what was printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            return cli.main(["show", str(folder), "--verify"]), said.getvalue()
        except Exception as error:
            return type(error).__name__, str(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    tried, found = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(arguments.directory, Path(name, "slim")))
        assert verified(folder)[0] == 0, verified(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        for _ in range(arguments.flips):
            path = draw.choice(files)
            at, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
            _flip(path, at, bit)
            code, said = verified(folder)
            _flip(path, at, bit)
            shown = path.relative_to(folder).as_posix()
            tried[shown] += 1
            found[shown] += code == 1 and said.count("\n") == 1
            if code != 1 or said.count("\n") != 1:
                print(f"{shown}, byte {at}, bit {bit}: {code}: {said.strip()[:200]}", file=sys.stderr)
        assert verified(folder)[0] == 0
        names = [path.relative_to(folder).as_posix() for path in files]
        rows = [f"| {path.relative_to(folder).as_posix()} | {path.stat().st_size:,} | {{}} | {{}} |" for path in files]
        lines = [row.format(tried[shown], found[shown]) for row, shown in zip(rows, names, strict=True)]
    total = f"| all | | {sum(tried.values())} | {sum(found.values())} |"
    table = "\n".join(["| file | bytes | flipped bits | found |", "|---|---:|---:|---:|", *lines, total])
    print(table)
    if arguments.markdown is not None:
        asked = f"`python benchmarks/flips.py DIR --flips {arguments.flips}`, seed {arguments.seed}"
        arguments.markdown.write_text(f"{asked}\n\n{table}\n", encoding="utf-8")
    return 0 if tried == found else 1


def _flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


if __name__ == "__main__":
    sys.exit(main())
