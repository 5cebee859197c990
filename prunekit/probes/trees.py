"""Dependency trees of sentences: distances, spanning trees, and scores of their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.stats import rankdata

from prunekit.errors import DataError

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
# Sizes of one name are equal in a call: t words.
Heads = Int64[Ids, " t"]
Pairs = Float64[Floats, "t t"]


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence's words and its tree.

    Attributes
    ----------
    start : int
        Row of its first word among the words of the split.
    heads : (T,) int64
        Head of each word, counted from 1; 0 is the root.
    counts : (T,) bool
        Words that the evaluation counts: not punctuation (Hewitt and Manning 2019, section 4.1).
    labels : tuple of str
        Relation of each word to its head.
    """

    start: int
    heads: Heads
    counts: Bool[NDArray[np.bool_], " t"]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def rows(self) -> slice:
        """Rows of its words among those of the split."""
        return slice(self.start, self.start + len(self))


def sentences(heads: Sequence[Sequence[int]], labels: Sequence[Sequence[str]], starts: Sequence[int] | None = None) -> tuple[Sentence, ...]:
    """Check heads and relations, and locate each sentence among the words of the split.

    Parameters
    ----------
    heads, labels : sequences, one a sentence
        Head of each word, from 1 (0 is the root), and its relation.
    starts : sequence of int, optional
        Row of each sentence's first word; by default they are contiguous.

    Raises
    ------
    DataError
        Heads and relations of different lengths, a head outside the sentence, or no tree: no single root, or a cycle.
    """
    parsed, start = [], 0
    for number, (row, names) in enumerate(zip(heads, labels, strict=True)):
        tree = np.asarray(row, dtype=np.int64)
        if len(tree) != len(names):
            raise DataError(f"Sentence {number} has {len(tree)} heads and {len(names)} relations.")
        _check_tree(tree, number)
        counts = np.array([name.partition(":")[0] != "punct" for name in names], dtype=bool)
        parsed.append(Sentence(start if starts is None else int(starts[number]), tree, counts, tuple(names)))
        start += len(tree)
    return tuple(parsed)


def _check_tree(heads: Heads, number: int) -> None:
    size = len(heads)
    if size and (heads.min() < 0 or heads.max() > size):
        raise DataError(f"Sentence {number} has {size} words. Got a head outside 0..{size}.")
    if size and int((heads == 0).sum()) != 1:
        raise DataError(f"Sentence {number} must have one root, a word of head 0. Got {int((heads == 0).sum())}.")
    # Following heads from any word must end at the root, in fewer steps than there are words.
    at = np.arange(1, size + 1)
    above = np.concatenate([[0], heads])
    for _ in range(size):
        at = above[at]
    if at.any():
        raise DataError(f"The heads of sentence {number} hold a cycle.")


def edges(heads: Heads) -> Int64[Ids, "e 2"]:
    """Return the undirected edges of a tree, (T - 1, 2) word numbers from 0, each pair ascending."""
    words = np.flatnonzero(heads > 0)
    return np.sort(np.stack([words, heads[words] - 1], axis=1), axis=1)


def distances(heads: Heads) -> Pairs:
    """Return the number of edges between any two words, (T, T)."""
    size = len(heads)
    graph = np.zeros((size, size))
    pairs = edges(heads)
    graph[pairs[:, 0], pairs[:, 1]] = 1.0
    return np.asarray(shortest_path(graph, directed=False, unweighted=True)) if size else graph


def uuas(predicted: Pairs, sentence: Sentence) -> tuple[int, int]:
    """Count (edges recovered, edges in total) by the minimum spanning tree of predicted distances.

    Words that do not count are left out of the spanning tree, and edges with one of them are not counted.

    Parameters
    ----------
    predicted : (T, T)
        Distances, not negative.
    sentence : Sentence
    """
    ids = np.flatnonzero(sentence.counts)
    positions = np.full(len(sentence), -1)
    positions[ids] = np.arange(len(ids))
    true_edges = {(int(a), int(b)) for a, b in positions[edges(sentence.heads)].tolist() if min(a, b) >= 0}
    if not true_edges:
        return 0, 0
    # A distance of 0 is no edge of a sparse graph; adding one to all does not change the minimum spanning tree.
    tree = minimum_spanning_tree(np.triu(predicted[np.ix_(ids, ids)] + 1.0, 1)).tocoo()
    predicted_edges = {(int(min(a, b)), int(max(a, b))) for a, b in zip(tree.row, tree.col, strict=True)}
    return len(true_edges & predicted_edges), len(true_edges)


def distance_spearman(predicted: Pairs, true: Pairs) -> Float64[Floats, " t"]:
    """Return the Spearman correlation of each word's predicted with its true distances to the other words, (T,).

    NaN where one of them does not vary: in sentences of fewer than three words, or around a star's centre.
    """
    size = len(true)
    if size < 3:
        return np.full(size, np.nan)
    others = ~np.eye(size, dtype=bool)
    a, b = (rankdata(matrix[others].reshape(size, size - 1), axis=1) for matrix in (predicted, true))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.divide((a * b).sum(axis=1), scale, out=np.full(size, np.nan), where=scale > 0))
