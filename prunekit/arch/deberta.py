"""DeBERTa: fused projections interleaved by head, relative positions in a space of their own."""

from __future__ import annotations

from dataclasses import replace

from prunekit.arch import bert
from prunekit.arch.spec import (
    EMBEDDING,
    HEADS,
    HIDDEN,
    QUESTION,
    SEQUENCE,
    TOKEN,
    VOCABULARY,
    Axes,
    Limit,
    embedding,
    linear,
    norm,
)

EMBEDDINGS: dict[str, Axes] = {
    **embedding("embeddings.word_embeddings", rows=VOCABULARY, width=EMBEDDING),
    **embedding("embeddings.position_embeddings", width=EMBEDDING),
    **embedding("embeddings.token_type_embeddings", width=EMBEDDING),
    **linear("embeddings.embed_proj", HIDDEN, None),
    **norm("embeddings.LayerNorm"),
}
# The pooler of the sequence head belongs to the head, not to the body.
READERS = {SEQUENCE: ("pooler.dense",), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)}

SPEC = replace(
    bert.SPEC,
    name="deberta",
    model_types=("deberta",),
    attention=replace(bert.ATTENTION, reads=("attention.self.in_proj",)),
    block={
        # Rows are ordered head by head, and query, key, value inside each head: one unit is 3 x head_dim rows.
        **linear("attention.self.in_proj", HEADS, HIDDEN),
        "attention.self.q_bias": (HEADS,),
        "attention.self.v_bias": (HEADS,),
        # These read the relative embeddings, which have the hidden size but are not the residual stream.
        **linear("attention.self.pos_proj", HEADS, None),
        **linear("attention.self.pos_q_proj", HEADS, None),
        "attention.self.head_logits_proj.weight": (None, None),
        "attention.self.head_weights_proj.weight": (None, None),
        **linear("attention.output.dense", HIDDEN, HEADS),
        **norm("attention.output.LayerNorm"),
        **bert.FEED_FORWARD_ROLES,
    },
    outer={**EMBEDDINGS, "encoder.rel_embeddings.weight": (None, None)},
    projection="embeddings.embed_proj",
    heads=READERS,
    pooler="",
    # Positions are projected once per batch, not per row.
    row_rate={"attention.self.pos_proj.weight": 0.0, "attention.self.pos_q_proj.weight": 0.0},
    limits=(Limit("heads", "talking_head", False, "talking heads mix all heads, so that none can be removed alone"),),
)
