"""Expresses the members of a correlation cluster by its representative, folded into what read them (Dalvi et al. 2020, section 4.2).

Where the paper keeps one neuron of each cluster and throws the others away, here each member is replaced by its
least-squares fit on the representative, ``x_m ~ a_m x_r + b_m``. A linear consumer of all neurons then becomes one of the
representatives alone, exactly, without another fit and without labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.errors import StatisticsError
from prunekit.stats.moments import Moments

Floats = NDArray[np.float64]


def express_members(moments: Moments, labels: ArrayLike, representatives: ArrayLike) -> tuple[Floats, Floats]:
    """Slope and intercept of every neuron on the representative of its cluster.

    Parameters
    ----------
    moments : Moments
        Of the D neurons.
    labels : (D,) int
        Cluster of each neuron.
    representatives : (C,) int
        One neuron of each cluster, ascending, as `CorrelationClusters` gives them.

    Returns
    -------
    slope, intercept : (D,) float64
        1 and 0 of a representative; 0 and the mean of a neuron whose representative never varies.

    Raises
    ------
    StatisticsError
        If there is not exactly one representative of each cluster.
    """
    clusters, chosen = np.asarray(labels), np.asarray(representatives)
    if clusters.shape != (moments.width,) or sorted(clusters[chosen].tolist()) != np.unique(clusters).tolist():
        raise StatisticsError(f"There must be one representative of each cluster of the {moments.width} neurons.")
    own = np.empty(int(clusters.max()) + 1, dtype=np.int64)
    own[clusters[chosen]] = chosen
    leader = own[clusters]
    everything = np.arange(moments.width)
    variance = moments.comoment[leader, leader]
    varies = moments.varies[leader]
    slope = np.where(varies, moments.comoment[everything, leader] / np.where(varies, variance, 1.0), 0.0)
    slope[chosen] = 1.0
    return slope, moments.mean - slope * moments.mean[leader]


def fold_members(
    weight: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]], moments: Moments, labels: ArrayLike, representatives: ArrayLike
) -> tuple[Floats, Floats]:
    """Make a linear layer that reads all neurons read the representatives alone.

    Parameters
    ----------
    weight : (outputs, D)
    bias : (outputs,)
    moments, labels, representatives
        As in `express_members`.

    Returns
    -------
    weight : (outputs, C) float64
        Columns in the order of the representatives.
    bias : (outputs,) float64

    Raises
    ------
    StatisticsError
        As `express_members`.
    """
    slope, intercept = express_members(moments, labels, representatives)
    clusters, chosen = np.asarray(labels), np.asarray(representatives)
    full = np.asarray(weight, dtype=np.float64)
    folded = np.zeros((len(full), int(clusters.max()) + 1))
    np.add.at(folded.T, clusters, (full * slope).T)
    return folded[:, clusters[chosen]], np.asarray(bias, dtype=np.float64) + full @ intercept
