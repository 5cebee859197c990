"""Llama, Mistral, Qwen2, Qwen3: grouped-query attention; the head that can be removed is a key/value group."""

from __future__ import annotations

from prunekit.arch.spec import FFN, HEADS, HIDDEN, QUESTION, SEQUENCE, TOKEN, VOCABULARY, ArchSpec, Stub, SubBlock, embedding, linear, norm

SPEC = ArchSpec(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    blocks="layers",
    attention=SubBlock(
        output="self_attn.o_proj",
        removal=(Stub("input_layernorm", "identity"), Stub("self_attn", "bias_pass")),
        sum="post_attention_layernorm",
        reads=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ),
    ffn=SubBlock(
        output="mlp.down_proj",
        removal=(Stub("post_attention_layernorm", "identity"), Stub("mlp", "bias")),
        sizes=(("mlp", "intermediate_size"),),
        reads=("mlp.gate_proj", "mlp.up_proj"),
    ),
    block={
        **norm("input_layernorm"),
        # The query heads of one key/value group are neighbours, so one unit of q and o is (heads / groups) x head_dim.
        **linear("self_attn.q_proj", HEADS, HIDDEN),
        **linear("self_attn.k_proj", HEADS, HIDDEN),
        **linear("self_attn.v_proj", HEADS, HIDDEN),
        **linear("self_attn.o_proj", HIDDEN, HEADS),
        # Qwen3 normalises inside each head.
        **norm("self_attn.q_norm", None),
        **norm("self_attn.k_norm", None),
        **norm("post_attention_layernorm"),
        **linear("mlp.gate_proj", FFN, HIDDEN),
        **linear("mlp.up_proj", FFN, HIDDEN),
        **linear("mlp.down_proj", HIDDEN, FFN),
    },
    outer={**embedding("embed_tokens", rows=VOCABULARY), **norm("norm")},
    embeddings=("embed_tokens",),
    heads={SEQUENCE: ("score",), TOKEN: ("score",), QUESTION: ("qa_outputs",)},
    scores_tokens=True,
    cls="last",
    final_norm="norm",
    free_head_dim=True,
    hidden_sizes=(("", "hidden_size"), ("mlp", "hidden_size")),
    flags={"use_cache": False},
)
