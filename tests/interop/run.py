"""Loads an exported directory in other products' environments, and holds their answers against prunekit's own.

    python tests/interop/run.py HOME                # makes what is missing below HOME, with pip and npm, and runs all
    python tests/interop/run.py HOME --only optimum
    python tests/interop/run.py HOME --of DIRECTORY ...     # how far each runtime is from PyTorch on directories of one's own

HOME/oldest, HOME/optimum, HOME/st, HOME/fastembed and HOME/tjs are environments of their own: the first has the oldest onnxruntime that
setup.cfg allows, the next two need an older transformers, and transformers.js needs Node. Without one of them `pytest tests/interop` skips
what it is for.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = {
    "oldest": ("onnxruntime==1.20.0", "tokenizers>=0.21"),
    "optimum": ("optimum-onnx==0.1.0", "transformers==4.57.6", "onnxruntime", "torch"),
    "st": ("sentence-transformers==5.7.0", "optimum-onnx==0.1.0", "transformers==4.57.6", "onnxruntime", "torch"),
    "fastembed": ("fastembed==0.9.1",),
}
MODULE = "@huggingface/transformers@4.3.1"


def make(home: Path, name: str) -> None:
    """Make an environment that is not there yet."""
    folder = home / name
    if name in PACKAGES:
        if not (folder / "bin" / "python").exists():
            venv.create(folder, with_pip=True)
            subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", *PACKAGES[name]], check=True)
    elif not (folder / "node_modules").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        # Without its scripts, onnxruntime-node does not fetch libraries for CUDA.
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", MODULE], cwd=folder, check=True)


def compare(folders: list[Path], home: Path, names: Sequence[str]) -> int:
    """Print how far each runtime is from PyTorch."""
    sys.path.insert(0, str(ROOT))
    from tests.interop.runtimes import RUNTIMES, difference, kind_of

    for folder in folders:
        for runtime, (environment, _, kinds) in RUNTIMES.items():
            if kind_of(folder) in kinds and (environment is None or environment in names):
                print(f"{folder.name} ({kind_of(folder)}), {runtime}: {difference(runtime, folder, home):.1e}", flush=True)
    return 0


def main() -> int:
    """Make the environments, and run pytest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--only", choices=(*PACKAGES, "tjs"))
    parser.add_argument("--of", type=Path, nargs="+", metavar="DIRECTORY")
    given = parser.parse_args()
    names = (given.only,) if given.only else (*PACKAGES, "tjs")
    for name in names:
        make(given.home.resolve(), name)
    if given.of:
        return compare([folder.resolve() for folder in given.of], given.home.resolve(), names)
    chosen = ["-k", given.only] if given.only else []
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(ROOT / "tests" / "interop"), *chosen]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PRUNEKIT_INTEROP": str(given.home.resolve())}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
