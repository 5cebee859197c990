"""Correlation clusters at all thresholds (Dalvi et al. 2020, section 4.2): how many neurons are redundant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, Subject, layer_names
from prunekit.analyzers.correlation import distances, distances_of_rows, linkage
from prunekit.analyzers.figures import Bars, Curves, Dendrogram, Figure, Series
from prunekit.errors import StatisticsError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Sizes of one name are equal in a call: d neurons, n of them not constant.
Mask = Bool[NDArray[np.bool_], " d"]

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))
#: The threshold of the paper's transfer experiments.
USUAL = 0.3
_USUAL_AT = THRESHOLDS.index(USUAL)
#: Most branches of the tree that are drawn.
BRANCHES = 16


@final
@dataclass(frozen=True, eq=False)
class Clusters(AnalyzerResult):
    """Clusters of a model's neurons at all thresholds, from one tree.

    Attributes
    ----------
    thresholds : tuple of float
        Distances 1 - |r| at which the tree is cut.
    neurons : int
        Number of non-constant neurons, which are those that are clustered.
    constant : tuple of int
        Number of neurons of each layer that are constant up to rounding: redundant without any cluster.
    counts : tuple of int
        Number of clusters at each threshold.
    redundant : tuple of float
        Share of the neurons that are redundant given a representative of each cluster, at each threshold.
    one_layer, adjacent, farther : tuple of float
        Of the clusters of at least two neurons: share whose neurons are of one layer, of two adjacent ones, of others.
    within : (thresholds, L + 1) float64
        Share of a layer's neurons that are redundant given the other neurons of the layer; NaN for a layer that is constant.
    from_below : (thresholds, L + 1) float64
        Share of a layer's neurons that are in a cluster with a neuron of a lower layer.
    top : Dendrogram or None
        The last merges of the tree; None where there is one neuron.
    """

    thresholds: tuple[float, ...]
    neurons: int
    constant: tuple[int, ...]
    counts: tuple[int, ...]
    redundant: tuple[float, ...]
    one_layer: tuple[float, ...]
    adjacent: tuple[float, ...]
    farther: tuple[float, ...]
    within: Float64[Floats, "thresholds layers"]
    from_below: Float64[Floats, "thresholds layers"]
    top: Dendrogram | None

    def summary(self) -> tuple[str, ...]:
        """Summarise the redundancy at the usual threshold, and the layers of the clusters."""
        at = _USUAL_AT
        lines = [
            f"{self.redundant[at]:.0%} of {self.neurons:,} neurons are redundant at distance {USUAL:g} ({self.counts[at]:,} clusters), "
            f"{self.redundant[6]:.0%} at 0.7 ({self.counts[6]:,})",
        ]
        if self.counts[at] < self.neurons:
            lines.append(f"clusters at {USUAL:g}: {self.one_layer[at]:.0%} lie in one layer, {self.adjacent[at]:.0%} in two adjacent ones")
        if any(self.constant):
            lines.append(f"{sum(self.constant):,} neurons hardly vary and are in no cluster: {_constant_text(self.constant)}")
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Return the redundancy over thresholds and over layers, the layers of the clusters, and the top of the tree."""
        axis = "cluster threshold, distance 1 − |r|"  # noqa: RUF001
        at = _USUAL_AT
        point = f"{self.redundant[at]:.0%} at {USUAL:g}"
        figures: list[Figure] = [
            Curves(
                "Redundant neurons at each threshold",
                (Series("all layers", self.thresholds, self.redundant),),
                axis,
                "neurons that a representative stands for",
                f"A neuron is redundant if a cluster mate stays in its place; of {self.neurons:,} neurons "
                f"{self.counts[at]:,} would stay at {USUAL:g} and {self.counts[-1]:,} at {self.thresholds[-1]:g}.",
                chosen=(point, USUAL, self.redundant[at]),
                percent=True,
            ),
            self._layers(),
        ]
        if self.counts[at] < self.neurons:
            figures.append(self._windows())
        return (*figures, self.top) if self.top is not None else tuple(figures)

    def _layers(self) -> Figure:
        layers = tuple(float(layer) for layer in range(self.within.shape[1]))
        pairs = (
            (f"within the layer, at {USUAL:g}", self.within[_USUAL_AT]),
            (f"in a cluster with a lower layer, at {USUAL:g}", self.from_below[_USUAL_AT]),
        )
        more = (
            (f"within the layer, at {self.thresholds[6]:g}", self.within[6]),
            (f"in a cluster with a lower layer, at {self.thresholds[6]:g}", self.from_below[6]),
        )
        series = tuple(Series(name, layers, tuple(map(float, values))) for name, values in (*pairs, *more))
        below = self.from_below[_USUAL_AT]
        top = int(np.nanargmax(below))
        note = (
            "How much of a layer its own neurons repeat, and how much of it is in a cluster with a lower layer; "
            f"of layer {top} {below[top]:.0%} is, at {USUAL:g}, more than of any other."
        )
        return Curves(
            "Redundancy of each layer", series, "layer (0: embeddings)", "share of the layer's neurons", note, whole_x=True, percent=True
        )

    def _windows(self) -> Figure:
        names = tuple(f"{threshold:g}" for threshold in self.thresholds)
        values = tuple(zip(self.one_layer, self.adjacent, self.farther, strict=True))
        near = self.one_layer[_USUAL_AT] + self.adjacent[_USUAL_AT]
        note = (
            "Each bar is all clusters of two neurons or more at one threshold; "
            f"at {USUAL:g}, {near:.0%} of them stay within two adjacent layers."
        )
        parts = ("one layer", "two adjacent layers", "farther apart")
        return Bars("Where clusters lie", names, parts, values, "share of the clusters, by threshold", note, percent=True)


