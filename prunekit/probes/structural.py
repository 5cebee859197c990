"""The structural probe (Hewitt and Manning 2019): a low-rank linear map under which squared distances are tree distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from numpy.typing import NDArray

from prunekit.errors import ParameterError, StatisticsError
from prunekit.probes.trees import Sentence, distance_spearman, distances, uuas

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
# Sizes of one name are equal in a call: n words, t words of a sentence, h dimensions, r of the map.
Words = Shaped[NDArray[Any], "n h"]
Map = Float32[Singles, "h r"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
#: Sentences of a batch, which are of about the same length.
_SENTENCES = 20
SHORTEST, LONGEST = 5, 50
"""Sentence lengths over which the Spearman correlation is averaged, as in the paper."""


@dataclass(frozen=True, eq=False)
class StructuralProbe:
    """A fitted linear map.

    Attributes
    ----------
    projection : (H, r) float64
        Columns of B transposed.
    """

    projection: Float64[Floats, "h r"]

    def distances(self, words: Shaped[NDArray[Any], "t h"]) -> Float64[Floats, "t t"]:
        """Predict the distances between the words of a sentence, (T, H) -> (T, T)."""
        return _squared(np.asarray(words, dtype=np.float64) @ self.projection)


@dataclass(frozen=True)
class StructuralScores:
    """Scores of predicted distances against the trees of held-out sentences.

    Attributes
    ----------
    uuas : float
        Undirected unlabelled attachment score: share of the true edges in the minimum spanning trees.
    spearman : float
        Mean over sentence lengths 5..50 of the mean over their words of the correlation of true and predicted distances.
    sentences : int
        Number of sentences scored.
    """

    uuas: float
    spearman: float
    sentences: int


def fit_structural(
    words: Words,
    train: Sequence[Sentence],
    *,
    rank: int = 64,
    epochs: int = 30,
    lr: float = 1e-3,
    seed: int = 0,
) -> StructuralProbe:
    """Fit the map by Adam on the paper's loss.

    The loss of a sentence is the mean over all pairs of its words of |tree distance - squared distance under the map|. The
    learning rate falls to zero along a cosine (the paper halves it when the development loss stalls).

    Parameters
    ----------
    words : (n, H)
        Vectors of all words, of one layer.
    train : sequence of Sentence
    rank : int
        Rows of B; at most H are used.
    epochs, lr : int, float
    seed : int
        Seed of the initial map, uniform in +-0.05 as in the authors' code, and of the order.

    Raises
    ------
    StatisticsError
        No sentence of two words, NaN among the vectors, or vectors without variance.
    """
    if rank < 1:
        raise ParameterError("rank", "fit_structural", "at least 1", rank)
    used = sorted((sentence for sentence in train if len(sentence) > 1), key=len)
    if not used:
        raise StatisticsError("The structural probe needs a sentence of at least two words.")
    values = np.asarray(words, dtype=np.float32)
    if not np.isfinite(values).all():
        raise StatisticsError("The words' vectors hold NaN or infinity: the model or the data is broken.")
    # One scale for all dimensions, so that the initial map and the learning rate suit any layer; it is folded back.
    spread = float(values.std(axis=0, dtype=np.float64).mean())
    if spread <= 1e-12:
        raise StatisticsError("The words' vectors do not vary: there is no structure to find.")
    generator = np.random.default_rng(seed)
    width = values.shape[1]
    projection = generator.uniform(-0.05, 0.05, (width, min(rank, width))).astype(np.float32)
    first, second = np.zeros_like(projection), np.zeros_like(projection)
    batches = [_Batch.of(values, used[at : at + _SENTENCES], spread) for at in range(0, len(used), _SENTENCES)]
    steps = epochs * len(batches)
    for step in range(steps):
        if step % len(batches) == 0:
            order = generator.permutation(len(batches))
        gradient = batches[order[step % len(batches)]].gradient(projection)
        first += (1 - _BETA1) * (gradient - first)
        second += (1 - _BETA2) * (np.square(gradient) - second)
        rate = 0.5 * lr * (1 + np.cos(np.pi * step / steps))
        corrected = np.sqrt(second / (1 - _BETA2 ** (step + 1))) + _EPSILON
        projection -= (rate / (1 - _BETA1 ** (step + 1)) * first / corrected).astype(np.float32)
    return StructuralProbe(projection.astype(np.float64) / spread)


def score_structural(probe: StructuralProbe, words: Words, held_out: Sequence[Sentence]) -> StructuralScores:
    """Score a map on held-out sentences; raises StatisticsError where none has an edge that counts."""
    correct = total = scored = 0
    by_length: dict[int, list[float]] = {}
    for sentence in held_out:
        predicted = probe.distances(words[sentence.rows])
        hits, edges = uuas(predicted, sentence)
        correct, total, scored = correct + hits, total + edges, scored + (edges > 0)
        if SHORTEST <= len(sentence) <= LONGEST:
            correlations = distance_spearman(predicted, distances(sentence.heads))
            if np.isfinite(correlations).any():
                by_length.setdefault(len(sentence), []).append(float(np.nanmean(correlations)))
    if not total:
        raise StatisticsError("No held-out sentence has an edge between two words that count.")
    means = [float(np.mean(values)) for values in by_length.values()]
    return StructuralScores(correct / total, float(np.mean(means)) if means else float("nan"), scored)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Padded sentences: words (b, T, H), true distances (b, T, T) and weights of the pairs, 0 for padding."""

    words: Float32[Singles, "b t h"]
    true: Float32[Singles, "b t t"]
    weights: Float32[Singles, "b t t"]

    @classmethod
    def of(cls, values: Float32[Singles, "n h"], batch: Sequence[Sentence], spread: float) -> _Batch:
        longest = max(len(sentence) for sentence in batch)
        words = np.zeros((len(batch), longest, values.shape[1]), dtype=np.float32)
        true = np.zeros((len(batch), longest, longest), dtype=np.float32)
        weights = np.zeros_like(true)
        for i, sentence in enumerate(batch):
            size = len(sentence)
            words[i, :size] = values[sentence.rows] / spread
            true[i, :size, :size] = distances(sentence.heads)
            weights[i, :size, :size] = 1.0 / (size * size * len(batch))
        return cls(words, true, weights)

    def gradient(self, projection: Map) -> Map:
        """Return the gradient of the loss with respect to the projection, (H, r).

        With S the signed weights of the pairs, the loss varies with sum_ij S_ij |z_i - z_j|^2 = 2 tr(Z' L Z), L the Laplacian of S.
        """
        mapped = self.words @ projection
        pairs = np.sign(_squared(mapped) - self.true) * self.weights
        pulled = pairs.sum(axis=2, keepdims=True) * mapped - pairs @ mapped
        return np.asarray(4.0 * np.einsum("bth,btr->hr", self.words, pulled, optimize=True))

    def loss(self, projection: Map) -> float:
        """Return the mean over the sentences of the mean over their pairs of |error|."""
        return float((np.abs(_squared(self.words @ projection) - self.true) * self.weights).sum())


def _squared(points: Shaped[NDArray[Any], "*b t r"]) -> Shaped[NDArray[Any], "*b t t"]:
    """Return the squared distances between points, (..., T, r) -> (..., T, T)."""
    inner = points @ np.swapaxes(points, -1, -2)
    norms = np.einsum("...ii->...i", inner)
    return np.asarray(np.maximum(norms[..., :, None] + norms[..., None, :] - 2.0 * inner, 0.0))
