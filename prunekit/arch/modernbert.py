"""ModernBERT: pre-norm, rotary positions, a gated and fused FFN, alternating attention spans."""

from __future__ import annotations

from prunekit.arch.spec import HEADS, HIDDEN, QUESTION, SEQUENCE, TOKEN, VOCABULARY, ArchSpec, Axis, Stub, SubBlock, embedding, linear, norm

SPEC = ArchSpec(
    name="modernbert",
    model_types=("modernbert",),
    blocks="layers",
    attention=SubBlock(
        output="attn.Wo",
        removal=(Stub("attn_norm", "identity"), Stub("attn", "bias_pass")),
        # transformers 4; version 5 reads the number of heads off the projection.
        sizes=(("attn", "num_heads"), ("attn", "all_head_size")),
        sum="mlp_norm",
        reads=("attn.Wqkv",),
    ),
    ffn=SubBlock(output="mlp.Wo", removal=(Stub("mlp_norm", "identity"), Stub("mlp", "bias")), reads=("mlp.Wi",)),
    block={
        # `attn_norm` of block 0 is an Identity: the embeddings are normalised already.
        **norm("attn_norm"),
        **linear("attn.Wqkv", Axis("heads", repeat=3), HIDDEN),
        **linear("attn.Wo", HIDDEN, HEADS),
        **norm("mlp_norm"),
        # Neuron j is rows j (input) and j + F (gate).
        **linear("mlp.Wi", Axis("ffn", repeat=2), HIDDEN),
        **linear("mlp.Wo", HIDDEN, Axis("ffn")),
    },
    outer={**embedding("embeddings.tok_embeddings", rows=VOCABULARY), **norm("embeddings.norm"), **norm("final_norm")},
    embeddings=("embeddings",),
    heads={SEQUENCE: ("head.dense",), TOKEN: ("head.dense",), QUESTION: ("head.dense",)},
    final_norm="final_norm",
    full_attention=("global_attn_every_n_layers", 3),
)
