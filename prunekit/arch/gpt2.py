"""GPT-2: transposed linear layers, a fused projection, causal attention."""

from __future__ import annotations

from prunekit.arch.bert import NO_CROSS_ATTENTION
from prunekit.arch.spec import (
    FFN,
    HEADS,
    HIDDEN,
    QUESTION,
    SEQUENCE,
    TOKEN,
    VOCABULARY,
    ArchSpec,
    Axis,
    Limit,
    Stub,
    SubBlock,
    conv1d,
    embedding,
    norm,
)

SPEC = ArchSpec(
    name="gpt2",
    model_types=("gpt2",),
    blocks="h",
    attention=SubBlock(
        output="attn.c_proj",
        removal=(Stub("ln_1", "identity"), Stub("attn", "bias_pass")),
        sizes=(("attn", "num_heads"), ("attn", "split_size")),
        sum="ln_2",
        reads=("attn.c_attn",),
    ),
    ffn=SubBlock(output="mlp.c_proj", removal=(Stub("ln_2", "identity"), Stub("mlp", "bias")), reads=("mlp.c_fc",)),
    block={
        **norm("ln_1"),
        **conv1d("attn.c_attn", Axis("heads", repeat=3), HIDDEN),
        **conv1d("attn.c_proj", HIDDEN, HEADS),
        **norm("ln_2"),
        **conv1d("mlp.c_fc", FFN, HIDDEN),
        **conv1d("mlp.c_proj", HIDDEN, FFN),
    },
    outer={**embedding("wte", rows=VOCABULARY), **embedding("wpe"), **norm("ln_f")},
    embeddings=("wte", "wpe"),
    heads={SEQUENCE: ("score",), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)},
    scores_tokens=True,
    ffn_key="n_inner",
    cls="last",
    final_norm="ln_f",
    flags={"use_cache": False},
    limits=(
        NO_CROSS_ATTENTION,
        Limit(
            "inner layers",
            "scale_attn_by_inverse_layer_idx",
            False,
            "attention is scaled by the block's number, so only the topmost blocks can be dropped",
        ),
    ),
)
