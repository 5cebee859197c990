"""Cost of a model, and of each of its units, in the unit of a budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from prunekit.arch.count import count, macs_per_token
from prunekit.arch.view import ModelView, find
from prunekit.budget import Unit
from prunekit.pruning.latency_model import LatencyTable, Prices, Widths
from prunekit.stats.blocks import ROLES, Role, Site, sites
from prunekit.transforms.stubs import Affine
from prunekit.validation.dtypes import Dtype


class Cost(ABC):
    """A cost that is linear in the heads and FFN neurons of every block."""

    #: Part of the cost that removing units cannot save.
    fixed: float = 0.0

    @abstractmethod
    def of(self, view: ModelView) -> float:
        """Return the cost of a model."""

    @abstractmethod
    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Return the cost of one of the `units` of a site."""

    def last(self, view: ModelView, site: Site) -> float:
        """Return what removing the last unit of a site frees on top of its own price."""
        return 0.0

    @abstractmethod
    def format(self, value: float, full: float) -> str:
        """Format a value for people, relative to that of the dense model."""


@dataclass(frozen=True, eq=False)
class Goal:
    """An upper limit on a cost.

    Attributes
    ----------
    cost : Cost
    limit : float
    full : float
        Cost of the dense model.
    description : str
        Request of the user, for messages.
    """

    cost: Cost
    limit: float
    full: float
    description: str

    @property
    def share(self) -> float:
        """Share of the removable cost that is kept at the limit."""
        return (self.limit - self.cost.fixed) / max(self.full - self.cost.fixed, 1e-12)

    def at(self, share: float) -> Goal:
        """Return the same goal at another share."""
        return replace(self, limit=self.cost.fixed + share * (self.full - self.cost.fixed))

    def met(self, view: ModelView) -> bool:
        """Return whether a model meets the goal."""
        return self.cost.of(view) <= self.limit * (1 + 1e-9)


@final
@dataclass(frozen=True)
class Params(Cost):
    """Cost in parameters of the layers."""

    def of(self, view: ModelView) -> float:
        """Return the number of parameters of the layers."""
        return float(count(view, np.ones(1, dtype=np.int64)).params_layers)

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Return the number of parameters of one unit."""
        return unit_price(view, site, units, Unit.PARAMS, np.ones(1, dtype=np.int64))

    def format(self, value: float, full: float) -> str:
        """Format a number of parameters as a share of the dense model's."""
        return f"{value / max(full, 1.0):.1%} of the params"


@final
@dataclass(frozen=True, eq=False)
class Macs(Cost):
    """Cost in mean multiply-accumulates per row at these real lengths."""

    lengths: NDArray[np.integer]

    def of(self, view: ModelView) -> float:
        """Return the multiply-accumulates of a model."""
        return count(view, self.lengths).macs

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Return the multiply-accumulates of one unit."""
        return unit_price(view, site, units, Unit.MACS, self.lengths)

    def format(self, value: float, full: float) -> str:
        """Format multiply-accumulates as a share of the dense model's."""
        return f"{value / max(full, 1.0):.1%} of the macs"


