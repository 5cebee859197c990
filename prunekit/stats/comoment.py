"""Weighted co-moments of the inputs of a linear layer and of its targets: all that a least-squares solution needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from prunekit.data import parallel
from prunekit.errors import StatisticsError

# Sizes of one name are equal in a call: k inputs, o outputs, n rows.
Vector = Float64[Tensor, " k"]
Map = Float64[Tensor, "o k"]
Inputs = Float[Tensor, "n k"]
Targets = Float[Tensor, "n o"]

#: Share of the mean variance of the inputs below which a direction counts as one without variance.
_SINGULAR = 1e-6
#: Variance of the inputs, as a share of their mean square, far above the rounding error of single precision.
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Comoment:
    """Centred weighted second moments.

    Attributes
    ----------
    rows : int
        Number of rows.
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

    rows: int
    weight: float
    mean_x: Vector
    mean_y: Float64[Tensor, " o"]
    xx: Float64[Tensor, "k k"]
    yx: Map
    yy: float

    def solve(self, damping: float, *, bias: bool = True) -> tuple[Map, Float64[Tensor, " o"]]:
        """Return weight (o, k) and bias (o,), float64, of the best linear map from inputs to targets, by damped least squares.

        The minimiser of ``E|y - Wx - b|^2 + lambda |W|^2``, lambda being `damping` times the mean variance of the inputs,
        is ``W = yx (xx + lambda I)^-1``, ``b = E y - W E x``; where the inputs hardly vary, a share of their mean square takes
        the place of the variance. It exists for singular co-moments and for fewer rows than inputs too, and at damping 0 it
        is then the solution of least norm. Without a `bias` the moments are taken about the origin, and the bias returned is
        zero.

        Raises
        ------
        StatisticsError
            If the solution is not finite.
        """
        xx, yx = self.xx, self.yx
        if not bias:
            xx, yx = xx + torch.outer(self.mean_x, self.mean_x), yx + torch.outer(self.mean_y, self.mean_x)
        if damping > 0 and len(xx):
            # Inputs that never vary carry no information: their variance is rounding error, and no scale for the damping.
            spread = max(float(xx.diagonal().mean()), _ROUNDING * float(self.mean_x.square().mean()))
            strength = max(damping * spread, torch.finfo(xx.dtype).tiny)
            factor, failed = torch.linalg.cholesky_ex(xx + strength * torch.eye(len(xx), dtype=xx.dtype, device=xx.device))
            weight = _least_norm(xx, yx) if int(failed) else torch.cholesky_solve(yx.T, factor).T
        else:
            weight = _least_norm(xx, yx)
        if not bool(torch.isfinite(weight).all()):
            raise StatisticsError(
                "The least-squares refit gave weights that are not finite; raise the damping or give more calibration rows."
            )
        return weight, self.mean_y - weight @ self.mean_x if bias else torch.zeros_like(self.mean_y)

    def solve_diagonal(self, damping: float, *, bias: bool = True) -> tuple[Vector, Vector]:
        """Return the same with a diagonal weight, inputs and targets being paired: weight (k,) and bias (k,), float64.

        Each input is damped by its own variance, so that the scale of the others does not matter; one that never varies
        has weight 0.
        """
        xx, yx = self.xx.diagonal(), self.yx.diagonal()
        if not bias:
            xx, yx = xx + self.mean_x.square(), yx + self.mean_x * self.mean_y
        varies = xx > torch.finfo(torch.float32).eps * self.mean_x.square()
        weight = torch.where(varies, yx / torch.where(varies, xx * (1 + damping), torch.ones_like(xx)), torch.zeros_like(xx))
        return weight, self.mean_y - weight * self.mean_x if bias else torch.zeros_like(self.mean_y)

    def lost(self, gone: Int64[Tensor, " g"], weight: Float[Tensor, "o k"]) -> Comoment:
        """Return the co-moment of the retained inputs with what a layer loses when the others are removed.

        Parameters
        ----------
        gone : Tensor
            (g,) int64, columns.
        weight : Tensor
            (o, k), the layer's.
        """
        kept = torch.ones(len(self.xx), dtype=torch.bool)
        kept[gone] = False
        through = weight[:, gone].to(self.xx)
        with_all = through @ self.xx[gone]
        return Comoment(
            self.rows,
            self.weight,
            self.mean_x[kept],
            through @ self.mean_x[gone],
            self.xx[kept][:, kept],
            with_all[:, kept],
            float((with_all[:, gone] * through).sum()),
        )

    @property
    def singular(self) -> bool:
        """Whether an input is a linear combination of the others, if only because there are too few rows."""
        if self.rows <= len(self.xx):
            return True
        # The factorisation succeeds if the smallest eigenvalue is above what single precision can distinguish from 0.
        threshold = _SINGULAR * self.xx.diagonal().mean()
        _, failed = torch.linalg.cholesky_ex(self.xx - threshold * torch.eye(len(self.xx), dtype=self.xx.dtype, device=self.xx.device))
        return bool(failed)

    def error(self, weight: Float[Tensor, "o k"]) -> float:
        """Return the mean squared error of a weight (o, k) with its best bias, summed over the outputs."""
        weight = weight.to(self.xx)
        return float(self.yy - 2 * (weight * self.yx).sum() + ((weight @ self.xx) * weight).sum())


