"""Duplicate rows, which must not be on both sides of a split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.data.rows import Rows
from prunekit.data.words import words_of

#: Words of the shortest phrase that is searched for: shorter ones occur in unrelated rows.
PHRASE = 4
#: Words of the longest row that is searched for phrases, and words in all beyond which none is, so that the search takes seconds.
LONGEST, MOST = 128, 5_000_000

Ids = NDArray[np.int64]


def normalised(text: str) -> str:
    """Return the words of a text without case, white space and punctuation; the text itself where it has none."""
    return " ".join(words_of(text.casefold())) or text.strip()


def keys_of(rows: Rows) -> list[str]:
    """Return the keys by which rows are compared: their normalised texts; of a pair both, in any order."""
    if rows.tokens:
        return [normalised(" ".join(words)) for words in rows.tokens]
    texts = [normalised(text) for text in rows.texts]
    if rows.pairs is None:
        return texts
    return ["\n".join(sorted(pair)) for pair in zip(texts, map(normalised, rows.pairs), strict=True)]


def groups_of(rows: Rows, named: Sequence[Hashable] | None = None) -> Ids:
    """Number the groups of rows that belong together.

    Rows with the same normalised text belong together, as do rows of a named group and questions on one context. Among single texts,
    so do a phrase of at least 4 words and every row of at most 128 words that contains it, word for word (SST-2's train holds the
    phrases of its own sentences); beyond 5 million words in all, phrases are not searched for.

    Parameters
    ----------
    rows : Rows
    named : sequence, optional
        The group of each row, such as its document; None, of a row, for none.

    Returns
    -------
    int64 ndarray of shape (n,)
        A group's number is the index of one of its rows.
    """
    keys = keys_of(rows)
    groups = _DisjointSets(len(rows))
    first: dict[str, int] = {}
    for at, key in enumerate(keys):
        groups.union(at, first.setdefault(key, at))
    if named is not None:
        holders: dict[Hashable, int] = {}
        for at, name in enumerate(named):
            if name is not None:
                groups.union(at, holders.setdefault(name, at))
    if rows.asks:
        contexts: dict[str, int] = {}
        for at, context in enumerate(rows.pairs or ()):
            groups.union(at, contexts.setdefault(context, at))
    if rows.pairs is None:
        _join_phrases(first, groups)
    return np.array([groups.find(at) for at in range(len(rows))], dtype=np.int64)


def _join_phrases(rows: dict[str, int], groups: _DisjointSets) -> None:
    """Join each row with the rows that contain it."""
    # Counted before anything is split: the words of a million long rows would not fit into memory.
    counts = {text: text.count(" ") + 1 for text in rows}
    short = [text for text, count in counts.items() if PHRASE <= count <= LONGEST]
    if sum(counts[text] for text in short) > MOST:
        return
    texts = {tuple(text.split(" ")): rows[text] for text in short}
    # By their first words, so that a position in a row costs one lookup unless a phrase may begin there.
    lengths: dict[tuple[str, ...], set[int]] = {}
    for words in texts:
        lengths.setdefault(words[:PHRASE], set()).add(len(words))
    for words, at in texts.items():
        for start in range(len(words) - PHRASE + 1):
            for length in lengths.get(words[start : start + PHRASE], ()):
                inner = words[start : start + length]
                if len(inner) == length < len(words) and inner in texts:
                    groups.union(texts[inner], at)


class _DisjointSets:
    """Union-find structure on 0..n-1 (Tarjan), with path halving."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, at: int) -> int:
        """Return the representative of the set that contains `at`."""
        parent = self._parent
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    def union(self, a: int, b: int) -> None:
        """Merge the sets that contain `a` and `b`."""
        a, b = self.find(a), self.find(b)
        self._parent[max(a, b)] = min(a, b)
