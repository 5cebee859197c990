"""DistilBERT: config keys are dim, hidden_dim, n_layers, n_heads; no token types, no pooler."""

from __future__ import annotations

from prunekit.arch.spec import FFN, HEADS, HIDDEN, QUESTION, SEQUENCE, TOKEN, VOCABULARY, ArchSpec, Stub, SubBlock, embedding, linear, norm

SPEC = ArchSpec(
    name="distilbert",
    model_types=("distilbert",),
    blocks="transformer.layer",
    attention=SubBlock(
        output="attention.out_lin",
        removal=(Stub("attention", "bias_pass"),),
        # `dim` here is heads x head_dim: transformers 4 divides it by `n_heads` at run time.
        sizes=(("attention", "n_heads"), ("attention", "dim")),
        sum="sa_layer_norm",
        reads=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    ),
    ffn=SubBlock(output="ffn.lin2", removal=(Stub("ffn", "bias"),), sum="output_layer_norm", reads=("ffn.lin1",)),
    block={
        **linear("attention.q_lin", HEADS, HIDDEN),
        **linear("attention.k_lin", HEADS, HIDDEN),
        **linear("attention.v_lin", HEADS, HIDDEN),
        **linear("attention.out_lin", HIDDEN, HEADS),
        **norm("sa_layer_norm"),
        **linear("ffn.lin1", FFN, HIDDEN),
        **linear("ffn.lin2", HIDDEN, FFN),
        **norm("output_layer_norm"),
    },
    outer={
        **embedding("embeddings.word_embeddings", rows=VOCABULARY),
        **embedding("embeddings.position_embeddings"),
        **norm("embeddings.LayerNorm"),
    },
    embeddings=("embeddings",),
    heads={SEQUENCE: ("pre_classifier",), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)},
    ffn_key="hidden_dim",
    depth_sizes=(("transformer", "n_layers"),),
)
