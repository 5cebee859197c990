"""Rows as token ids, and batches of rows of about one length."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.places import Windows, Words, offsets_of, ranges
from prunekit.data.rows import Rows
from prunekit.data.token_types import has_types, types_of
from prunekit.data.windows import cut_windows
from prunekit.errors import DataError, ModelError, ParameterError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_CHUNK = 1024  # rows tokenised at once

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded rows of one split, b rows of at most L tokens, of which k places are read.

    Attributes
    ----------
    input_ids, attention_mask, token_type_ids : int64 ndarrays of shape (b, L)
        Padded on the tokenizer's side with the tokenizer's ids. A model without token types ignores the last.
    rows : int64 ndarray of shape (b,)
        Indices of the rows in the split.
    first : int64 ndarray of shape (k, 2), or None
        For a token task, (row of this batch, position) of the first sub-word of each word; of questions, of each place at which an
        answer may start or end; None where a row is read as a whole.
    targets : int64 ndarray of shape (k,)
        Where each result belongs in the split's own order: an index into `Encoded.labels`. Equals `rows` where a row is read as a whole.
    labels : ndarray of shape (k,), int64 or float64
        `Encoded.labels[targets]`.
    """

    input_ids: IntArray
    attention_mask: IntArray
    token_type_ids: IntArray
    rows: IntArray
    first: IntArray | None
    targets: IntArray
    labels: NDArray[Any]

    @property
    def inputs(self) -> dict[str, IntArray]:
        """The three input arrays by name."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "token_type_ids": self.token_type_ids}

    @property
    def read(self) -> IntArray:
        """Mask of the places that are read, of all real tokens where a row is read as a whole, int64 of shape (b, L)."""
        if self.first is None:
            return self.attention_mask
        mask = np.zeros_like(self.attention_mask)
        mask[self.first[:, 0], self.first[:, 1]] = 1
        return mask


@dataclass(frozen=True, eq=False)
class _Padding:
    token: int
    kind: int
    left: bool


@dataclass(frozen=True, eq=False)
class Encoded:
    """The n rows of a split as token ids, 5 bytes a token.

    Attributes
    ----------
    ids : int32 ndarray
        All rows end to end, special tokens included, without padding.
    kinds : int8 ndarray
        Token types, like `ids`.
    offsets : int64 ndarray of shape (n + 1,)
        Row i is `ids[offsets[i]:offsets[i + 1]]`.
    labels : ndarray of shape (n,), int64 or float64; for a token task (m,), one a word kept, in the split's order
    truncated : int
        Rows cut at `max_length`.
    dropped : int
        Words that have no sub-word left (cut, or spelled by nothing the tokenizer knows); their labels are not among `labels`, but
        they are among `every_label`, on which answers are judged.
    starts : int64 ndarray of shape (k + 1,), or None
        Where what is drawn together begins, such as the two texts of a pair; only of a split as a whole.
    queries : int64 ndarray of shape (n,), or None
        The query of each row, where its rows are a list.
    windows : Windows or None
        Where rows are windows of the contexts of questions; `labels` are then (m, 2) bool, whether an answer starts and ends at each
        place that is read.
    """

    ids: NDArray[np.int32]
    kinds: NDArray[np.int8]
    offsets: IntArray
    labels: NDArray[Any]
    truncated: int
    dropped: int
    padding: _Padding
    words: Words | None = None
    starts: IntArray | None = None
    queries: IntArray | None = None
    windows: Windows | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def read(self) -> Words | Windows | None:
        """The places that are read, where that is not each row as a whole."""
        return self.windows if self.words is None else self.words

    @property
    def by_row(self) -> Encoded:
        """The same rows, each read as a whole; of a window the label is whether it holds an answer, 0 or 1."""
        if self.windows is None:
            return self
        nowhere = self.labels[self.windows.starts[:-1]].all(axis=1)
        return replace(self, labels=np.where(nowhere, 0, 1), windows=None)

    @property
    def lengths(self) -> IntArray:
        """Tokens in each row, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def first_ids(self) -> IntArray:
        """For a token task, the id of the first sub-word of each word kept, shape (m,), in the order of `labels`."""
        assert self.words is not None
        owner = np.repeat(np.arange(len(self)), np.diff(self.words.starts))
        return np.asarray(self.ids[self.offsets[owner] + self.words.places], dtype=np.int64)

    @property
    def word_starts(self) -> IntArray:
        """For a token task, where the words kept of each row begin among `labels`, shape (n + 1,)."""
        assert self.words is not None
        return self.words.starts

    @property
    def every_label(self) -> NDArray[Any]:
        """`labels`, and for a token task those of the words without a token too, shape (w,); the same whatever the tokenizer.

        Of questions the references, shape (questions,).
        """
        if self.windows is not None:
            return self.windows.references
        return self.labels if self.words is None else self.words.labels

    @property
    def every_start(self) -> IntArray | None:
        """Where what is drawn together begins among `every_label`, shape (n + 1,): words of a row, texts of a pair, rows of a query.

        None where each label is a row of its own.
        """
        return self._list_starts if self.words is None else self.words.offsets

    @property
    def kept_starts(self) -> IntArray | None:
        """The same among `labels`."""
        return self._list_starts if self.words is None else self.words.starts

    @property
    def _list_starts(self) -> IntArray | None:
        if self.queries is None:
            return self.starts
        new = np.flatnonzero(np.diff(self.queries)) + 1
        return np.concatenate([[0], new, [len(self.queries)]]).astype(np.int64)

    def list_batches(self, max_tokens: int, max_rows: int) -> list[IntArray]:
        """Return the rows of batches that keep the rows of a query together, as far as the limits (see `batches`) allow."""
        starts, lengths = self._list_starts, self.lengths
        assert starts is not None
        lists = sorted((np.arange(a, b) for a, b in pairwise(starts)), key=lambda rows: int(lengths[rows].max()))
        batches: list[IntArray] = []
        for rows in lists:
            width = int(lengths[rows].max())
            most = max(1, min(max_rows, max_tokens // width))
            # Lists are sorted by length: this one's width is that of the batch that it joins.
            if batches and len(rows) <= most - len(batches[-1]):
                batches[-1] = np.concatenate([batches[-1], rows])
            else:
                batches += [rows[at : at + most] for at in range(0, len(rows), most)]
        return batches

    def every(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Expand outputs (m, C) in the order of `labels` to outputs (w, C) in that of `every_label`.

        A word without a token is answered by minus infinity for every class, which no task counts as right; a question by the span
        that the logits of all its windows indicate, (questions, 2).
        """
        if self.windows is not None:
            return self.windows.spans(outputs)
        return outputs if self.words is None else self.words.every(outputs)

    def batches(self, max_tokens: int = 8192, max_rows: int = 64) -> Iterator[Batch]:
        """Yield batches of at most `max_rows` rows and `max_tokens` padded tokens (one row at least), from short to long rows.

        The order depends on the lengths alone: it is the same in every run.

        Raises
        ------
        ParameterError
            A limit below 1.
        """
        return map(self.batch, self.layout(max_tokens, max_rows))

    def layout(self, max_tokens: int = 8192, max_rows: int = 64) -> Iterator[IntArray]:
        """Yield the rows of each of the `batches`, int64 of shape (b,)."""
        for name, value in (("max_tokens", max_tokens), ("max_rows", max_rows)):
            if value < 1:
                raise ParameterError(name, "Encoded.batches", "at least 1", value)
        lengths = self.lengths
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and stop - start < max_rows and (stop - start + 1) * lengths[order[stop]] <= max_tokens:
                stop += 1
            yield order[start:stop]
            start = stop

    def part(self, index: int, of: int) -> list[IntArray]:
        """Return the rows of every `of`-th of the `batches`, from the `index`-th on (from 1): all parts together are the split.

        A part is made of whole batches because a model's outputs for a row depend, in their last bits, on the rows it is padded with.
        """
        return list(islice(self.layout(), index - 1, None, of))

    def targets(self, rows: IntArray) -> IntArray:
        """Return the indices among `labels` of the places that are read of some rows, int64."""
        read = self.read
        return rows if read is None else ranges(read.starts[rows], read.starts[rows + 1])

    def digest(self) -> str:
        """Return the sha256 over the token ids of every row."""
        checksum = hashlib.sha256()
        for array in (self.offsets, self.ids, self.kinds):
            checksum.update(np.ascontiguousarray(array).data)
        return checksum.hexdigest()

    def batch(self, rows: IntArray) -> Batch:
        """Pad the given rows, int64 of shape (b,), to one batch."""
        lengths = self.lengths[rows]
        width = int(lengths.max())
        shifts = width - lengths if self.padding.left else np.zeros_like(lengths)
        ids = np.full((len(rows), width), self.padding.token, dtype=np.int64)
        kinds = np.full((len(rows), width), self.padding.kind, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for at, (row, shift, length) in enumerate(zip(rows, shifts, lengths, strict=True)):
            span = slice(self.offsets[row], self.offsets[row + 1])
            ids[at, shift : shift + length] = self.ids[span]
            kinds[at, shift : shift + length] = self.kinds[span]
            mask[at, shift : shift + length] = 1
        read = self.read
        if read is None:
            return Batch(ids, mask, kinds, rows, None, rows, self.labels[rows])
        starts = read.starts
        targets = ranges(starts[rows], starts[rows + 1])
        owner = np.repeat(np.arange(len(rows)), starts[rows + 1] - starts[rows])
        first = np.stack([owner, read.places[targets] + shifts[owner]], axis=1)
        return Batch(ids, mask, kinds, rows, first, targets, self.labels[targets])

    def take(self, rows: IntArray) -> Encoded:
        """Return the given rows, int64 of shape (b,), in the order given; the counts of what was cut stay the split's."""
        span, read = ranges(self.offsets[rows], self.offsets[rows + 1]), self.read
        return replace(
            self,
            ids=self.ids[span],
            kinds=self.kinds[span],
            offsets=offsets_of(self.lengths[rows]),
            labels=self.labels[rows if read is None else ranges(read.starts[rows], read.starts[rows + 1])],
            words=None if self.words is None else self.words.take(rows),
            starts=None,
            queries=None if self.queries is None else self.queries[rows],
            windows=None if self.windows is None else self.windows.take(rows),
        )

    def sample(self, n: int, seed: int) -> Encoded:
        """Draw `n` rows (all, if there are fewer) stratified by length: one from each n-th of the rows by length.

        Raises
        ------
        ParameterError
            n below 1.
        """
        if n < 1:
            raise ParameterError("n", "Encoded.sample", "at least 1", n)
        order = np.argsort(self.lengths, kind="stable")
        edges = np.linspace(0, len(order), min(n, len(order)) + 1).astype(np.int64)
        generator = np.random.default_rng(seed)
        return self.take(order[generator.integers(edges[:-1], edges[1:])])

    def draw(self, n: int, seed: int) -> Encoded:
        """Draw `n` rows (all, if there are fewer), each in proportion to its tokens: a long row is likelier, and so are its tokens.

        Rows drawn uniformly would be mostly short where the data is mostly short (phrases, queries), and represent long ones poorly.

        Raises
        ------
        ParameterError
            n below 1.
        """
        if n < 1:
            raise ParameterError("n", "Encoded.draw", "at least 1", n)
        share = self.lengths / self.lengths.sum()
        chosen = np.random.default_rng(seed).choice(len(self), min(n, len(self)), replace=False, p=share)
        return self.take(np.sort(chosen))


def encode(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int, per_token: bool, stride: int | None = None) -> Encoded:
    """Tokenise a split once, without padding.

    Parameters
    ----------
    rows : Rows
        Texts or pairs; words for a token task; questions and their contexts, which are cut into windows.
    tokenizer : PreTrainedTokenizerBase
        With `per_token` it must be a fast one, which knows the word of each sub-word.
    max_length : int
        Tokens that a row may have, special tokens included; what is longer is cut and counted.
    per_token : bool
        Whether each word is read, at its first sub-word.
    stride : int, optional
        Tokens that a window of a context shares with the one before; default: a third of `max_length`.

    Returns
    -------
    Encoded

    Raises
    ------
    ParameterError
        A `max_length` that leaves no token for text, a `stride` that is too large for it, or `per_token` that does not fit the rows.
    ModelError
        A tokenizer without padding, or without words where they are needed.
    DataError
        A row of which the tokenizer makes no token.
    """
    special = tokenizer.num_special_tokens_to_add(pair=rows.pairs is not None)
    least = special + (2 if rows.pairs is not None else 1)
    if max_length < least:
        raise ParameterError("max_length", "encode", f"at least {least} (the tokenizer adds {special} tokens)", max_length)
    if per_token != bool(rows.tokens):
        raise ParameterError("per_token", "encode", f"{bool(rows.tokens)} for these rows", per_token)
    if per_token and not tokenizer.is_fast:
        raise ModelError(f"A token task needs a fast tokenizer. {type(tokenizer).__name__} is not one: convert it to a tokenizer.json.")
    padding = _padding_of(tokenizer)
    if rows.asks:
        cut = cut_windows(rows, tokenizer, max_length=max_length, stride=stride)
        return Encoded(cut.ids, cut.kinds, offsets_of(cut.lengths), cut.gold, 0, 0, padding, windows=cut.windows)
    parts = [_encode_chunk(rows, slice(start, start + _CHUNK), tokenizer, max_length) for start in range(0, len(rows), _CHUNK)]
    lengths = np.concatenate([part.lengths for part in parts])
    if not lengths.all():
        raise DataError(f"The tokenizer makes no token of row {int(np.argmin(lengths)) + 1} (the first row is 1).")
    ids, kinds = np.concatenate([part.ids for part in parts]), np.concatenate([part.kinds for part in parts])
    truncated = sum(part.truncated for part in parts)
    if not isinstance(rows.labels, tuple):
        return Encoded(ids, kinds, offsets_of(lengths), rows.labels, truncated, 0, padding, queries=rows.queries)
    firsts = [first for part in parts for first in part.firsts]
    kept = np.concatenate([labels[words] for labels, (words, _) in zip(rows.labels, firsts, strict=True)])
    words = Words(
        np.concatenate([places for _, places in firsts]),
        offsets_of(np.array([len(places) for _, places in firsts])),
        np.concatenate([ids for ids, _ in firsts]).astype(np.int32),
        np.concatenate(rows.labels),
        offsets_of(np.array([len(labels) for labels in rows.labels])),
    )
    dropped = sum(len(labels) for labels in rows.labels) - len(kept)
    return Encoded(ids, kinds, offsets_of(lengths), kept, truncated, dropped, padding, words)


@dataclass(frozen=True, eq=False)
class _Part:
    ids: NDArray[np.int32]
    kinds: NDArray[np.int8]
    lengths: IntArray
    truncated: int
    firsts: list[tuple[IntArray, NDArray[np.int32]]]  # for each row: the words that are left, and where each begins


def _encode_chunk(rows: Rows, span: slice, tokenizer: PreTrainedTokenizerBase, max_length: int) -> _Part:
    texts: Sequence[Any] = rows.tokens[span] if rows.tokens else rows.texts[span]
    pairs = None if rows.pairs is None else rows.pairs[span]
    encoding = _tokenize(tokenizer, texts, pairs, max_length)
    ids = encoding["input_ids"]
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    # Only a row that fills the limit can have been cut; its full length shows whether it was.
    full = np.flatnonzero(lengths == max_length).tolist()
    cut = 0
    if full:
        uncut = _tokenize(tokenizer, [texts[at] for at in full], None if pairs is None else [pairs[at] for at in full], None)
        cut = sum(len(row) > max_length for row in uncut["input_ids"])
    return _Part(
        ids=np.concatenate([np.asarray(row, dtype=np.int32) for row in ids]),
        kinds=np.concatenate(types_of(encoding, tokenizer)),
        lengths=lengths,
        truncated=cut,
        firsts=[_firsts(encoding.word_ids(at)) for at in range(len(texts))] if rows.tokens else [],
    )


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], pairs: Sequence[str] | None, max_length: int | None
) -> BatchEncoding:
    words = not isinstance(texts[0], str)
    if words and getattr(tokenizer, "add_prefix_space", None) is False:
        # A byte-level tokenizer encodes a word with the space before it, which a list of words has lost.
        tokenizer = copy.copy(tokenizer)
        tokenizer.add_prefix_space = True
        texts = [[" " + word for word in row] for row in texts]
    encoding: BatchEncoding = tokenizer(
        [list(row) for row in texts] if words else list(texts),
        None if pairs is None else list(pairs),
        is_split_into_words=words,
        truncation=max_length is not None,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=True,
        verbose=False,
    )
    return encoding


def _firsts(word_ids: Sequence[int | None]) -> tuple[IntArray, NDArray[np.int32]]:
    places: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            places.setdefault(word, place)
    return np.array(list(places), dtype=np.int64), np.array(list(places.values()), dtype=np.int32)


def _padding_of(tokenizer: PreTrainedTokenizerBase) -> _Padding:
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise ModelError(f"{type(tokenizer).__name__} has neither a padding nor an end-of-text token: set its pad_token.")
    kind = int(tokenizer.pad_token_type_id) if has_types(tokenizer) else 0
    return _Padding(int(token), kind, tokenizer.padding_side == "left")
