"""All analyzers; a new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from prunekit.analyzers.base import Analyzer
from prunekit.errors import ParameterError

_MODULES = (
    "cka",
    "rsa",
    "layer_probes",
    "neurons",
    "dimensionality",
    "syntax",
    "clusters",
    "ablation",
    "importance",
)
#: In the order of the page.
ANALYZERS: tuple[Analyzer, ...] = tuple(import_module(f"prunekit.analyzers.{module}").ANALYZER for module in _MODULES)


def find(names: Sequence[str]) -> tuple[Analyzer, ...]:
    """Return the analyzers of these names, in the registry's order; raises ParameterError for a name that is none."""
    known = {analyzer.name: analyzer for analyzer in ANALYZERS}
    for name in names:
        if name not in known:
            raise ParameterError("analyzers", "analyze", f"of {', '.join(known)}", name)
    return tuple(analyzer for analyzer in ANALYZERS if analyzer.name in names)
