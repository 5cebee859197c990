"""Weighted co-moments of what enters a linear layer and of what it should give: all that a least-squares solution needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunekit.errors import StatisticsError


@dataclass(frozen=True)
class Comoment:
    """Centred weighted second moments.

    Attributes
    ----------
    weight : float
        Sum of the rows' weights.
    mean_x, mean_y : Tensor
        (k,) and (o,), float64.
    xx : Tensor
        (k, k) float64, weighted covariance of the inputs.
    yx : Tensor
        (o, k) float64, weighted covariance of targets with inputs.
    yy : float
        Weighted variance of the targets, summed over the outputs.
    """

    weight: float
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    yx: Tensor
    yy: float

    def solve(self, prior: Tensor, damping: float, *, bias: bool = True) -> tuple[Tensor, Tensor]:
        """Damped least squares: the weight (o, k) and bias (o,), float64, of the best linear map from inputs to targets.

        The weight is drawn towards `prior` (o, k) by `damping` times the mean variance of the inputs, so that the
        solution exists for singular co-moments and for fewer rows than inputs; the bias is free. The minimiser of
        ``E|y - Wx - b|^2 + lambda |W - prior|^2`` is ``W = (yx + lambda prior) (xx + lambda I)^-1``, ``b = E y - W E x``.
        Without a `bias` the moments are taken about the origin, and the bias returned is zero.
        """
        prior = prior.to(self.xx)
        xx, yx, rest = self.xx, self.yx, torch.zeros_like(self.mean_y)
        if not bias:
            xx, yx = xx + torch.outer(self.mean_x, self.mean_x), yx + torch.outer(self.mean_y, self.mean_x)
        strength = damping * float(xx.diagonal().mean())
        if strength <= 0:
            return prior, self.mean_y - prior @ self.mean_x if bias else rest
        damped = xx + strength * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
        weight = torch.linalg.solve(damped, (yx + strength * prior).T).T
        if not bool(torch.isfinite(weight).all()):
            raise StatisticsError(
                "The least-squares refit gave weights that are not finite; raise the damping or give more calibration rows."
            )
        return weight, self.mean_y - weight @ self.mean_x if bias else rest

    def error(self, weight: Tensor) -> float:
        """Mean squared error of a weight (o, k) with its best bias, summed over the outputs."""
        weight = weight.to(self.xx)
        return float(self.yy - 2 * (weight * self.yx).sum() + ((weight @ self.xx) * weight).sum())


class ComomentSum:
    """Accumulates a `Comoment` over chunks of rows.

    Products of a chunk are taken in the rows' own precision and summed in float64: a chunk is short, the sum is long.
    """

    def __init__(self) -> None:
        self._parts: tuple[Tensor, ...] | None = None

    def add(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Add rows x (n, k) with targets y (n, o) and weights (n,)."""
        scaled = x * weights[:, None]
        parts = (weights.sum(), scaled.sum(0), weights @ y, scaled.T @ x, y.T @ scaled, weights @ y.square().sum(1))
        wide = tuple(part.double() for part in parts)
        self._parts = wide if self._parts is None else tuple(a + b for a, b in zip(self._parts, wide, strict=True))

    def finish(self) -> Comoment:
        """The co-moment of all rows added; raises StatisticsError if there were none, or if any was not finite."""
        if self._parts is None or float(self._parts[0]) <= 0:
            raise StatisticsError("No calibration row carries any weight; give more calibration rows.")
        total, sum_x, sum_y, xx, yx, yy = self._parts
        if not all(bool(torch.isfinite(part).all()) for part in self._parts):
            raise StatisticsError(
                "The activations of the calibration rows hold values that are not finite; the model or the rows are broken."
            )
        mean_x, mean_y = sum_x / total, sum_y / total
        return Comoment(
            float(total),
            mean_x,
            mean_y,
            xx / total - torch.outer(mean_x, mean_x),
            yx / total - torch.outer(mean_y, mean_x),
            float(yy / total - mean_y.square().sum()),
        )
