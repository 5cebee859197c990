"""Rows that say the same, which must not stand on both sides of a split."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.data.rows import Rows

#: A phrase of fewer words is found in rows that have nothing to do with each other.
PHRASE = 4
#: Longer rows are not searched for phrases, and none are beyond so many words in all: the search stays a matter of seconds.
LONGEST, MOST = 128, 5_000_000
_WORD = re.compile(r"\w+")

Ids = NDArray[np.int64]


def normalised(text: str) -> str:
    """The words of a text without case, white space and punctuation; the text itself where it has none."""
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


def keys_of(rows: Rows) -> list[str]:
    """What makes two rows the same: their normalised text; of a pair both, in any order."""
    if rows.tokens:
        return [normalised(" ".join(words)) for words in rows.tokens]
    texts = [normalised(text) for text in rows.texts]
    if rows.pairs is None:
        return texts
    return ["\n".join(sorted(both)) for both in zip(texts, map(normalised, rows.pairs), strict=True)]


def groups_of(rows: Rows, named: Sequence[Hashable] | None = None) -> Ids:
    """Number the groups of rows that belong together.

    Rows with the same normalised text do, rows of a named group, and questions on one context. So does, among single texts, a phrase
    of at least 4 words with every row of at most 128 words that contains it, word for word (SST-2's train holds the phrases of its own
    sentences); beyond 5 million words in all, phrases are not looked for.

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
    found = _Union(len(rows))
    first: dict[str, int] = {}
    for at, key in enumerate(keys):
        found.join(at, first.setdefault(key, at))
    if named is not None:
        holders: dict[Hashable, int] = {}
        for at, name in enumerate(named):
            if name is not None:
                found.join(at, holders.setdefault(name, at))
    if rows.asks:
        contexts: dict[str, int] = {}
        for at, context in enumerate(rows.pairs or ()):
            found.join(at, contexts.setdefault(context, at))
    if rows.pairs is None:
        _join_phrases(first, found)
    return np.array([found.of(at) for at in range(len(rows))], dtype=np.int64)


def _join_phrases(rows: dict[str, int], found: _Union) -> None:
    """Join each row with the rows that contain it."""
    texts = {tuple(text.split(" ")): at for text, at in rows.items()}
    texts = {words: at for words, at in texts.items() if PHRASE <= len(words) <= LONGEST}
    if sum(map(len, texts)) > MOST:
        return
    # By their first words, so that a place in a row costs one look unless something may begin there.
    lengths: dict[tuple[str, ...], set[int]] = {}
    for words in texts:
        lengths.setdefault(words[:PHRASE], set()).add(len(words))
    for words, at in texts.items():
        for start in range(len(words) - PHRASE + 1):
            for length in lengths.get(words[start : start + PHRASE], ()):
                inner = words[start : start + length]
                if len(inner) == length < len(words) and inner in texts:
                    found.join(texts[inner], at)


class _Union:
    """Disjoint sets of 0..n-1 (Tarjan), with path halving."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def of(self, at: int) -> int:
        """The set that `at` is in."""
        parent = self._parent
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    def join(self, a: int, b: int) -> None:
        """Make two sets one."""
        a, b = self.of(a), self.of(b)
        self._parent[max(a, b)] = min(a, b)
