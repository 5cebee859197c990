"""XLNet: attention in raw three-dimensional parameters; [CLS] stands last."""

from __future__ import annotations

from prunekit.arch.spec import (
    FFN,
    HEADS,
    HIDDEN,
    SEQUENCE,
    TOKEN,
    TYPED_INPUTS,
    VOCABULARY,
    ArchSpec,
    Stub,
    SubBlock,
    embedding,
    linear,
    norm,
)

SPEC = ArchSpec(
    name="xlnet",
    model_types=("xlnet",),
    blocks="layer",
    attention=SubBlock(
        output="rel_attn.o",
        # The attention module holds the residual connection and its norm.
        removal=(Stub("rel_attn", "residual", norm="rel_attn.layer_norm"),),
        sizes=(("rel_attn", "n_head"),),
        sum="rel_attn.layer_norm",
        method="rel_attn.post_attention",
    ),
    ffn=SubBlock(
        output="ff.layer_2",
        removal=(Stub("ff.layer_1", "identity"), Stub("ff.activation_function", "identity"), Stub("ff.layer_2", "bias")),
        sum="ff.layer_norm",
        reads=("ff.layer_1",),
    ),
    block={
        "rel_attn.q": (HIDDEN, HEADS, None),
        "rel_attn.k": (HIDDEN, HEADS, None),
        "rel_attn.v": (HIDDEN, HEADS, None),
        "rel_attn.o": (HIDDEN, HEADS, None),
        # Axis 0 of `r` has the hidden size, but reads the sinusoid of the positions and not the residual stream.
        "rel_attn.r": (None, HEADS, None),
        "rel_attn.r_r_bias": (HEADS, None),
        "rel_attn.r_s_bias": (HEADS, None),
        "rel_attn.r_w_bias": (HEADS, None),
        "rel_attn.seg_embed": (None, HEADS, None),
        **norm("rel_attn.layer_norm"),
        **norm("ff.layer_norm"),
        **linear("ff.layer_1", FFN, HIDDEN),
        **linear("ff.layer_2", HIDDEN, FFN),
    },
    outer={**embedding("word_embedding", rows=VOCABULARY), "mask_emb": (None, None, HIDDEN)},
    embeddings=("word_embedding", "mask_emb"),
    heads={SEQUENCE: ("sequence_summary.summary",), TOKEN: ("classifier",), "ForQuestionAnsweringSimple": ("qa_outputs",)},
    # It reads two hidden states side by side, and is not described.
    refused_heads={"XLNetForQuestionAnswering": "answers by a beam search, not by logits; XLNetForQuestionAnsweringSimple can be exported"},
    ffn_key="d_inner",
    inputs=TYPED_INPUTS,
    cls="last",
    time_first=True,
    depth_sizes=(("", "n_layer"),),
    # Memories of earlier segments would be collected, and never used.
    flags={"use_mems": False},
    # The relative positions of a row of T tokens are 2T; biases, and the table of the two segments, count nothing.
    row_rate={
        "rel_attn.r": 2.0,
        **dict.fromkeys(("rel_attn.r_r_bias", "rel_attn.r_s_bias", "rel_attn.r_w_bias", "rel_attn.seg_embed"), 0.0),
    },
    # The relative shift.
    torch_export=False,
)
