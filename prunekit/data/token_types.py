"""Token types of texts: those that transformers feeds a model, which `model_input_names` of its tokenizer says."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

TYPES = "token_type_ids"


def has_types(tokenizer: Any) -> bool:
    """Return whether transformers, its pipelines and sentence-transformers feed a model the types of this tokenizer; else they are 0."""
    return TYPES in tokenizer.model_input_names


def unfed_types(tokenizer: Any) -> bool:
    """Return whether the tokenizer itself gives second texts a type that transformers does not feed, as older versions may have."""
    return not has_types(tokenizer) and any(tokenizer("a", "b", return_token_type_ids=True)[TYPES])


def types_of(encoding: Any, tokenizer: Any) -> list[NDArray[np.int8]]:
    """Return the types of each row of an encoding, which must have been made with `return_token_type_ids`."""
    rows: Sequence[Sequence[int]] = encoding[TYPES]
    return [np.asarray(row, dtype=np.int8) if has_types(tokenizer) else np.zeros(len(row), dtype=np.int8) for row in rows]


def as_fed(tokenizer: Any) -> Any:
    """Return a tokenizer whose tokenizer.json gives the types that transformers feeds.

    Runtimes that read the file without transformers (tokenizers, text-embeddings-inference) take the types from there.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Not changed.

    Returns
    -------
    PreTrainedTokenizerBase
        A copy if it is a fast one without types; else the tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if has_types(tokenizer) or not isinstance(backend, Tokenizer):
        return tokenizer
    state = json.loads(backend.to_str())
    state["post_processor"] = _untyped(state["post_processor"])
    fed = copy.deepcopy(tokenizer)
    fed.backend_tokenizer.post_processor = Tokenizer.from_str(json.dumps(state)).post_processor
    return fed


def _untyped(processor: dict[str, Any] | None) -> dict[str, Any]:
    """Return a post-processor, as the file has it, that gives every token the type 0."""
    steps = [] if processor is None else processor["processors"] if processor["type"] == "Sequence" else [processor]
    found = [_step(step) for step in steps]
    if all(step["type"] == "ByteLevel" for step in found):
        # Without a template the second text is of type 1.
        found.append(_template((), ()))
    return found[0] if len(found) == 1 else {"type": "Sequence", "processors": found}


def _step(step: dict[str, Any]) -> dict[str, Any]:
    if step["type"] == "TemplateProcessing":
        return {**step, **{name: [_of_type_0(piece) for piece in step[name]] for name in ("single", "pair")}}
    # RobertaProcessing gives no types of its own.
    return _template(step["cls"], step["sep"]) if step["type"] == "BertProcessing" else step


def _template(cls: Sequence[Any], sep: Sequence[Any]) -> dict[str, Any]:
    """Return the template of BERT, of (token, id) each, or of the bare texts, without types."""
    begin, end = ([{"SpecialToken": {"id": special[0], "type_id": 0}}] if special else [] for special in (cls, sep))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in filter(None, (cls, sep))}
    single = [*begin, first, *end]
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, second, *end], "special_tokens": tokens}


def _of_type_0(piece: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**fields, "type_id": 0} for name, fields in piece.items()}
