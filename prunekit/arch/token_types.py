"""Token types of a tokenizer, as transformers feeds them to a model."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

_TYPES = "token_type_ids"


def as_fed(tokenizer: Any) -> Any:
    """Let a tokenizer give the token types that transformers feeds a model, and return it.

    A tokenizer whose `model_input_names` lack them marks the second text of a pair in its own file all the same; transformers, its
    pipelines and sentence-transformers feed such a model no types, which are zeros. Its file then says so, too: runtimes that read it
    without transformers (tokenizers, text-embeddings-inference) take the types from there.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Changed, where it is a fast one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if _TYPES not in tokenizer.model_input_names and isinstance(backend, Tokenizer):
        state = json.loads(backend.to_str())
        processor = _untyped(state.get("post_processor"))
        if processor != state.get("post_processor"):
            state["post_processor"] = processor
            backend.post_processor = Tokenizer.from_str(json.dumps(state)).post_processor
    return tokenizer


def _untyped(processor: Any) -> Any:
    """Return a post-processor, as the file has it, that gives every token the type 0."""
    kind = processor.get("type") if isinstance(processor, dict) else None
    if kind == "Sequence":
        return {**processor, "processors": [_untyped(inner) for inner in processor["processors"]]}
    if kind == "TemplateProcessing":
        zeros = {name: [_of_type_0(piece) for piece in processor[name]] for name in ("single", "pair")}
        return {**processor, **zeros}
    if kind == "BertProcessing":
        # It has the types of its own: the same as a template.
        (cls, cls_id), (sep, sep_id) = processor["cls"], processor["sep"]
        single = [_special(cls), _text("A"), _special(sep)]
        special = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in ((cls, cls_id), (sep, sep_id))}
        return {"type": "TemplateProcessing", "single": single, "pair": [*single, _text("B"), _special(sep)], "special_tokens": special}
    return processor


def _of_type_0(piece: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**fields, "type_id": 0} for name, fields in piece.items()}


def _special(token: str) -> dict[str, dict[str, Any]]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _text(name: str) -> dict[str, dict[str, Any]]:
    return {"Sequence": {"id": name, "type_id": 0}}
