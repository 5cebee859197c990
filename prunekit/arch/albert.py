"""ALBERT: one block, applied num_hidden_layers times; embeddings narrower than the hidden size."""

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
    Limit,
    Stub,
    SubBlock,
    embedding,
    linear,
    norm,
)

_ONE_GROUP = "only ALBERT models with one group of one layer are known; this one has more"

SPEC = ArchSpec(
    name="albert",
    model_types=("albert",),
    blocks="encoder.albert_layer_groups.0.albert_layers",
    attention=SubBlock(
        output="attention.dense",
        # The attention module holds the residual connection and its norm.
        removal=(Stub("attention", "residual", norm="attention.LayerNorm"),),
        sizes=(("attention", "num_attention_heads"), ("attention", "all_head_size")),
        sum="attention.LayerNorm",
        reads=("attention.query", "attention.key", "attention.value"),
    ),
    ffn=SubBlock(
        output="ffn_output",
        removal=(Stub("ffn", "identity"), Stub("activation", "identity"), Stub("ffn_output", "bias")),
        sum="full_layer_layer_norm",
        reads=("ffn",),
    ),
    block={
        **linear("attention.query", HEADS, HIDDEN),
        **linear("attention.key", HEADS, HIDDEN),
        **linear("attention.value", HEADS, HIDDEN),
        **embedding("attention.distance_embedding", width=None),
        **linear("attention.dense", HIDDEN, HEADS),
        **norm("attention.LayerNorm"),
        **linear("ffn", FFN, HIDDEN),
        **linear("ffn_output", HIDDEN, FFN),
        **norm("full_layer_layer_norm"),
    },
    outer={
        **embedding("embeddings.word_embeddings", rows=VOCABULARY, width=None),
        **embedding("embeddings.position_embeddings", width=None),
        **embedding("embeddings.token_type_embeddings", width=None),
        **norm("embeddings.LayerNorm", None),
        **linear("encoder.embedding_hidden_mapping_in", HIDDEN, None),
        **linear("pooler", None, HIDDEN),
    },
    embeddings=("embeddings",),
    projection="encoder.embedding_hidden_mapping_in",
    heads={SEQUENCE: (), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)},
    inputs=TYPED_INPUTS,
    pooler="pooler",
    shared_blocks="all blocks share one set of weights, so what is kept must be the same in every block",
    limits=(Limit("all", "num_hidden_groups", 1, _ONE_GROUP), Limit("all", "inner_group_num", 1, _ONE_GROUP)),
)
