"""Linear model of a model's time in the widths of its blocks, fitted to measurements.

A block's attention has a fixed cost and a cost per head, its feed-forward block a fixed cost and a cost per neuron; the rest
(embeddings, norms, readers of the last layer) depends on neither. The highest block with attention and those above it have
separate prices, because an exporter computes them only for the position that is read. Times are shares of the dense model's,
as a paired measurement gives them. ZipLM (Kurtic et al., NeurIPS 2023, section 3.2) keeps such a table for each machine.
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
    """Widths of a model's blocks, on which its time depends.

    Attributes
    ----------
    heads, ffn : tuple of int
        Heads and FFN neurons of each block, from the bottom up; 0: the sub-block is removed.
    """

    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    @property
    def top(self) -> int:
        """Highest block with attention, below which all positions are computed; -1 if there is none."""
        return max((block for block, kept in enumerate(self.heads) if kept), default=-1)


@dataclass(frozen=True)
class Prices:
    """Prices of one block, as shares of the dense model's time.

    Attributes
    ----------
    attention, head : float
        Fixed price of an attention block, and price of each of its heads.
    ffn, neuron : float
        Fixed price of an FFN block, and price of each of its neurons.
    """

    attention: float
    head: float
    ffn: float
    neuron: float

    def of(self, heads: int, ffn: int) -> float:
        """Return the price of a block of these widths."""
        return (self.attention + self.head * heads if heads else 0.0) + (self.ffn + self.neuron * ffn if ffn else 0.0)


@dataclass(frozen=True)
class LatencyTable:
    """Prices that predict the time for any widths, as a share of the dense model's time.

    Attributes
    ----------
    batch : int
        Rows in a batch.
    rest : float
        Price of everything that has no width.
    inner, last : Prices
        Prices of the blocks below the highest one with attention, and of that one and those above it.
    residual : float
        Largest relative error of the fit on its own measurements.
    """

    batch: int
    rest: float
    inner: Prices
    last: Prices
    residual: float = 0.0

    def share(self, widths: Widths) -> float:
        """Return the predicted time as a share of the dense model's."""
        blocks = list(zip(widths.heads, widths.ffn, strict=True))
        return self.rest + sum(self.prices(at, widths.top).of(*block) for at, block in enumerate(blocks))

    def prices(self, block: int, top: int) -> Prices:
        """Return the prices of a block, where `top` is the highest one with attention."""
        return self.last if block >= top else self.inner


def _terms(widths: Widths) -> list[float]:
    """Return the regressors: 1, those of the blocks below the highest one with attention, those of that one and the ones above it."""
    top = max(widths.top, 0)

    def regressors(heads: Sequence[int], ffn: Sequence[int]) -> list[float]:
        return [sum(h > 0 for h in heads), sum(heads), sum(f > 0 for f in ffn), sum(ffn)]

    return [1.0, *regressors(widths.heads[:top], widths.ffn[:top]), *regressors(widths.heads[top:], widths.ffn[top:])]


def fit_table(measured: Sequence[tuple[Widths, float]], *, batch: int) -> LatencyTable:
    """Fit the prices by non-negative least squares of the relative errors.

    Parameters
    ----------
    measured : sequence of (Widths, float)
        Widths, and their time as a share of the dense model's.
    batch : int
        Rows in a batch, which the table records.

    Raises
    ------
    StatisticsError
        If there are no measurements, or a time is not above 0.
    """
    times = np.array([time for _, time in measured], dtype=np.float64)
    if not len(times) or not np.isfinite(times).all() or times.min() <= 0:
        raise StatisticsError("A latency table needs measured times, all of them above 0.")
    terms: NDArray[np.float64] = np.array([_terms(widths) for widths, _ in measured], dtype=np.float64)
    # Columns of equal magnitude, or those of the neurons would set the solver's tolerance.
    scale = np.maximum(np.abs(terms).max(axis=0), 1.0)
    scaled, _ = nnls(terms / scale / times[:, None], np.ones(len(times)))
    coefficients = [float(value) for value in scaled / scale]
    residual = float(np.abs(terms @ np.array(coefficients) / times - 1).max())
    inner, last = Prices(*coefficients[1 : 1 + _TERMS]), Prices(*coefficients[1 + _TERMS :])
    return LatencyTable(batch, coefficients[0], inner, last, residual)


def probes(blocks: int, heads: int, ffn: int, *, cut_heads: bool = True, cut_ffn: bool = True, even: bool = False) -> tuple[Widths, ...]:
    """Return widths to measure, which together identify all prices.

    Parameters
    ----------
    blocks : int
    heads, ffn : int
        Widths of a dense block.
    cut_heads, cut_ffn : bool
        Whether a block may have fewer of them.
    even : bool
        Whether all blocks have the same widths (families with shared weights).

    Returns
    -------
    tuple of Widths
        The dense widths are not among them.
    """
    # (heads, neurons) of the blocks below, then of the topmost one, as shares.
    # Some attention above every FFN: without it, an exporter computes the FFN only for the position that is read, in half the time.
    design = (
        (1 / 2, 1 / 2, 1 / 2, 1 / 2), (1 / 4, 1 / 4, 1 / 4, 1 / 4), (1 / 12, 1 / 16, 1 / 12, 1 / 16), (0, 0, 1 / 2, 1 / 2),
        (1, 1 / 8, 1, 1 / 8), (1 / 4, 1, 1 / 4, 1), (0, 1 / 2, 1 / 4, 1 / 2), (1 / 2, 0, 1 / 2, 0),
        (1 / 4, 1 / 4, 1, 1 / 4), (1 / 4, 1 / 4, 1 / 4, 1), (1 / 4, 1 / 4, 0, 1 / 4), (1 / 4, 1 / 4, 1 / 4, 0),
    )  # fmt: skip
    distinct: dict[Widths, None] = {}
    for below_heads, below_ffn, top_heads, top_ffn in design:
        if even and below_ffn and not below_heads:
            continue
        parts = [(below_heads, below_ffn)] * (blocks - 1) + [(below_heads, below_ffn) if even else (top_heads, top_ffn)]
        widths = Widths(
            tuple(_width(share, heads) if cut_heads else heads for share, _ in parts),
            tuple(_width(share, ffn) if cut_ffn else ffn for _, share in parts),
        )
        distinct[widths] = None
    distinct.pop(Widths((heads,) * blocks, (ffn,) * blocks), None)
    return tuple(distinct)


def _width(share: float, full: int) -> int:
    return max(1, round(share * full)) if share else 0
