"""MPNet: one table of relative position biases, heads wide, serves all blocks, each of which reads its own heads' columns."""

from __future__ import annotations

from prunekit.arch import bert
from prunekit.arch.spec import (
    HEADS,
    HIDDEN,
    QUESTION,
    SEQUENCE,
    TOKEN,
    VOCABULARY,
    ArchSpec,
    HeadBias,
    Stub,
    SubBlock,
    embedding,
    linear,
    norm,
)

SPEC = ArchSpec(
    name="mpnet",
    model_types=("mpnet",),
    blocks="encoder.layer",
    attention=SubBlock(
        output="attention.attn.o",
        removal=(Stub("attention.attn", "bias_pass"),),
        sizes=(("attention.attn", "num_attention_heads"), ("attention.attn", "all_head_size")),
        sum="attention.LayerNorm",
        reads=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    ),
    ffn=bert.FEED_FORWARD,
    block={
        **linear("attention.attn.q", HEADS, HIDDEN),
        **linear("attention.attn.k", HEADS, HIDDEN),
        **linear("attention.attn.v", HEADS, HIDDEN),
        **linear("attention.attn.o", HIDDEN, HEADS),
        **norm("attention.LayerNorm"),
        **bert.FEED_FORWARD_ROLES,
    },
    outer={
        **embedding("embeddings.word_embeddings", rows=VOCABULARY),
        **embedding("embeddings.position_embeddings"),
        **norm("embeddings.LayerNorm"),
        **embedding("encoder.relative_attention_bias", width=HEADS),
        **linear("pooler.dense", None, HIDDEN),
    },
    embeddings=("embeddings",),
    heads={SEQUENCE: ("classifier.dense",), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)},
    pooler="pooler",
    # The attention module takes it by place, which differs between transformers 4 and 5; the one around it by name.
    head_bias=HeadBias(
        table="encoder.relative_attention_bias", reader="attention", argument="position_bias", axis=1, sizes=(("encoder", "n_heads"),)
    ),
    pad_positions=True,
    padding=1,
)
