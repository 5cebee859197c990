"""Correlation clustering of neurons (Dalvi et al. 2020, section 4.2)."""

from __future__ import annotations

from typing import Any, Literal

import fastcluster
import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from prunekit.errors import ParameterError
from prunekit.stats.cross import LIMIT, column_mean, column_squares, comoment_parts
from prunekit.stats.moments import Moments
from prunekit.stats.rows import RowStore

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
# Sizes of one name are equal in a call: d neurons, d (d - 1) / 2 pairs of them.
Condensed = Float64[Floats, " pairs"]
Vector = Float64[Floats, " d"]


class CorrelationClusters(SelectorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Cluster correlated neurons, and keep one of each cluster.

    The distance of two neurons is 1 - |Pearson correlation|; clusters are cut from an average-linkage tree. A neuron without
    variance correlates with nothing.

    Parameters
    ----------
    threshold : float
        Distance at which the tree is cut, in [0, 1]: c_t of the paper, 0.3 in its transfer experiments.
    representative : {"medoid", "random"}
        Neuron of a cluster that is kept: the one with the highest mean |correlation| to its cluster (ties: the lowest id), or
        one drawn at random, as in the paper.
    random_state : int
        Seed of the draw.

    Attributes
    ----------
    labels_ : (D,) int64
        Cluster of each neuron, numbered by first appearance.
    representatives_ : (C,) int64
        Neurons kept, ascending.
    n_features_in_ : int
    """

    def __init__(self, threshold: float = 0.3, representative: Literal["medoid", "random"] = "medoid", random_state: int = 0) -> None:
        self.threshold = threshold
        self.representative = representative
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None) -> CorrelationClusters:
        """Cluster the columns of X, (n, D)."""
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        return self._cluster(Moments.of(X))

    @classmethod
    def from_moments(
        cls, moments: Moments, threshold: float = 0.3, representative: Literal["medoid", "random"] = "medoid", random_state: int = 0
    ) -> CorrelationClusters:
        """Fit on moments instead of rows."""
        return cls(threshold, representative, random_state)._cluster(moments)

    def _cluster(self, moments: Moments) -> CorrelationClusters:
        if not 0.0 <= self.threshold <= 1.0:
            raise ParameterError("threshold", "CorrelationClusters", "in [0, 1]", self.threshold)
        if self.representative not in ("medoid", "random"):
            raise ParameterError("representative", "CorrelationClusters", "'medoid' or 'random'", self.representative)
        width = moments.width
        self.n_features_in_ = width
        scale = _scale(moments)
        if width > 1:
            tree_labels = fcluster(linkage(_distances(moments, scale)), t=self.threshold, criterion="distance")
        else:
            tree_labels = np.ones(width, dtype=np.int64)
        _, first, inverse = np.unique(tree_labels, return_index=True, return_inverse=True)
        self.labels_: Int64[Ids, " d"] = np.argsort(np.argsort(first))[inverse].astype(np.int64)
        members = np.split(np.argsort(self.labels_, kind="stable"), np.cumsum(np.bincount(self.labels_))[:-1])
        if self.representative == "random":
            generator = np.random.default_rng(self.random_state)
            chosen = [int(generator.choice(group)) for group in members]
        else:
            chosen = [_medoid(moments, scale, group) for group in members]
        self.representatives_: Int64[Ids, " c"] = np.sort(np.array(chosen, dtype=np.int64))
        return self

    def _get_support_mask(self) -> Bool[NDArray[np.bool_], " d"]:
        check_is_fitted(self)
        mask = np.zeros(self.n_features_in_, dtype=bool)
        mask[self.representatives_] = True
        return mask


def linkage(distances: Condensed) -> Float64[Floats, "merges 4"]:
    """Return the average-linkage tree of condensed distances, (D - 1, 4) as in scipy; the distances are overwritten."""
    return np.asarray(fastcluster.linkage(distances, method="average", preserve_input=False))


def distances(moments: Moments) -> Condensed:
    """Return condensed distances 1 - |Pearson correlation| of all columns, (D (D - 1) / 2,); 1 for a column without variance."""
    return _distances(moments, _scale(moments))


def distances_of_rows(rows: RowStore, columns: Int64[Ids, " d"], *, limit: int = LIMIT) -> Condensed:
    """Return the same for some columns of rows whose co-moment does not fit in memory.

    It is computed in parts of `limit` bytes; the rows are read once for each part.
    """
    narrow = rows.columns(columns)
    squares = column_squares(narrow, column_mean(narrow))
    scale = np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)
    condensed = np.empty(len(columns) * (len(columns) - 1) // 2)
    at = 0
    for first, part in comoment_parts(narrow, narrow, limit=limit):
        for i, row in enumerate(part, start=first):
            at = _put(condensed, at, row[i + 1 :], scale[i], scale[i + 1 :])
    narrow.close()
    return condensed


def _put(condensed: Condensed, at: int, comoment: Float64[Floats, " after"], own: float, others: Float64[Floats, " after"]) -> int:
    """Write the distances of one column to those after it, and return the start of the next column's."""
    row = condensed[at : at + len(comoment)]
    np.multiply(comoment, others * own, out=row)
    np.abs(row, out=row)
    np.subtract(1.0, row, out=row)
    np.clip(row, 0.0, 1.0, out=row)
    return at + len(comoment)


def _scale(moments: Moments) -> Vector:
    varies = moments.varies
    return np.where(varies, 1.0 / np.sqrt(np.where(varies, moments.comoment.diagonal(), 1.0)), 0.0)


def _distances(moments: Moments, scale: Vector) -> Condensed:
    """Return condensed distances, (D (D - 1) / 2,), row by row: the full correlation matrix is never formed."""
    width = moments.width
    condensed = np.empty(width * (width - 1) // 2)
    at = 0
    for i in range(width - 1):
        at = _put(condensed, at, moments.comoment[i, i + 1 :], scale[i], scale[i + 1 :])
    return condensed


def _medoid(moments: Moments, scale: Vector, group: Int64[Ids, " m"]) -> int:
    if len(group) == 1:
        return int(group[0])
    similarity = np.abs(moments.block(group, group)) * scale[group]
    mean = (similarity * scale[group][:, None]).mean(axis=0)
    # Members that are equally central up to rounding are ties, which the lowest id wins.
    return int(group[int(np.flatnonzero(mean >= mean.max() - 1e-12)[0])])
