"""The parts of a report on an embedder: similarity of its vectors, retrieval quality, and quality with fewer dimensions."""

from __future__ import annotations

from typing import Literal

from prunekit.report.base import Frozen, RowName


class Nearness(Frozen):
    """Similarity of an embedder's vectors to the dense model's, on the distinct texts of the test split.

    Attributes
    ----------
    name : str
        A row of the report, or "low" for the file in lower precision.
    cosine, lowest : float or None
        Mean cosine with the dense model's vector of the same text, and its first percentile; None for an embedder
        with a vector space of its own.
    overlap : float
        Share of the nearest neighbours of each text that the dense model finds too, in an index of the dense model's vectors, or of
        the embedder's own where it has a vector space of its own.
    neighbours : int
        Number of nearest neighbours.
    n : int
        Number of texts.
    """

    name: RowName | Literal["low"]
    cosine: float | None
    lowest: float | None
    overlap: float
    neighbours: int
    n: int


class Retrieved(Frozen):
    """Retrieval quality of one row of the report.

    Attributes
    ----------
    name : str
        Row of the report that embeds the queries.
    index : {"dense", "own"}
        Index searched: the dense model's vectors of the documents, or the row's own.
    ndcg, low, high : float
        nDCG@10 and its 95% interval over the draw of the queries.
    share, share_low, share_high : float or None
        Share of the dense model's nDCG@10, with the paired interval; None for the dense model, and where a bound is infinite.
    recall, mrr : float
        Recall of the relevant documents among the first 100; mean reciprocal rank of the first relevant one.
    overlap : float
        Share of the first 10 that the dense model finds too.
    queries, documents : int
    """

    name: RowName
    index: Literal["dense", "own"]
    ndcg: float
    low: float
    high: float
    share: float | None
    share_low: float | None
    share_high: float | None
    recall: float
    mrr: float
    overlap: float
    queries: int
    documents: int


class Shortened(Frozen):
    """Quality of the dense embedder with fewer dimensions, before anything else is removed.

    Attributes
    ----------
    name : {"all", "fitted", "components", "chosen", "truncation", "random"}
        All dimensions; the projection fitted to the cosines of train's vectors, the method in use; their principal components; the
        dimensions of the largest mean square on train; the first ones; random ones (mean of several draws).
    dims : int
    value : float or None
        The metric on the test split; None where that has no scores.
    overlap : float
        Share of the 10 nearest neighbours that all dimensions find too, each in an index of its own.
    """

    name: Literal["all", "fitted", "components", "chosen", "truncation", "random"]
    dims: int
    value: float | None
    overlap: float
