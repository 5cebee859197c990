"""Architecture families: one record each, registered here and nowhere else."""

from __future__ import annotations

from prunekit.arch import albert, bert, deberta, deberta_v2, distilbert, electra, gpt2, llama, modernbert, mpnet, roberta, xlnet
from prunekit.arch.spec import ArchSpec

_FAMILIES = (bert, roberta, electra, mpnet, distilbert, albert, xlnet, deberta, deberta_v2, modernbert, gpt2, llama)

#: {model_type: record}
SPECS: dict[str, ArchSpec] = {model_type: family.SPEC for family in _FAMILIES for model_type in family.SPEC.model_types}
