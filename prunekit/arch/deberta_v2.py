"""DeBERTa-v2 and v3: with share_att_key the relative positions pass through the key and query matrices themselves."""

from __future__ import annotations

from dataclasses import replace

from prunekit.arch import bert, deberta
from prunekit.arch.spec import HEADS, HIDDEN, Axis, Limit, linear, norm

# Sliced with the hidden dimensions if the same key and query matrices read them, a space of their own otherwise.
_SHARED = Axis("hidden", when="share_att_key")

SPEC = replace(
    deberta.SPEC,
    name="deberta_v2",
    model_types=("deberta-v2",),
    # With share_att_key queries and keys read the relative positions too: only the values read the residual stream alone.
    attention=replace(bert.ATTENTION, reads=("attention.self.value_proj",)),
    block={
        **linear("attention.self.query_proj", HEADS, HIDDEN),
        **linear("attention.self.key_proj", HEADS, HIDDEN),
        **linear("attention.self.value_proj", HEADS, HIDDEN),
        **linear("attention.self.pos_key_proj", HEADS, None),
        **linear("attention.self.pos_query_proj", HEADS, None),
        **linear("attention.output.dense", HIDDEN, HEADS),
        **norm("attention.output.LayerNorm"),
        **bert.FEED_FORWARD_ROLES,
    },
    outer={
        **deberta.EMBEDDINGS,
        "encoder.rel_embeddings.weight": (None, _SHARED),
        **norm("encoder.LayerNorm", _SHARED),
        # The convolution of the largest v2 models, beside the first block.
        "encoder.conv.conv.weight": (None, None, None),
        "encoder.conv.conv.bias": (None,),
        **norm("encoder.conv.LayerNorm", None),
    },
    row_rate={"attention.self.pos_key_proj.weight": 0.0, "attention.self.pos_query_proj.weight": 0.0},
    needs_block=True,
    limits=(
        Limit("hidden", "conv_kernel_size", 0, "the convolution beside the first block mixes all dimensions"),
        Limit(
            "inner layers", "conv_kernel_size", 0, "the convolution belongs to the first block, so only the topmost blocks can be dropped"
        ),
    ),
)
