"""prunekit finds what a task does not need of a transformer encoder, removes it, and measures what ships.

Public names are imported on first use, so that `import prunekit` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

from prunekit.exporters.on_import import call_after

__version__ = "0.1.0"

_PUBLIC = {
    "Analysis": "prunekit.pipeline.analyze",
    "Budget": "prunekit.budget",
    "Plan": "prunekit.plan",
    "PruneCallback": "prunekit.training.callback",
    "PrunekitError": "prunekit.errors",
    "Recipe": "prunekit.recipe",
    "Result": "prunekit.pipeline.result",
    "analyze": "prunekit.pipeline.analyze",
    "apply": "prunekit.pipeline.apply",
    "bench": "prunekit.benchmark.bench",
    "collect": "prunekit.pipeline.collect",
    "compress": "prunekit.pipeline.compress",
    "export": "prunekit.exporters.export",
    "load": "prunekit.exporters.checkpoint",
    "make_plan": "prunekit.pipeline.compress",
    "merge": "prunekit.pipeline.collect",
    "recover": "prunekit.training.distill",
    "shrink": "prunekit.pruning.shrink",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prunekit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


# Slim models load wherever transformers loads: their classes are registered once the auto classes of transformers are imported.
call_after("transformers.models.auto.configuration_auto", "prunekit.exporters.slim_config:register")
call_after("transformers.models.auto.modeling_auto", "prunekit.exporters.slim_model:register")


def __dir__() -> list[str]:
    return sorted(__all__)
