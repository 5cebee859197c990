"""Architecture families: one record each, registered here and nowhere else."""

from __future__ import annotations

from importlib import import_module

from prunekit.arch.spec import ArchSpec

_FAMILIES = (
    "bert",
    "roberta",
    "electra",
    "mpnet",
    "distilbert",
    "albert",
    "xlnet",
    "deberta",
    "deberta_v2",
    "modernbert",
    "gpt2",
    "llama",
)
_RECORDS: tuple[ArchSpec, ...] = tuple(import_module(f"prunekit.arch.{family}").SPEC for family in _FAMILIES)

#: {model_type: record}
SPECS: dict[str, ArchSpec] = {model_type: record for record in _RECORDS for model_type in record.model_types}
