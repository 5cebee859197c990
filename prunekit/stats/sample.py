"""A seeded, bounded, mergeable sample of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64
from numpy.typing import ArrayLike, NDArray

from prunekit.errors import ParameterError, StatisticsError
from prunekit.stats.rows import Ids, Rows

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Sample:
    """At most `size` rows of a stream: those whose ids hash lowest (bottom-k sampling).

    The choice of rows depends on their ids and the seed alone, not on chunks, their order or the machine; merging the
    samples of two parts gives the sample of both.

    Attributes
    ----------
    size, seed : int
    ids : (k,) int64
        Ids of the rows, ascending.
    rows : (k, D) float32
    """

    size: int
    seed: int
    ids: Ids
    rows: Rows

    @classmethod
    def empty(cls, size: int, width: int, *, seed: int = 0) -> Sample:
        """Return an empty sample."""
        if size < 1:
            raise ParameterError("size", "Sample", "at least 1", size)
        return cls(size, seed, np.empty(0, dtype=np.int64), np.empty((0, width), dtype=np.float32))

    def add(self, ids: ArrayLike, rows: ArrayLike) -> Sample:
        """Return the sample after more rows, (k, D), with ids (k,) that were not seen before."""
        numbers, values = np.asarray(ids, dtype=np.int64), np.asarray(rows, dtype=np.float32)
        if values.shape != (len(numbers), self.rows.shape[1]):
            raise StatisticsError(f"Expected {len(numbers)} rows of {self.rows.shape[1]} columns. Got shape {values.shape} instead.")
        # Sample the new rows first, so that a long chunk is not copied.
        chosen = lowest(numbers, self.seed, self.size)
        return self._bounded(np.concatenate([self.ids, numbers[chosen]]), np.concatenate([self.rows, values[chosen]]))

    def merge(self, other: Sample) -> Sample:
        """Return the sample of both parts; raise StatisticsError where size, seed or width differ."""
        if (self.size, self.seed, self.rows.shape[1]) != (other.size, other.seed, other.rows.shape[1]):
            raise StatisticsError("Samples of different size, seed or width cannot be merged.")
        return self._bounded(np.concatenate([self.ids, other.ids]), np.concatenate([self.rows, other.rows]))

    def _bounded(self, ids: Ids, rows: Rows) -> Sample:
        if len(np.unique(ids)) != len(ids):
            raise StatisticsError("A row was sampled twice: the ids of the parts overlap.")
        kept = lowest(ids, self.seed, self.size)
        kept = kept[np.argsort(ids[kept])]
        return Sample(self.size, self.seed, ids[kept], rows[kept])


def lowest(ids: Ids, seed: int, size: int) -> Int64[NDArray[np.int64], " m"]:
    """Return the positions of the at most `size` of the ids, (m,), that hash lowest, lowest first."""
    return np.asarray(np.argsort(_hash(ids, seed), kind="stable")[:size])


def _hash(ids: Ids, seed: int) -> UInt64[NDArray[np.uint64], " k"]:
    """Hash ids by splitmix64 (Steele, Lea and Flood 2014): a bijection of 64-bit words, so distinct ids never tie."""
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = ids.astype(np.uint64) * _GOLDEN_GAMMA + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