@final
@dataclass(frozen=True)
class Bytes(Cost):
    """Cost in bytes of the deployed file.

    Attributes
    ----------
    fixed : float
        Bytes of all but the layers' parameters.
    each_parameter : float
        Bytes of one parameter.
    dtype : Dtype
        Type of the file's weights.
    gone : float
        Bytes of tokens that are removed after the units, so that `fixed` is without them.
    """

    fixed: float = 0.0
    each_parameter: float = 4.0
    dtype: Dtype = "fp32"
    gone: float = 0.0

    def of(self, view: ModelView) -> float:
        """Return the size of the file in bytes."""
        return self.fixed + self.each_parameter * Params().of(view)

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Return the bytes of one unit."""
        return self.each_parameter * Params().each(view, site, units)

    def format(self, value: float, full: float) -> str:
        """Format bytes as megabytes."""
        return f"{value / 1e6:.2f} MB"


@final
@dataclass(frozen=True)
class Latency(Cost):
    """Predicted time as a share of the dense model's.

    Attributes
    ----------
    table : LatencyTable
    head_width : int
        Inputs of the output projection that belong to one head.
    """

    table: LatencyTable
    head_width: int

    def of(self, view: ModelView) -> float:
        """Return the predicted time of a model as a share."""
        return self.table.share(widths_of(view, self.head_width))

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Return the predicted time of one unit as a share."""
        return sum(prices.head if site.role == "heads" else prices.neuron for prices in self._prices(view, site))

    def last(self, view: ModelView, site: Site) -> float:
        """Return the share that an empty sub-block frees.

        Excluded is what the blocks below the highest attention save when it goes, since that depends on what they keep.
        """
        return sum(prices.attention if site.role == "heads" else prices.ffn for prices in self._prices(view, site))

    def format(self, value: float, full: float) -> str:
        """Format a share of the time, and the speed-up that it makes."""
        return f"{value:.1%} of the time ({1 / value:.2f}x as fast) at batch {self.table.batch}"

    def _prices(self, view: ModelView, site: Site) -> list[Prices]:
        """Return the prices of the block of a site, once for each time that the block runs."""
        blocks = range(_depth(view)) if view.spec.shared_blocks else (site.block,)
        top = widths_of(view, self.head_width).top
        return [self.table.prices(block, top) for block in blocks]


def _depth(view: ModelView) -> int:
    """Return the number of blocks that run."""
    return view.num_layers if view.spec.shared_blocks else min(len(view.blocks), view.num_layers)


def head_width(view: ModelView) -> int:
    """Return the inputs of the output projection per head of a dense model; 1 if it has no heads."""
    projections = ((site, site.projection(view)) for site in sites(view) if site.role == "heads")
    return next(
        (projection.weight.shape[1] // view.units("heads", site.block) for site, projection in projections if projection is not None), 1
    )


def widths_of(view: ModelView, head_width: int) -> Widths:
    """Return the numbers of heads and FFN neurons of each block of a live model."""
    widths: dict[Role, list[int]] = {role: [] for role in ROLES}
    for site in sites(view):
        projection = site.projection(view)
        # An affine map has no neurons: its time is that of what is not cut.
        gone = projection is None or isinstance(find(view.blocks[site.block], site.part(view).output), Affine)
        inputs = 0 if gone or projection is None else projection.weight.shape[1]
        widths[site.role] += [inputs // (head_width if site.role == "heads" else 1)] * (_depth(view) if view.spec.shared_blocks else 1)
    return Widths(tuple(widths["heads"]), tuple(widths["ffn"]))


def unit_price(view: ModelView, site: Site, units: int, unit: Unit, lengths: NDArray[np.integer]) -> float:
    """Return the cost of one of the `units` heads or FFN neurons of a site, as `arch.count` counts it.

    Parameters of the layers for `Unit.PARAMS`, else mean multiply-accumulates per row of these lengths.
    """
    block, spec = view.blocks[site.block], view.spec
    parameters, per_token = 0.0, 0.0
    for name, axes in spec.block.items():
        parameter = find(block, name)
        if parameter is None or not any(axis is not None and axis.role == site.role for axis in axes):
            continue
        parameters += parameter.numel() / units
        per_token += macs_per_token(block, name, parameter, spec) / units
    if unit is Unit.PARAMS:
        return parameters
    tokens, head_width = lengths.astype(np.float64), 0.0
    projection = site.projection(view)
    if site.role == "heads" and projection is not None:
        head_width = projection.weight.shape[1] / units
    passes = view.num_layers if spec.shared_blocks else 1
    return float(passes * (per_token * tokens.mean() + 2 * head_width * np.square(tokens).mean()))