def _least_norm(xx: Float64[Tensor, "k k"], yx: Map) -> Map:
    return yx @ torch.linalg.pinv(xx, hermitian=True) if len(xx) else yx


def widened(tensor: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
    """Return a tensor in single precision, or as it is in double."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


_Mean = tuple[Float[Tensor, " k"], Float[Tensor, " o"]] | None


def _first(means: Sequence[_Mean]) -> _Mean:
    return means[0]


class ComomentSum:
    """Accumulates a `Comoment` over chunks of rows.

    Products of a chunk are taken in single precision, about the mean of the first chunk, and summed in double: a chunk
    is short, the sum is long.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._parts: tuple[Float64[Tensor, " ..."], ...] | None = None
        self._shift: _Mean = None
        self._agreed = False

    def about(self, x: Inputs, y: Targets) -> None:
        """Take the products of what is added about the mean of these rows, which are not added: those of another part's first chunk."""
        if len(x) and self._shift is None:
            self._shift = widened(x).mean(0), widened(y).mean(0)

    def agree(self, x: Inputs, y: Targets) -> None:
        """Take products about the mean of the first rows of the first process in all that share the work; called before each `add`."""
        if not self._agreed:
            self._agreed = True
            self._shift = parallel.total((widened(x).mean(0), widened(y).mean(0)) if len(x) else None, _first)

    def add(self, x: Inputs, y: Targets, weights: Shaped[Tensor, " n"]) -> None:
        """Add rows x (n, k) with targets y (n, o) and weights (n,)."""
        if not len(x):
            return
        self._rows += len(x)
        x, y = widened(x), widened(y)
        # Weights are in single precision; the rows of a model in double precision are not.
        weights = weights.to(x.dtype)
        # A mean far from zero would cost digits of the variance.
        self._shift = self._shift or (x.mean(0), y.mean(0))
        x, y = x - self._shift[0], y - self._shift[1]
        scaled = x * weights[:, None]
        parts = (weights.sum(), scaled.sum(0), weights @ y, scaled.T @ x, y.T @ scaled, weights @ y.square().sum(1))
        wide = tuple(part.double() for part in parts)
        self._parts = wide if self._parts is None else tuple(a.add_(b) for a, b in zip(self._parts, wide, strict=True))

    @staticmethod
    def of(sums: Sequence[ComomentSum]) -> ComomentSum:
        """Return the sum of several, in their order."""
        whole = ComomentSum()
        for each in sums:
            whole._merge(each)
        return whole

    def _merge(self, other: ComomentSum) -> None:
        if other._parts is None or other._shift is None:
            return
        self._rows += other._rows
        if self._parts is None or self._shift is None:
            self._parts, self._shift = tuple(part.clone() for part in other._parts), other._shift
            return
        total, sum_x, sum_y, xx, yx, yy = other._parts
        # The other's rows are these and the difference between both means.
        dx, dy = (theirs.double() - ours.double() for theirs, ours in zip(other._shift, self._shift, strict=True))
        moved = (
            total,
            sum_x + total * dx,
            sum_y + total * dy,
            xx + torch.outer(sum_x, dx) + torch.outer(dx, sum_x) + total * torch.outer(dx, dx),
            yx + torch.outer(sum_y, dx) + torch.outer(dy, sum_x) + total * torch.outer(dy, dx),
            yy + 2 * (dy @ sum_y) + total * (dy @ dy),
        )
        self._parts = tuple(a.add_(b) for a, b in zip(self._parts, moved, strict=True))

    def finish(self) -> Comoment:
        """Return the co-moment of all rows added; raise StatisticsError if there were none, or if any was not finite."""
        if self._parts is None or self._shift is None or float(self._parts[0]) <= 0:
            raise StatisticsError("No calibration row carries any weight; give more calibration rows.")
        if not all(bool(torch.isfinite(part).all()) for part in self._parts):
            raise StatisticsError(
                "The activations of the calibration rows hold values that are not finite; the model or the rows are broken."
            )
        total, sum_x, sum_y, xx, yx, yy = self._parts
        mean_x, mean_y = sum_x / total, sum_y / total
        return Comoment(
            self._rows,
            float(total),
            mean_x + self._shift[0].double(),
            mean_y + self._shift[1].double(),
            xx / total - torch.outer(mean_x, mean_x),
            yx / total - torch.outer(mean_y, mean_x),
            float(yy / total - mean_y.square().sum()),
        )
