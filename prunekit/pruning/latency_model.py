"""How the time of a model follows from the widths that its blocks keep: a linear model, fitted to what was measured.

A block's attention costs something as soon as it is there and more with each head, its feed-forward block likewise; the rest
(embeddings, norms, what reads the last layer) does not depend on either. The highest block with attention and what is above it have
prices of their own, because an exporter computes them for the position that is read and not for all. Times are shares of the dense
model's, so that they are what a paired measurement gives. ZipLM (Kurtic et al., NeurIPS 2023, section 3.2) keeps such a table for
each machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from prunekit.errors import StatisticsError

_TERMS = 4


@dataclass(frozen=True)
class Widths:
    """What a model's time depends on.

    Attributes
    ----------
    heads, ffn : tuple of int
        Heads and FFN neurons of each block, from the bottom up; 0: the sub-block is gone.
    """

    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    @property
    def top(self) -> int:
        """The highest block with attention: below it all positions are computed. -1: there is none."""
        return max((block for block, kept in enumerate(self.heads) if kept), default=-1)


@dataclass(frozen=True)
class Prices:
    """What one block takes, as shares of the dense model's time.

    Attributes
    ----------
    attention, head : float
        Of an attention block, whatever its width, and of each of its heads.
    ffn, neuron : float
        Of an FFN block, whatever its width, and of each of its neurons.
    """

    attention: float
    head: float
    ffn: float
    neuron: float

    def of(self, heads: int, ffn: int) -> float:
        """Of a block of these widths."""
        return (self.attention + self.head * heads if heads else 0.0) + (self.ffn + self.neuron * ffn if ffn else 0.0)


@dataclass(frozen=True)
class LatencyTable:
    """The time of any choice of widths, as a share of the dense model's time.

    Attributes
    ----------
    batch : int
        Rows in a batch.
    rest : float
        Of all that has no width.
    inner, last : Prices
        Of the blocks below the highest one with attention, and of that one and those above it.
    residual : float
        Largest relative error of the fit on what it was fitted to.
    """

    batch: int
    rest: float
    inner: Prices
    last: Prices
    residual: float = 0.0

    def share(self, widths: Widths) -> float:
        """Predicted time as a share of the dense model's."""
        blocks = list(zip(widths.heads, widths.ffn, strict=True))
        return self.rest + sum(self.prices(at, widths.top).of(*block) for at, block in enumerate(blocks))

    def prices(self, block: int, top: int) -> Prices:
        """Those of a block, where `top` is the highest one with attention."""
        return self.last if block >= top else self.inner


def _terms(widths: Widths) -> list[float]:
    """The coefficients' factors: 1, then those of the blocks below the highest one with attention and of that one and those above it."""
    top = max(widths.top, 0)

    def of(heads: Sequence[int], ffn: Sequence[int]) -> list[float]:
        return [sum(h > 0 for h in heads), sum(heads), sum(f > 0 for f in ffn), sum(ffn)]

    return [1.0, *of(widths.heads[:top], widths.ffn[:top]), *of(widths.heads[top:], widths.ffn[top:])]


def fit_table(measured: Sequence[tuple[Widths, float]], *, batch: int) -> LatencyTable:
    """Fit the prices by non-negative least squares of the relative errors.

    Parameters
    ----------
    measured : sequence of (Widths, float)
        Widths, and the time they took as a share of the dense model's.
    batch : int
        Rows in a batch, for the record.

    Raises
    ------
    StatisticsError
        No measurements, or a time that is not above 0.
    """
    times = np.array([time for _, time in measured], dtype=np.float64)
    if not len(times) or not np.isfinite(times).all() or times.min() <= 0:
        raise StatisticsError("A latency table needs measured times, all of them above 0.")
    terms: NDArray[np.float64] = np.array([_terms(widths) for widths, _ in measured], dtype=np.float64)
    # Columns of one size, or the solver's tolerance would be that of the neurons.
    scale = np.maximum(np.abs(terms).max(axis=0), 1.0)
    solved, _ = nnls(terms / scale / times[:, None], np.ones(len(times)))
    found = [float(value) for value in solved / scale]
    residual = float(np.abs(terms @ np.array(found) / times - 1).max())
    inner, last = Prices(*found[1 : 1 + _TERMS]), Prices(*found[1 + _TERMS :])
    return LatencyTable(batch, found[0], inner, last, residual)


def probes(blocks: int, heads: int, ffn: int, *, cut_heads: bool = True, cut_ffn: bool = True, even: bool = False) -> tuple[Widths, ...]:
    """Widths to measure, from which all prices can be told apart.

    Parameters
    ----------
    blocks : int
    heads, ffn : int
        Of a dense block.
    cut_heads, cut_ffn : bool
        Whether a block may have fewer.
    even : bool
        All blocks have the same widths (those of families with shared weights).

    Returns
    -------
    tuple of Widths
        Without the dense ones.
    """
    # (heads, neurons) of the blocks below, then of the one on top, as shares.
    # Some attention above every FFN: without, an exporter computes the FFN for the position that is read alone, at half its time.
    design = (
        (1 / 2, 1 / 2, 1 / 2, 1 / 2), (1 / 4, 1 / 4, 1 / 4, 1 / 4), (1 / 12, 1 / 16, 1 / 12, 1 / 16), (0, 0, 1 / 2, 1 / 2),
        (1, 1 / 8, 1, 1 / 8), (1 / 4, 1, 1 / 4, 1), (0, 1 / 2, 1 / 4, 1 / 2), (1 / 2, 0, 1 / 2, 0),
        (1 / 4, 1 / 4, 1, 1 / 4), (1 / 4, 1 / 4, 1 / 4, 1), (1 / 4, 1 / 4, 0, 1 / 4), (1 / 4, 1 / 4, 1 / 4, 0),
    )  # fmt: skip
    found: dict[Widths, None] = {}
    for below_heads, below_ffn, top_heads, top_ffn in design:
        if even and below_ffn and not below_heads:
            continue
        parts = [(below_heads, below_ffn)] * (blocks - 1) + [(below_heads, below_ffn) if even else (top_heads, top_ffn)]
        widths = Widths(
            tuple(_width(share, heads) if cut_heads else heads for share, _ in parts),
            tuple(_width(share, ffn) if cut_ffn else ffn for _, share in parts),
        )
        found[widths] = None
    found.pop(Widths((heads,) * blocks, (ffn,) * blocks), None)
    return tuple(found)


def _width(share: float, full: int) -> int:
    return max(1, round(share * full)) if share else 0
