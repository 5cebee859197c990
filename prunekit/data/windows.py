"""Contexts of questions, cut into windows that overlap, each with its question beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunekit.data.places import Windows, offsets_of
from prunekit.data.rows import Rows
from prunekit.errors import ModelError, ParameterError
from prunekit.spans import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 256  # rows tokenised at once
#: What two windows share where nothing is said of it, as a part of a window.
SHARED = 3


class Cut(NamedTuple):
    """Windows without padding, end to end.

    Attributes
    ----------
    ids : int32 ndarray
    kinds : int8 ndarray
        Token types.
    lengths : int64 ndarray of shape (w,)
    gold : bool ndarray of shape (m, 2)
        Whether a right answer starts, and ends, at each place; that of no answer where the window holds none.
    windows : Windows
    """

    ids: NDArray[np.int32]
    kinds: NDArray[np.int8]
    lengths: NDArray[np.int64]
    gold: NDArray[np.bool_]
    windows: Windows


def cut_windows(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int | None) -> Cut:
    """Tokenise questions and their contexts.

    The question comes first, as models are fine-tuned by the example of transformers; last where the tokenizer pads on the left.

    Parameters
    ----------
    rows : Rows
        Questions as texts, contexts as pairs, and labels that are references.
    tokenizer : PreTrainedTokenizerBase
    max_length : int
        Tokens of a window, special tokens included.
    stride : int or None
        Tokens of the context that a window shares with the one before; None: a third of a window.

    Raises
    ------
    ModelError
        A tokenizer that does not know which characters a token is of.
    ParameterError
        A stride of more than half of what a window leaves beside the longest question.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"Question answering needs a fast tokenizer. {type(tokenizer).__name__} is none: convert it to a tokenizer.json.")
    assert rows.pairs is not None
    shared = max_length // SHARED if stride is None else stride
    _check_stride(rows.texts, tokenizer, max_length, shared)
    first = tokenizer.padding_side == "right"
    ids: list[NDArray[np.int32]] = []
    kinds: list[NDArray[np.int8]] = []
    read: list[_Window] = []
    asked: list[int] = []
    for start in range(0, len(rows), _CHUNK):
        questions, contexts = list(rows.texts[start : start + _CHUNK]), list(rows.pairs[start : start + _CHUNK])
        found = tokenizer(
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
        for at, row in enumerate(found["overflow_to_sample_mapping"]):
            tokens = np.asarray(found["input_ids"][at], dtype=np.int32)
            of = np.array([sequence == int(first) for sequence in found.sequence_ids(at)])
            characters = np.asarray(found["offset_mapping"][at], dtype=np.int32)
            ids.append(tokens)
            kinds.append(np.asarray(found["token_type_ids"][at], dtype=np.int8))
            read.append(_read(tokens, characters, of, tokenizer.cls_token_id, rows.labels[start + row]))
            asked.append(start + row)
    references = np.asarray(rows.labels, dtype=object)
    windows = Windows(
        np.concatenate([window.places for window in read]).astype(np.int32),
        offsets_of(np.array([len(window.places) for window in read])),
        np.concatenate([window.characters for window in read]),
        np.array(asked, dtype=np.int64),
        references,
        rows.silent,
    )
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
    return Cut(np.concatenate(ids), np.concatenate(kinds), lengths, np.concatenate([window.gold for window in read]), windows)


class _Window(NamedTuple):
    places: NDArray[np.int64]
    characters: NDArray[np.int32]
    gold: NDArray[np.bool_]


def _read(tokens: NDArray[np.int32], characters: NDArray[np.int32], context: NDArray[np.bool_], mark: Any, reference: Reference) -> _Window:
    """The place for no answer and those of the context, and at which of them a right answer starts and ends."""
    there = np.flatnonzero(context & (characters[:, 1] > characters[:, 0]))
    marks: NDArray[np.int64] = np.flatnonzero(tokens == mark) if mark is not None else np.zeros(0, dtype=np.int64)
    places = np.concatenate([[marks[0] if len(marks) else 0], there])
    spans = np.concatenate([np.zeros((1, 2), dtype=np.int32), characters[there]])
    gold = np.zeros((len(places), 2), dtype=bool)
    begins, ends = spans[1:, 0], spans[1:, 1]
    for text, start in zip(reference.texts, reference.starts, strict=True):
        end = start + len(text)
        if len(there) and begins[0] <= start and end <= ends[-1]:
            gold[1 + max(0, int(np.searchsorted(begins, start, side="right")) - 1), 0] = True
            gold[1 + int(np.searchsorted(ends, end)), 1] = True
    gold[0] = not gold.any()
    return _Window(places, spans, gold)


def _check_stride(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> None:
    most, row = 0, 0
    for start in range(0, len(questions), _CHUNK):
        found = tokenizer(list(questions[start : start + _CHUNK]), add_special_tokens=False, return_attention_mask=False, verbose=False)
        lengths = [len(each) for each in found["input_ids"]]
        if max(lengths) > most:
            most, row = max(lengths), start + lengths.index(max(lengths))
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - most
    if room < 2 or not 0 <= stride <= room // 2:
        must = (
            f"at most half of the {max(room, 0)} tokens of context that a window of {max_length} leaves beside the longest question "
            f"(row {row + 1}, {most} tokens)"
        )
        raise ParameterError("stride", "encode", must, stride, "Give a larger max_length, or a smaller stride.")
