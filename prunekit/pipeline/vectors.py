"""Similarity of the vectors of a slim embedder to the dense one's, and their neighbours in an index of the dense ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from prunekit.data.rows import Rows
from prunekit.metrics import cosines
from prunekit.pipeline.records import Answers
from prunekit.report.embedder import Nearness

Vectors = NDArray[np.floating]

#: Neighbours that are compared, and most texts whose neighbours are searched, drawn at random.
NEAREST, QUERIES = 10, 2_000
_ROWS = 512


def nearness(rows: Rows, answers: Mapping[str, Answers], *, own_space: bool, seed: int) -> tuple[Nearness, ...]:
    """Compare each model's vectors of a split with the dense model's.

    Parameters
    ----------
    rows : Rows
        The split.
    answers : {name: Answers}
        Vectors of its single texts; "dense" among them.
    own_space : bool
        Whether a model's vectors are an index of their own; else the dense model's are the index, for all.
    seed : int
        Of the draw of the texts whose neighbours are searched.
    """
    texts = rows.singles.texts
    first = {text: at for at, text in reversed(list(enumerate(texts)))}
    # A text that comes twice would be its own nearest neighbour.
    chosen = np.sort(np.fromiter(first.values(), dtype=np.int64))
    dense = unit(answers["dense"].outputs[chosen])
    queries = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:QUERIES])
    count = min(NEAREST, len(chosen) - 1)
    reference = nearest(dense[queries], dense, count, without=queries)
    results = []
    for name, answer in answers.items():
        if name == "dense":
            continue
        ours = unit(answer.outputs[chosen])
        separate = own_space or ours.shape != dense.shape
        ranked = nearest(ours[queries], ours if separate else dense, count, without=queries)
        similarity = None if separate else cosines(ours, dense)
        results.append(
            Nearness(
                name=name,
                cosine=None if similarity is None else float(similarity.mean()),
                lowest=None if similarity is None else float(np.quantile(similarity, 0.01)),
                overlap=overlap(ranked, reference),
                neighbours=count,
                n=len(chosen),
            )
        )
    return tuple(results)


def nearest(queries: Vectors, index: Vectors, count: int, *, without: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the rows of an index with the largest products, best first; of equals the first.

    Parameters
    ----------
    queries : ndarray of shape (q, D)
    index : ndarray of shape (n, D)
    count : int
    without : int64 ndarray of shape (q,), optional
        A row of the index that is no answer to each query: the query itself.

    Returns
    -------
    int64 ndarray of shape (q, count)
    """
    rows = np.empty((len(queries), count), dtype=np.int64)
    index = index.astype(np.float64)
    for start in range(0, len(queries), _ROWS):
        part = slice(start, start + _ROWS)
        products = queries[part].astype(np.float64) @ index.T
        if without is not None:
            products[np.arange(len(products)), without[part]] = -np.inf
        rows[part] = np.argsort(-products, axis=1, kind="stable")[:, :count]
    return rows


def overlap(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    """Return the mean share of each row's entries, all different, that are in the other's row."""
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean())


def unit(vectors: Vectors) -> Vectors:
    """Scale rows to length 1; zeros stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0))
