"""BERT, and the parts that its descendants share."""

from __future__ import annotations

from prunekit.arch.spec import (
    FFN,
    HEADS,
    HIDDEN,
    QUESTION,
    SEQUENCE,
    TOKEN,
    TYPED_INPUTS,
    VOCABULARY,
    ArchSpec,
    Axes,
    Limit,
    Stub,
    SubBlock,
    embedding,
    linear,
    norm,
)

ATTENTION = SubBlock(
    output="attention.output.dense",
    removal=(Stub("attention.self", "pass"), Stub("attention.output.dense", "bias")),
    sizes=(("attention.self", "num_attention_heads"), ("attention.self", "all_head_size")),
    sum="attention.output.LayerNorm",
    reads=("attention.self.query", "attention.self.key", "attention.self.value"),
)
FEED_FORWARD = SubBlock(
    output="output.dense",
    removal=(Stub("intermediate", "identity"), Stub("output.dense", "bias")),
    sum="output.LayerNorm",
    reads=("intermediate.dense",),
)
FEED_FORWARD_ROLES: dict[str, Axes] = {
    **linear("intermediate.dense", FFN, HIDDEN),
    **linear("output.dense", HIDDEN, FFN),
    **norm("output.LayerNorm"),
}
BLOCK: dict[str, Axes] = {
    **linear("attention.self.query", HEADS, HIDDEN),
    **linear("attention.self.key", HEADS, HIDDEN),
    **linear("attention.self.value", HEADS, HIDDEN),
    # Relative positions (position_embedding_type="relative_key"): one table of head_dim for all heads.
    **embedding("attention.self.distance_embedding", width=None),
    **linear("attention.output.dense", HIDDEN, HEADS),
    **norm("attention.output.LayerNorm"),
    **FEED_FORWARD_ROLES,
}
OUTER: dict[str, Axes] = {
    **embedding("embeddings.word_embeddings", rows=VOCABULARY),
    **embedding("embeddings.position_embeddings"),
    **embedding("embeddings.token_type_embeddings"),
    **norm("embeddings.LayerNorm"),
    # The pooler's output is the head's own space: only its input is the residual stream.
    **linear("pooler.dense", None, HIDDEN),
}
NO_CROSS_ATTENTION = Limit(
    "all", "add_cross_attention", False, "cross-attention is not an encoder's; use a model without add_cross_attention"
)

SPEC = ArchSpec(
    name="bert",
    model_types=("bert",),
    blocks="encoder.layer",
    attention=ATTENTION,
    ffn=FEED_FORWARD,
    block=BLOCK,
    outer=OUTER,
    embeddings=("embeddings",),
    # The sequence head reads the pooler, not the residual stream.
    heads={SEQUENCE: (), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)},
    inputs=TYPED_INPUTS,
    pooler="pooler",
    limits=(NO_CROSS_ATTENTION,),
)
