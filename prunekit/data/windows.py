"""Contexts of questions, cut into overlapping windows, each paired with its question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunekit.data.places import Windows, offsets_of
from prunekit.data.rows import Rows
from prunekit.data.token_types import types_of
from prunekit.errors import ModelError, ParameterError
from prunekit.metrics.spans import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 256  # rows tokenised at once
#: By default, two windows overlap by the length of a window divided by this.
SHARED = 3


class PackedWindows(NamedTuple):
    """Windows without padding, end to end.

    Attributes
    ----------
    ids : int32 ndarray
    kinds : int8 ndarray
        Token types.
    lengths : int64 ndarray of shape (w,)
    gold : bool ndarray of shape (m, 2)
        Whether a correct answer starts, and ends, at each place; the place of no answer where the window holds none.
    windows : Windows
    """

    ids: NDArray[np.int32]
    kinds: NDArray[np.int8]
    lengths: NDArray[np.int64]
    gold: NDArray[np.bool_]
    windows: Windows


def cut_windows(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int | None) -> PackedWindows:
    """Tokenise questions and their contexts.

    The question comes first, as in the fine-tuning example of transformers; last where the tokenizer pads on the left.

    Parameters
    ----------
    rows : Rows
        Questions as texts, contexts as pairs, and labels that are references.
    tokenizer : PreTrainedTokenizerBase
    max_length : int
        Tokens of a window, special tokens included.
    stride : int or None
        Tokens of the context that a window shares with the one before; None: a third of a window, or half of what the longest question
        leaves of one where that is less.

    Raises
    ------
    ModelError
        A tokenizer that does not map its tokens to characters.
    ParameterError
        Windows that leave no room beside the longest question, or a stride of more than half of what they leave.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"Question answering needs a fast tokenizer. {type(tokenizer).__name__} is none: convert it to a tokenizer.json.")
    assert rows.pairs is not None
    shared = _shared(rows.texts, tokenizer, max_length, stride)
    first = tokenizer.padding_side == "right"
    ids: list[NDArray[np.int32]] = []
    kinds: list[NDArray[np.int8]] = []
    pieces: list[_Window] = []
    owners: list[int] = []
    for start in range(0, len(rows), _CHUNK):
        questions, contexts = list(rows.texts[start : start + _CHUNK]), list(rows.pairs[start : start + _CHUNK])
        encoding = tokenizer(
            questions if first else contexts,
            contexts if first else questions,
            truncation="only_second" if first else "only_first",
            max_length=max_length,
            stride=shared,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            return_attention_mask=False,
            padding=False,
            verbose=False,
        )
        kinds += types_of(encoding, tokenizer)
        for at, row in enumerate(encoding["overflow_to_sample_mapping"]):
            tokens = np.asarray(encoding["input_ids"][at], dtype=np.int32)
            in_context = np.array([sequence == int(first) for sequence in encoding.sequence_ids(at)])
            characters = np.asarray(encoding["offset_mapping"][at], dtype=np.int32)
            ids.append(tokens)
            pieces.append(_window_of(tokens, characters, in_context, tokenizer.cls_token_id, rows.labels[start + row]))
            owners.append(start + row)
    references = np.asarray(rows.labels, dtype=object)
    windows = Windows(
        np.concatenate([window.places for window in pieces]).astype(np.int32),
        offsets_of(np.array([len(window.places) for window in pieces])),
        np.concatenate([window.characters for window in pieces]),
        np.array(owners, dtype=np.int64),
        references,
        rows.silent,
    )
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
    return PackedWindows(np.concatenate(ids), np.concatenate(kinds), lengths, np.concatenate([window.gold for window in pieces]), windows)


class _Window(NamedTuple):
    places: NDArray[np.int64]
    characters: NDArray[np.int32]
    gold: NDArray[np.bool_]


def _window_of(
    tokens: NDArray[np.int32], characters: NDArray[np.int32], context: NDArray[np.bool_], cls_id: Any, reference: Reference
) -> _Window:
    """Return the place for no answer and those of the context, and at which of them a correct answer starts and ends."""
    content = np.flatnonzero(context & (characters[:, 1] > characters[:, 0]))
    cls_places: NDArray[np.int64] = np.flatnonzero(tokens == cls_id) if cls_id is not None else np.zeros(0, dtype=np.int64)
    places = np.concatenate([[cls_places[0] if len(cls_places) else 0], content])
    spans = np.concatenate([np.zeros((1, 2), dtype=np.int32), characters[content]])
    gold = np.zeros((len(places), 2), dtype=bool)
    begins, ends = spans[1:, 0], spans[1:, 1]
    for text, start in zip(reference.texts, reference.starts, strict=True):
        end = start + len(text)
        if len(content) and begins[0] <= start and end <= ends[-1]:
            gold[1 + max(0, int(np.searchsorted(begins, start, side="right")) - 1), 0] = True
            gold[1 + int(np.searchsorted(ends, end)), 1] = True
    gold[0] = not gold.any()
    return _Window(places, spans, gold)


def _shared(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int | None) -> int:
    """Return the tokens that neighbouring windows share, by default a third of a window or what the longest question leaves room for."""
    longest, row = 0, 0
    for start in range(0, len(questions), _CHUNK):
        encoding = tokenizer(list(questions[start : start + _CHUNK]), add_special_tokens=False, return_attention_mask=False, verbose=False)
        lengths = [len(ids) for ids in encoding["input_ids"]]
        if max(lengths) > longest:
            longest, row = max(lengths), start + lengths.index(max(lengths))
    special = tokenizer.num_special_tokens_to_add(pair=True)
    available = max_length - special - longest
    question = f"the longest question (row {row + 1}, {longest} tokens)"
    if available < 2:
        raise ParameterError(
            "max_length", "encode", f"at least {longest + special + 2}, which leaves two tokens beside {question}", max_length
        )
    if stride is None:
        return min(max_length // SHARED, available // 2)
    if not 0 <= stride <= available // 2:
        must = f"at most half of the {available} tokens of context that a window of {max_length} leaves beside {question}"
        raise ParameterError("stride", "encode", must, stride, "Give a larger max_length, or a smaller stride.")
    return stride
