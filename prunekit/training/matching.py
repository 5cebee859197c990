"""Which layer of the teacher each layer of the slim model should look like."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize


def distance(ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of (batch, length, H) states over real tokens, in units of the teacher's variance: a scalar, 0 or more."""
    x, y = ours.float()[mask], theirs.float()[mask]
    variance = (y - y.mean(0)).square().mean()
    return (x - y).square().mean() / variance.clamp_min(1e-12)


def vector_distance(ours: Tensor, theirs: Tensor, *, own_space: bool = False) -> Tensor:
    """How far the vectors of a batch of texts are from the teacher's: a scalar, 0 or more.

    The squared distance of the vectors, in units of the teacher's variance, and that of the matrices of their cosines among each other, in
    units of the variance of its cosines (Park et al. 2019, "Relational knowledge distillation").

    Parameters
    ----------
    ours, theirs : Tensor
        (rows, D).
    own_space : bool
        Only the cosines count, so that `ours` may have another width and lie anywhere.
    """
    ours, theirs = ours.float(), theirs.float()
    total = ours.sum() * 0.0
    if not own_space:
        spread = (theirs - theirs.mean(0)).square().sum(-1).mean()
        total = total + (ours - theirs).square().sum(-1).mean() / spread.clamp_min(1e-6 * float(theirs.square().sum(-1).mean()) + 1e-12)
    if len(ours) > 1:
        apart = ~torch.eye(len(ours), dtype=torch.bool, device=ours.device)
        alike, wanted = ((normalize(each, dim=-1) @ normalize(each, dim=-1).T)[apart] for each in (ours, theirs))
        total = total + (alike - wanted).square().mean() / wanted.var().clamp_min(1e-4)
    return total


def match_layers(costs: NDArray[np.floating]) -> tuple[int, ...]:
    """The cheapest increasing assignment of slim layers to dense layers, the last to the last.

    The dynamic matching of CoFi (Xia et al., ACL 2022, section 3.3) with the order of the layers kept: two layers of the
    slim model never stand for one layer of the teacher.

    Parameters
    ----------
    costs : ndarray of shape (slim, dense)
        What it costs that a slim layer stands for a dense one; slim <= dense.

    Returns
    -------
    tuple of int
        One dense layer for each slim layer.
    """
    slim, dense = costs.shape
    assert 0 < slim <= dense
    best = np.full((slim, dense), np.inf)
    came = np.zeros((slim, dense), dtype=np.int64)
    best[0] = costs[0]
    for row in range(1, slim):
        for column in range(row, dense):
            before = int(np.argmin(best[row - 1, :column]))
            best[row, column], came[row, column] = best[row - 1, before] + costs[row, column], before
    found = [dense - 1]
    for row in range(slim - 1, 0, -1):
        found.append(int(came[row, found[-1]]))
    return tuple(reversed(found))
