"""Reduction of a fast tokenizer to the token ids that a plan keeps: WordPiece, BPE, Unigram and word-level models."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from prunekit.errors import PlanError, UnsupportedError

_TYPES = ("WordPiece", "BPE", "Unigram", "WordLevel")
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def needed_tokens(tokenizer: Any, used: Iterable[int]) -> tuple[int, ...]:
    """Return the token ids that a slim tokenizer needs so that texts of the tokens `used` are split as before.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    used : iterable of int
        Token ids seen in the data.

    Returns
    -------
    tuple of int
        Sorted: the ids used, every added (special) token, the unknown token, and the single characters or bytes, so that
        any other text can still be spelled; for BPE also every symbol that merges into one of them, for Unigram the piece of
        the lowest score, which determines the score of the unknown token.

    Raises
    ------
    UnsupportedError
        If the tokenizer is not a fast one of a known kind.
    """
    state = _state(tokenizer)
    model = state["model"]
    needed = set(used) | {token["id"] for token in state["added_tokens"]}
    if model["type"] == "Unigram":
        pieces = model["vocab"]
        if model.get("unk_id") is not None:
            needed.add(model["unk_id"])
        needed.add(min(range(len(pieces)), key=lambda index: pieces[index][1]))
        needed.update(index for index, (piece, _) in enumerate(pieces) if _is_single(piece))
        return tuple(sorted(needed))
    vocabulary: dict[str, int] = model["vocab"]
    if model.get("unk_token") in vocabulary:
        needed.add(vocabulary[model["unk_token"]])
    if model["type"] == "WordLevel":
        return tuple(sorted(needed))
    # Characters that begin a word, go on with it ("##a"), or end it ("a</w>").
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    needed.update(
        number for token, number in vocabulary.items() if _is_single(token) or _is_single(token.removeprefix(prefix).removesuffix(suffix))
    )
    if model["type"] == "BPE":
        parts: dict[int, set[int]] = {}
        for left, right in _merges(model):
            merged = vocabulary.get(left + right.removeprefix(prefix))
            if merged is not None:
                parts.setdefault(merged, set()).update((vocabulary[left], vocabulary[right]))
        pending = list(needed)
        while pending:
            for part in parts.get(pending.pop(), ()):
                if part not in needed:
                    needed.add(part)
                    pending.append(part)
    return tuple(sorted(needed))


def _is_single(token: str) -> bool:
    """Return whether a token is one character, or one byte as `byte_fallback` writes it."""
    return len(token) == 1 or _BYTE.fullmatch(token) is not None


def shrink_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """Return a copy of a tokenizer with the token ids `kept` alone, renumbered in their order.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    kept : sequence of int
        Increasing; they must include those of `needed_tokens`.

    Returns
    -------
    PreTrainedTokenizerFast
        Token `kept[i]` becomes token i.

    Raises
    ------
    PlanError
        If an added (special) or the unknown token is dropped.
    UnsupportedError
        If the tokenizer is not a fast one of a known kind.
    """
    state = _state(tokenizer)
    model = state["model"]
    new = {old: index for index, old in enumerate(kept)}
    for token in state["added_tokens"]:
        if token["id"] not in new:
            raise PlanError(f"The plan's 'vocabulary' drops token {token['id']}, which is the added token {token['content']!r}.")
        token["id"] = new[token["id"]]
    if model["type"] == "Unigram":
        unknown = model.get("unk_id")
        if unknown is not None and unknown not in new:
            raise PlanError(f"The plan's 'vocabulary' drops token {unknown}, which is the unknown token.")
        model["unk_id"] = None if unknown is None else new[unknown]
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
    else:
        vocabulary: dict[str, int] = model["vocab"]
        if model.get("unk_token") in vocabulary and vocabulary[model["unk_token"]] not in new:
            raise PlanError(f"The plan's 'vocabulary' drops token {vocabulary[model['unk_token']]}, which is the unknown token.")
        model["vocab"] = {token: new[old] for token, old in vocabulary.items() if old in new}
        if model["type"] == "BPE":
            remaining = model["vocab"].keys()
            prefix = model.get("continuing_subword_prefix") or ""
            model["merges"] = [[a, b] for a, b in _merges(model) if {a, b, a + b.removeprefix(prefix)} <= remaining]
    state["post_processor"] = _renumber(state["post_processor"], new)
    slim = copy.deepcopy(tokenizer)
    slim._tokenizer = Tokenizer.from_str(json.dumps(state))
    return slim


def _state(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UnsupportedError(f"Only fast tokenizers can be cut. Got {type(tokenizer).__name__}; load it with use_fast=True.")
    state: dict[str, Any] = json.loads(backend.to_str())
    kind = state["model"].get("type")
    if kind not in _TYPES:
        raise UnsupportedError(f"Tokenizers of kind {kind!r} cannot be cut; supported: {', '.join(_TYPES)}.")
    return state


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    # Older files write a merge as one string.
    return [(merge.split(" ")[0], merge.split(" ")[1]) if isinstance(merge, str) else (merge[0], merge[1]) for merge in model["merges"]]


def _renumber(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor with new token ids."""
    if not isinstance(processor, dict):
        return processor
    renumbered = dict(processor)
    if renumbered["type"] == "Sequence":
        renumbered["processors"] = [_renumber(inner, new) for inner in renumbered["processors"]]
    for name in ("sep", "cls"):
        if name in renumbered:
            renumbered[name] = [renumbered[name][0], new[renumbered[name][1]]]
    if "special_tokens" in renumbered:
        renumbered["special_tokens"] = {
            name: {**token, "ids": [new[old] for old in token["ids"]]} for name, token in renumbered["special_tokens"].items()
        }
    return renumbered
