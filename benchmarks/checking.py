"""Time that checking adds to one `compress --recover none`: ``python benchmarks/checking.py MODEL DATA``.

Each door is wrapped by a clock of the processor's time; the outermost door counts alone, so that none counts twice. Manifests, digests and
the trial of the tokenizer count as checking, as does what reads a header of weights; loading them does not.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
import sys
import tempfile
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

#: Modules all of whose functions check, and functions that do among others.
MODULES = (
    "prunekit.validation.reading",
    "prunekit.validation.indices",
    "prunekit.validation.yaml_text",
    "prunekit.validation.escape",
    "prunekit.arch.config",
    "prunekit.arch.folder",
    "prunekit.arch.tokenizer",
    "prunekit.exporters.manifest",
    "prunekit.validation.scratch",
)
FUNCTIONS = (
    ("prunekit.validation.arguments", "check"),
    ("prunekit.arch.classes", "check_fields"),
    ("prunekit.arch.classes", "settled"),
    ("prunekit.arch.load", "_check_weights"),
    ("prunekit.arch.load", "_finite"),
    ("prunekit.exporters.artefact", "check_output"),
    ("prunekit.exporters.artefact", "check_apart"),
    ("prunekit.data.columns", "refuse"),
    ("prunekit.data.parquet", "most_bytes"),
    ("prunekit.data.parquet", "_measure"),
)


class Clock:
    """Seconds of the processor in what is wrapped, and how often it was entered from outside."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._deep = Counter[str](), Counter[str](), 0

    def wrapped(self, name: str, function: Any) -> Any:
        """The function, with its time counted."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._deep:
                return function(*args, **kwargs)
            self._deep, start = 1, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._deep = 0
                self.seconds[name] += time.process_time() - start
                self.calls[name] += 1

        return call


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--keep", default="10%")
    asked = parser.parse_args()
    import prunekit

    for module in pkgutil.walk_packages(prunekit.__path__, "prunekit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    clock = Clock()
    _wrap(clock)
    with tempfile.TemporaryDirectory() as home:
        start = time.process_time()
        prunekit.compress(asked.model, asked.data, keep=asked.keep, recover="none", out=Path(home) / "out", threads=1)
        whole = time.process_time() - start
    total = clock.seconds.total()
    print(f"checking: {total:.2f} s of {whole:.1f} s of processor time, {total / whole:.2%}\n\n| door | calls | ms |\n|---|---:|---:|")
    for name, seconds in clock.seconds.most_common(12):
        print(f"| {name} | {clock.calls[name]:,} | {1000 * seconds:,.1f} |")


def _wrap(clock: Clock) -> None:
    """Put the clock into every module that has one of the functions by name."""
    found: dict[int, Any] = {}
    for name in MODULES:
        module = sys.modules[name]
        for key, value in vars(module).items():
            # A generator's time is that of who asks for the next.
            if isinstance(value, types.FunctionType) and value.__module__ == name and not value.__code__.co_flags & 0x20:
                found[id(value)] = clock.wrapped(f"{name}.{key}", value)
    for name, key in FUNCTIONS:
        value = getattr(sys.modules[name], key)
        found[id(value)] = clock.wrapped(f"{name}.{key}", value)
    for name, module in list(sys.modules.items()):
        if name.startswith("prunekit"):
            for key, value in list(vars(module).items()):
                if id(value) in found and isinstance(value, types.FunctionType):
                    setattr(module, key, found[id(value)])


if __name__ == "__main__":
    main()
