"""Tiny random models of every family, with pairwise distinct sizes where the family allows it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import transformers
from torch import Tensor, nn

LAYERS, HIDDEN, HEADS, FFN, VOCABULARY, LENGTH = 4, 24, 4, 20, 50, 9
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "num_labels": 3,
}
_DECODER: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}

#: {case: (config class, its arguments, prefix of the model classes)}
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("BertConfig", {}, "Bert"),
    "roberta": ("RobertaConfig", {"type_vocab_size": 1}, "Roberta"),
    "xlm-roberta": ("XLMRobertaConfig", {"type_vocab_size": 1}, "XLMRoberta"),
    "camembert": ("CamembertConfig", {"type_vocab_size": 1}, "Camembert"),
    "electra": ("ElectraConfig", {"embedding_size": 16}, "Electra"),
    "electra-unprojected": ("ElectraConfig", {"embedding_size": HIDDEN}, "Electra"),
    "mpnet": ("MPNetConfig", {}, "MPNet"),
    "distilbert": ("DistilBertConfig", {"dim": HIDDEN, "hidden_dim": FFN, "n_layers": LAYERS, "n_heads": HEADS}, "DistilBert"),
    "albert": ("AlbertConfig", {"embedding_size": 16}, "Albert"),
    "xlnet": ("XLNetConfig", {"d_model": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "d_inner": FFN}, "XLNet"),
    "deberta": (
        "DebertaConfig",
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 2, "position_biased_input": False},
        "Deberta",
    ),
    "deberta-v2": (
        "DebertaV2Config",
        {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
        "DebertaV2",
    ),
    "deberta-v2-unshared": (
        "DebertaV2Config",
        {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "share_att_key": False,
            "norm_rel_ebd": "layer_norm",
        },
        "DebertaV2",
    ),
    "modernbert": (
        "ModernBertConfig",
        {"global_attn_every_n_layers": 2, "local_attention": 4, "cls_token_id": 2, "sep_token_id": 3},
        "ModernBert",
    ),
    "gpt2": ("GPT2Config", {"n_inner": FFN, "n_positions": 40}, "GPT2"),
    "llama": ("LlamaConfig", _DECODER, "Llama"),
    "mistral": ("MistralConfig", _DECODER, "Mistral"),
    "qwen2": ("Qwen2Config", {**_DECODER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, "Qwen2"),
    "qwen3": ("Qwen3Config", _DECODER, "Qwen3"),
}
_RENAMED = {"distilbert": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"), "gpt2": ("intermediate_size",)}
_RENAMED["xlnet"] = (*_RENAMED["distilbert"], "max_position_embeddings")


def config_of(case: str, **changes: Any) -> Any:
    """The tiny config of a case."""
    name, extra, _ = CASES[case]
    common = {key: value for key, value in COMMON.items() if key not in _RENAMED.get(case, ())}
    return getattr(transformers, name)(**{**common, **extra, **changes})


def build(case: str, head: str = "Model", seed: int = 0, **changes: Any) -> Any:
    """A random model in evaluation mode whose every parameter, norms and biases too, is drawn at random.

    `head` is "Model", "ForSequenceClassification", "ForTokenClassification" or "ForQuestionAnswering".
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        labels = {"num_labels": 2} if "QuestionAnswering" in head else {}
        model: nn.Module = getattr(transformers, CASES[case][2] + head)(config_of(case, **labels, **changes))
        for parameter in model.parameters():
            # Wide enough that attention is not flat and that biases matter.
            nn.init.normal_(parameter, std=0.3)
            if parameter.ndim == 1:
                parameter.data.add_(0.5)
    return model.eval()


def batch_of(rows: int = 3, length: int = LENGTH, seed: int = 0, left: bool = False) -> dict[str, Tensor]:
    """Padded rows of different lengths; padding is token 1."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.int64)
    for row in range(1, rows):
        gap = min(2 * row, length - 2)
        mask[row, slice(0, gap) if left else slice(length - gap, length)] = 0
    ids[mask == 0] = 1
    types = torch.zeros_like(ids)
    types[:, length // 2 :] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types * mask}
