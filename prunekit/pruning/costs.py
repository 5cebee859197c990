"""What a model costs in the unit of a budget, and what each of its units takes of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.budget import Unit
from prunekit.pruning.latency_model import LatencyTable, Prices, Widths
from prunekit.stats.blocks import ROLES, Role, Site, sites
from prunekit.transforms.cut import unit_price


class Cost(ABC):
    """A cost that is linear in the heads and FFN neurons of every block."""

    #: What removing units cannot save.
    fixed: float = 0.0

    @abstractmethod
    def of(self, view: ModelView) -> float:
        """Of the whole model."""

    @abstractmethod
    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Of one of the `units` that a site has."""

    def last(self, view: ModelView, site: Site) -> float:
        """What the last unit of a site frees on top of its own price."""
        return 0.0

    @abstractmethod
    def tell(self, value: float, full: float) -> str:
        """A value as people read it, beside that of the dense model."""


@dataclass(frozen=True, eq=False)
class Goal:
    """A cost that must not be above a limit.

    Attributes
    ----------
    cost : Cost
    limit : float
    full : float
        What the dense model costs.
    asked : str
        What the user asked for, for messages.
    """

    cost: Cost
    limit: float
    full: float
    asked: str

    @property
    def share(self) -> float:
        """How much of what can be saved at all is kept at the limit."""
        return (self.limit - self.cost.fixed) / max(self.full - self.cost.fixed, 1e-12)

    def at(self, share: float) -> Goal:
        """The same goal at another share."""
        return replace(self, limit=self.cost.fixed + share * (self.full - self.cost.fixed))

    def met(self, view: ModelView) -> bool:
        """Whether a model keeps to it."""
        return self.cost.of(view) <= self.limit * (1 + 1e-9)


@dataclass(frozen=True)
class Params(Cost):
    """Parameters of the layers."""

    def of(self, view: ModelView) -> float:
        """Parameters."""
        return float(count(view, np.ones(1, dtype=np.int64)).params_layers)

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Parameters."""
        return unit_price(view, site, units, Unit.PARAMS, np.ones(1, dtype=np.int64))

    def tell(self, value: float, full: float) -> str:
        """A share."""
        return f"{value / max(full, 1.0):.1%} of the params"


@dataclass(frozen=True, eq=False)
class Macs(Cost):
    """Mean multiply-accumulates per row of these real lengths."""

    lengths: NDArray[np.integer]

    def of(self, view: ModelView) -> float:
        """Multiply-accumulates."""
        return count(view, self.lengths).macs

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Multiply-accumulates."""
        return unit_price(view, site, units, Unit.MACS, self.lengths)

    def tell(self, value: float, full: float) -> str:
        """A share."""
        return f"{value / max(full, 1.0):.1%} of the macs"


@dataclass(frozen=True)
class Bytes(Params):
    """Bytes of the deployed file.

    Attributes
    ----------
    fixed : float
        Of all but the layers' parameters.
    each_parameter : float
    """

    fixed: float = 0.0
    each_parameter: float = 4.0

    def of(self, view: ModelView) -> float:
        """Bytes."""
        return self.fixed + self.each_parameter * super().of(view)

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """Bytes."""
        return self.each_parameter * super().each(view, site, units)

    def tell(self, value: float, full: float) -> str:
        """Megabytes."""
        return f"{value / 1e6:.2f} MB"


@dataclass(frozen=True)
class Latency(Cost):
    """Time as a share of the dense model's, by a table.

    Attributes
    ----------
    table : LatencyTable
    head_width : int
        Inputs of the output projection that one head gives.
    """

    table: LatencyTable
    head_width: int

    def of(self, view: ModelView) -> float:
        """A share."""
        return self.table.share(widths_of(view, self.head_width))

    def each(self, view: ModelView, site: Site, units: int) -> float:
        """A share."""
        return sum(prices.head if site.role == "heads" else prices.neuron for prices in self._prices(view, site))

    def last(self, view: ModelView, site: Site) -> float:
        """A share; what the blocks below the highest attention save when it goes is not in it, since that depends on what they keep."""
        return sum(prices.attention if site.role == "heads" else prices.ffn for prices in self._prices(view, site))

    def tell(self, value: float, full: float) -> str:
        """A share, and what it makes."""
        return f"{value:.1%} of the time ({1 / value:.2f}x as fast) at batch {self.table.batch}"

    def _prices(self, view: ModelView, site: Site) -> list[Prices]:
        """Of the block that a site is in, for each time that it runs."""
        blocks = range(_depth(view)) if view.spec.shared_blocks else (site.block,)
        top = widths_of(view, self.head_width).top
        return [self.table.prices(block, top) for block in blocks]


def _depth(view: ModelView) -> int:
    """How many blocks run."""
    return view.num_layers if view.spec.shared_blocks else min(len(view.blocks), view.num_layers)


def head_width(view: ModelView) -> int:
    """Inputs of the output projection that one head of a dense model gives; 1 if it has none."""
    found = ((site, site.projection(view)) for site in sites(view) if site.role == "heads")
    return next((each.weight.shape[1] // view.units("heads", site.block) for site, each in found if each is not None), 1)


def widths_of(view: ModelView, head_width: int) -> Widths:
    """The heads and FFN neurons that each block of a live model has."""
    found: dict[Role, list[int]] = {role: [] for role in ROLES}
    for site in sites(view):
        projection = site.projection(view)
        inputs = 0 if projection is None else projection.weight.shape[1]
        found[site.role] += [inputs // (head_width if site.role == "heads" else 1)] * (_depth(view) if view.spec.shared_blocks else 1)
    return Widths(tuple(found["heads"]), tuple(found["ffn"]))
