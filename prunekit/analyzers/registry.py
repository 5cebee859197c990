"""All analyzers; a new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Sequence

from prunekit.analyzers import ablation, cka, clusters, dimensionality, importance, layer_probes, neurons, rsa, syntax
from prunekit.analyzers.base import Analyzer
from prunekit.errors import ParameterError

ANALYZERS = (
    cka.ANALYZER,
    rsa.ANALYZER,
    layer_probes.ANALYZER,
    neurons.ANALYZER,
    dimensionality.ANALYZER,
    syntax.ANALYZER,
    clusters.ANALYZER,
    ablation.ANALYZER,
    importance.ANALYZER,
)


def find(names: Sequence[str]) -> tuple[Analyzer, ...]:
    """The analyzers of these names, in the registry's order; raises ParameterError for a name that is none."""
    known = {analyzer.name: analyzer for analyzer in ANALYZERS}
    for name in names:
        if name not in known:
            raise ParameterError("analyzers", "analyze", f"of {', '.join(known)}", name)
    return tuple(analyzer for analyzer in ANALYZERS if analyzer.name in names)
