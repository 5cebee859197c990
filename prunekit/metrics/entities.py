"""Entities in word tags: tagging schemes, and counts of correct, predicted and actual entities."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_TAG = re.compile(r"([BIESLU])[-_](.+)", re.DOTALL)
#: The same, spelt otherwise: the position alone, after the type, or with another mark.
_OTHERWISE = re.compile(r"[BIESLUMW]|.+[-_/:.|][BIESLUMW]|[BIESLUMW][-_/:.|].+", re.DOTALL)
#: Prefixes that always begin an entity, and those that always end one.
_FIRST, _LAST = "BSU", "ESLU"


def scheme_of(labels: Sequence[str]) -> str | None:
    """Return the scheme of a tag set: "BIO", "BILOU" or "IOBES"; None where the labels are not such tags.

    Every label must be ``O`` or a prefix, a hyphen (or underscore) and a type, and one at least must be able to begin or to continue an
    entity of several words (``B-`` or ``I-``).
    """
    prefixes = {match[1] for label in labels if (match := _TAG.fullmatch(label))}
    if any(label != "O" and not _TAG.fullmatch(label) for label in labels) or not prefixes & {"B", "I"}:
        return None
    for scheme, allowed in (("BIO", "BI"), ("BILOU", "BILU"), ("IOBES", "BIES")):
        if prefixes <= set(allowed):
            return scheme
    return None


def resembles_scheme(labels: Sequence[str]) -> bool:
    """Return whether labels that are of no scheme are positions in an entity all the same: ``PER-B``, ``B/PER``, ``B``, or mixed."""
    others = [label for label in labels if label != "O"]
    return scheme_of(labels) is None and len(others) > 1 and all(map(_OTHERWISE.fullmatch, others))


def count_entities(
    predicted: NDArray[np.int64], actual: NDArray[np.int64], starts: NDArray[np.int64], labels: Sequence[str]
) -> NDArray[np.int64]:
    """Count entities by row.

    Entities are those of conlleval: an entity begins at B, S or U, at any tag after O, after an E, L, S or U, or after another
    type, and at the first word of a row, whatever the tag; it continues as long as the type does. It is correct if its first
    word, its last word and its type are.

    Parameters
    ----------
    predicted, actual : int64 ndarray of shape (n,)
        Class ids of the words of all rows, one row after the other; -1 for a word without an answer, which is in no entity.
    starts : int64 ndarray of shape (rows + 1,)
        Where each row begins.
    labels : sequence of str
        The tags, in the order of the class ids.

    Returns
    -------
    int64 ndarray of shape (rows, 3)
        Correct, predicted and actual entities.
    """
    matches = [_TAG.fullmatch(label) for label in labels]
    names = sorted({match[2] for match in matches if match})
    # The last entry is that of -1.
    types = np.array([*(-1 if match is None else names.index(match[2]) for match in matches), -1], dtype=np.int64)
    first = np.array([*(match is not None and match[1] in _FIRST for match in matches), False])
    last = np.array([*(match is not None and match[1] in _LAST for match in matches), False])
    opening = np.zeros(len(actual) + 1, dtype=bool)
    opening[starts] = True

    def spans(tags: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Return for each word whether an entity begins there, where it would end, and its type."""
        kind = types[tags]
        before = np.concatenate([[-1], kind[:-1]])
        ended = np.concatenate([[True], last[tags][:-1]])
        begins = (kind >= 0) & (opening[:-1] | first[tags] | ended | (before != kind))
        stops = np.append(begins | (kind < 0) | opening[:-1], True)
        boundaries = np.flatnonzero(stops)
        ends = boundaries[np.searchsorted(boundaries, np.arange(len(tags)), side="right")]
        return begins, ends, kind

    ours, our_ends, our_kind = spans(predicted)
    theirs, their_ends, their_kind = spans(actual)
    correct = ours & theirs & (our_ends == their_ends) & (our_kind == their_kind)
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    counts = [np.bincount(row, weights=entities, minlength=len(starts) - 1) for entities in (correct, ours, theirs)]
    return np.stack(counts, axis=1).astype(np.int64)
