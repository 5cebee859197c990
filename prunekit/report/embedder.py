"""What a report says of an embedder: how near its vectors are, what it finds, and what fewer dimensions are worth."""

from __future__ import annotations

from typing import Literal

from prunekit.report.base import Frozen, RowName


class Nearness(Frozen):
    """How near the vectors of an embedder are to the dense one's, on the different texts of the test split.

    Attributes
    ----------
    name : str
        A row of the report, or "low" for the file in lower precision.
    cosine, lowest : float or None
        Mean cosine with the dense model's vector of the same text, and its first percentile; None in a space of its own.
    overlap : float
        Share of the nearest neighbours of each text that are those which the dense model finds, where the index holds the dense
        model's vectors, or the model's own in a space of its own.
    neighbours : int
        How many.
    n : int
        Texts.
    """

    name: RowName | Literal["low"]
    cosine: float | None
    lowest: float | None
    overlap: float
    neighbours: int
    n: int


class Retrieved(Frozen):
    """How well documents are found for queries.

    Attributes
    ----------
    name : str
        The row of the report whose queries these are.
    index : {"dense", "own"}
        Whose vectors the documents have.
    ndcg, low, high : float
        nDCG@10 and its 95% interval over the draw of the queries.
    share, share_low, share_high : float or None
        Of the dense model's nDCG@10, with the paired interval; None for itself, and where a bound is infinite.
    recall, mrr : float
        Of the relevant documents among the first 100; reciprocal rank of the first relevant one.
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
    """What the dense embedder is worth with fewer dimensions, before anything else is removed.

    Attributes
    ----------
    name : {"all", "components", "chosen", "truncation", "random"}
        All dimensions; principal components of train's vectors, which is what is used; the dimensions of the largest mean square on
        train; the first ones; random ones (mean of several draws).
    dims : int
    value : float or None
        The metric on the test split; None where that has no scores.
    overlap : float
        Share of the 10 nearest neighbours that all dimensions find too, each in an index of its own.
    """

    name: Literal["all", "components", "chosen", "truncation", "random"]
    dims: int
    value: float | None
    overlap: float
