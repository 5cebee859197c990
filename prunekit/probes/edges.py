"""Edge probing (Tenney et al. 2019, as Merchant et al. 2020 use it): the relation of two words from their vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.probes.trees import Sentence

Ids = NDArray[np.int64]


def label_space(train: Sequence[Sentence]) -> tuple[str, ...]:
    """Return the relations of the edges of the training sentences, without subtypes, sorted by name."""
    return tuple(sorted({relation(label) for sentence in train for label, _, _ in _pairs(sentence)}))


def relation(label: str) -> str:
    """Return a relation without its subtype: nmod of nmod:poss."""
    return label.partition(":")[0]


def edge_pairs(found: Sequence[Sentence], labels: Sequence[str]) -> tuple[Int64[Ids, "m 2"], Int64[Ids, " m"], int]:
    """Return all edges of the sentences as pairs of one-word spans.

    Parameters
    ----------
    found : sequence of Sentence
    labels : sequence of str
        `label_space` of train.

    Returns
    -------
    pairs : (m, 2) int64
        Rows of the dependent and of its head, among the words of the split.
    targets : (m,) int64
        Index of the relation.
    unknown : int
        Edges left out because train does not have their relation.

    Raises
    ------
    StatisticsError
        No edge, or all of one relation.
    """
    numbers = {name: index for index, name in enumerate(labels)}
    edges = [
        (sentence.start + word, sentence.start + head, relation(label)) for sentence in found for label, word, head in _pairs(sentence)
    ]
    known = [(word, head, numbers[name]) for word, head, name in edges if name in numbers]
    if not known:
        raise StatisticsError("The sentences have no edges whose relation occurs in the training sentences.")
    array = np.array(known, dtype=np.int64)
    return array[:, :2], array[:, 2], len(edges) - len(known)


def edge_rows(words: Shaped[NDArray[Any], "words h"], pairs: Int64[Ids, "m 2"]) -> Float32[NDArray[np.float32], "m 3*h"]:
    """Return the input of the probe for each pair, (m, 3H): the dependent, the head, and their elementwise product.

    Without the product a linear probe could only add up a score of each word by itself.
    """
    dependents, heads = np.asarray(words[pairs[:, 0]], dtype=np.float32), np.asarray(words[pairs[:, 1]], dtype=np.float32)
    return np.hstack([dependents, heads, dependents * heads])


def _pairs(sentence: Sentence) -> list[tuple[str, int, int]]:
    """Return (relation, dependent, head) of each word that is not the root."""
    return [(label, word, int(head) - 1) for word, (label, head) in enumerate(zip(sentence.labels, sentence.heads, strict=True)) if head]
