"""ELECTRA: a BERT whose embeddings may be narrower than the hidden size; no pooler."""

from __future__ import annotations

from dataclasses import replace

from prunekit.arch import bert
from prunekit.arch.spec import EMBEDDING, HIDDEN, QUESTION, SEQUENCE, TOKEN, VOCABULARY, embedding, linear, norm

SPEC = replace(
    bert.SPEC,
    name="electra",
    model_types=("electra",),
    outer={
        # Embeddings and their norm are as wide as the embedding; `embeddings_project` exists only if that differs.
        **embedding("embeddings.word_embeddings", rows=VOCABULARY, width=EMBEDDING),
        **embedding("embeddings.position_embeddings", width=EMBEDDING),
        **embedding("embeddings.token_type_embeddings", width=EMBEDDING),
        **norm("embeddings.LayerNorm", EMBEDDING),
        **linear("embeddings_project", HIDDEN, None),
    },
    projection="embeddings_project",
    heads={SEQUENCE: ("classifier.dense",), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)},
    pooler="",
)
