"""Builds the sdist and the wheel of a commit, the same bytes each time: ``python docs/make_release.py DIR [COMMIT]``.

Needs git and the package ``build``. What is built is the commit's tree, and nothing else of the checkout; every time in the archives is
the commit's. Prints the sha256 of both files; exit code 1 where a second build gives others.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(commit: str, out: Path) -> dict[str, str]:
    """{file: sha256} of what a commit's tree gives, written to `out`."""
    moment = int(_git("log", "-1", "--format=%ct", commit))
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", commit))) as archive:
            archive.extractall(tree, filter="data")
        made = Path(name, "dist")
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(moment)}
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(made), str(tree)], check=True, env=environment, stdout=sys.stderr)
        out.mkdir(parents=True, exist_ok=True)
        found = {}
        for path in sorted(made.iterdir()):
            data = _same_times(path.read_bytes(), moment) if path.name.endswith(".tar.gz") else path.read_bytes()
            (out / path.name).write_bytes(data)
            found[path.name] = hashlib.sha256(data).hexdigest()
    return found


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], check=True, cwd=ROOT, stdout=subprocess.PIPE).stdout


def _same_times(data: bytes, moment: int) -> bytes:
    """An sdist with one moment in the place of all times, of nobody in particular; setuptools takes the times of the files."""
    tar, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            content = old.extractfile(member) if member.isfile() else None
            member.mtime, member.uid, member.gid, member.uname, member.gname, member.pax_headers = moment, 0, 0, "", "", {}
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, content)
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=moment) as file:
        file.write(tar.getvalue())
    return packed.getvalue()


def main() -> int:
    """Build twice, and print what was built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("commit", nargs="?", default="HEAD")
    arguments = parser.parse_args()
    first = build(arguments.commit, arguments.out)
    with tempfile.TemporaryDirectory() as again:
        second = build(arguments.commit, Path(again))
    for name, digest in first.items():
        print(f"{digest}  {name}")
    if first != second:
        print("a second build gave other bytes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