def _constant_text(constant: tuple[int, ...]) -> str:
    names = layer_names(len(constant))
    return ", ".join(f"{count:,} in {'the embeddings' if at == 0 else 'layer ' + names[at]}" for at, count in enumerate(constant) if count)


def run(inputs: Observations) -> Clusters:
    """Cluster the neurons of the pooled rows; raises StatisticsError if none varies."""
    model = inputs.model
    return cluster(model, _nonconstant(model))


def _nonconstant(model: Subject) -> Mask:
    mask = model.non_constant
    if not mask.any():
        raise StatisticsError("No neuron varies: give more than one row, and rows that differ.")
    return mask


def cluster(model: Subject, non_constant: Mask) -> Clusters:
    """Cluster the non-constant neurons at all thresholds, from one tree."""
    ids, hidden = np.flatnonzero(non_constant), model.source.hidden
    layer = ids // hidden
    tree = np.empty((0, 4))
    if len(ids) > 1:
        tree = linkage(distances(model.train.moments.take(ids)) if model.fits else distances_of_rows(model.train.rows, ids))
    labelings = [fcluster(tree, threshold, "distance") - 1 if len(ids) > 1 else np.zeros(1) for threshold in THRESHOLDS]
    members = np.bincount(layer, minlength=model.layers)
    cuts = [_cut(labels.astype(np.int64), layer, members) for labels in labelings]
    return Clusters(
        THRESHOLDS,
        len(ids),
        tuple(int(count) for count in hidden - members),
        tuple(cut.count for cut in cuts),
        tuple(1.0 - cut.count / len(ids) for cut in cuts),
        tuple(cut.windows[0] for cut in cuts),
        tuple(cut.windows[1] for cut in cuts),
        tuple(cut.windows[2] for cut in cuts),
        np.stack([cut.within for cut in cuts]),
        np.stack([cut.from_below for cut in cuts]),
        top_of(tree, layer, model.layers) if len(ids) > 1 else None,
    )


@dataclass(frozen=True, eq=False)
class _Cut:
    count: int
    windows: tuple[float, float, float]
    within: Float64[Floats, " layers"]
    from_below: Float64[Floats, " layers"]


def _cut(labels: Int64[Ints, " n"], layer: Int64[Ints, " n"], members: Int64[Ints, " layers"]) -> _Cut:
    """Count the clusters of one cut: labels (D,) 0..C-1, layers (D,), neurons of each layer (L + 1,)."""
    count = int(labels.max()) + 1
    lowest, highest = np.full(count, len(members)), np.full(count, -1)
    np.minimum.at(lowest, labels, layer)
    np.maximum.at(highest, labels, layer)
    shared = np.bincount(labels) > 1
    span = (highest - lowest)[shared]
    windows = [float((span == 0).mean()), float((span == 1).mean()), float((span > 1).mean())] if len(span) else [0.0, 0.0, 0.0]
    pairs = np.unique(np.stack([layer, labels], axis=1), axis=0)
    distinct = np.bincount(pairs[:, 0], minlength=len(members))
    below = np.bincount(layer[lowest[labels] < layer], minlength=len(members))
    size = np.where(members > 0, members, np.nan)
    return _Cut(count, (windows[0], windows[1], windows[2]), 1.0 - distinct / size, below / size)


def top_of(tree: Float64[Floats, "merges 4"], layer: Int64[Ints, " n"], layers: int) -> Dendrogram:
    """Return the last merges of a tree, with each subtree below them as one leaf."""
    n = len(layer)
    per_layer = np.zeros((2 * n - 1, layers), dtype=np.int64)
    per_layer[np.arange(n), layer] = 1
    children = tree[:, :2].astype(np.int64)
    for at, (a, b) in enumerate(children):
        per_layer[n + at] = per_layer[a] + per_layer[b]
    first = max(0, n - BRANCHES)  # merges before this one are inside the leaves
    leaves = [int(child) for child in children[first:].ravel() if child < n + first]
    place = {node: at for at, node in enumerate(leaves)} | {n + first + at: len(leaves) + at for at in range(len(children) - first)}
    merges = np.array([[place[int(a)], place[int(b)]] for a, b in children[first:]])
    names = tuple(_leaf_name(per_layer[node]) for node in leaves)
    biggest = max(leaves, key=lambda node: int(per_layer[node].sum()))
    note = (
        f"The last {len(merges)} merges of the tree: branches that meet far to the right have little in common. "
        f"The largest branch holds {per_layer[biggest].sum() / n:.0%} of the neurons."
    )
    heights = np.maximum.accumulate(tree[first:, 2])
    return Dendrogram("The top of the tree", merges, heights, names, "distance 1 − |r| (average linkage)", note)  # noqa: RUF001


def _leaf_name(counts: Int64[Ints, " layers"]) -> str:
    total, top = int(counts.sum()), int(counts.argmax())
    name = "emb" if top == 0 else f"layer {top}"
    if total == 1:
        return f"1 neuron, {name}"
    return f"{total:,}, all {name}" if counts[top] == total else f"{total:,}, {counts[top] / total:.0%} {name}"


ANALYZER = Analyzer("clusters", "Correlated neurons", frozenset({Need.ROWS}), run)
