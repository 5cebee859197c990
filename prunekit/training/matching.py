"""Matching of the layers of a slim model to those of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize


class StateMoments(NamedTuple):
    """Number of some vectors, their mean (H,) float64, and the sum of their squared differences from it, a scalar."""

    places: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of_states(cls, states: Tensor, mask: Tensor) -> StateMoments:
        """Return those of the real tokens of (batch, length, H) states."""
        vectors = states.float()[mask]
        mean = vectors.sum(0) / max(len(vectors), 1)
        return cls(len(vectors), mean.double(), (vectors - mean).square().sum().double())

    @classmethod
    def of(cls, parts: Sequence[StateMoments]) -> StateMoments:
        """Return those of several parts together (Chan et al. 1983)."""
        places = sum(part.places for part in parts)
        mean = torch.stack([part.mean * part.places for part in parts]).sum(0) / max(places, 1)
        apart = [part.places * (part.mean - mean).square().sum() for part in parts]
        return cls(places, mean, torch.stack([*(part.squares for part in parts), *apart]).sum())


def distance(ours: Tensor, theirs: Tensor, mask: Tensor, whole: StateMoments | None = None) -> Tensor:
    """Return the mean squared error of (batch, length, H) states over real tokens, in units of the teacher's variance: a scalar >= 0.

    With the moments of the whole batch, of which these are some rows: what they add to that of the batch.
    """
    x, y = ours.float()[mask], theirs.float()[mask]
    if whole is not None:
        values = max(whole.places, 1) * y.shape[-1]
        return (x - y).square().sum() / values / (whole.squares / values).float().clamp_min(1e-12)
    variance = (y - y.mean(0)).square().mean()
    return (x - y).square().mean() / variance.clamp_min(1e-12)


def vector_distance(ours: Tensor, theirs: Tensor, *, own_space: bool = False) -> Tensor:
    """Return how far the vectors of a batch of texts are from the teacher's: a scalar, 0 or more.

    The squared distance of the vectors, in units of the teacher's variance, and that of the matrices of their cosines among each other, in
    units of the variance of its cosines (Park et al. 2019, "Relational knowledge distillation").

    Parameters
    ----------
    ours, theirs : Tensor
        (rows, D).
    own_space : bool
        Only the cosines count, so that `ours` may have another width and lie in another space.
    """
    ours, theirs = ours.float(), theirs.float()
    total = ours.sum() * 0.0
    if not own_space:
        size = theirs.square().sum(-1).mean()
        # A single vector has no variance.
        spread = (theirs - theirs.mean(0)).square().sum(-1).mean() if len(theirs) > 1 else size
        total = total + (ours - theirs).square().sum(-1).mean() / spread.clamp_min(1e-6 * float(size) + 1e-12)
    if len(ours) > 1:
        off_diagonal = ~torch.eye(len(ours), dtype=torch.bool, device=ours.device)
        cosines, targets = ((normalize(each, dim=-1) @ normalize(each, dim=-1).T)[off_diagonal] for each in (ours, theirs))
        # Two vectors have one cosine, which has no variance.
        spread = targets.var().clamp_min(1e-4) if len(ours) > 2 else targets.new_ones(())
        total = total + (cosines - targets).square().mean() / spread
    return total


def match_layers(costs: NDArray[np.floating]) -> tuple[int, ...]:
    """Return the cheapest increasing assignment of slim layers to dense layers, the last to the last.

    The dynamic matching of CoFi (Xia et al., ACL 2022, section 3.3) with the order of the layers kept: two layers of the
    slim model are never matched to one layer of the teacher.

    Parameters
    ----------
    costs : ndarray of shape (slim, dense)
        Cost of matching a slim layer to a dense one; slim <= dense.

    Returns
    -------
    tuple of int
        One dense layer for each slim layer.
    """
    slim, dense = costs.shape
    assert 0 < slim <= dense
    best = np.full((slim, dense), np.inf)
    previous = np.zeros((slim, dense), dtype=np.int64)
    best[0] = costs[0]
    for row in range(1, slim):
        for column in range(row, dense):
            cheapest = int(np.argmin(best[row - 1, :column]))
            best[row, column], previous[row, column] = best[row - 1, cheapest] + costs[row, column], cheapest
    matched = [dense - 1]
    for row in range(slim - 1, 0, -1):
        matched.append(int(previous[row, matched[-1]]))
    return tuple(reversed(matched))
