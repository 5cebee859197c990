"""A model on its way down: which units go for which goals, and what is solved anew after each step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.arch.count import Counts, count
from prunekit.arch.view import ModelView, Reader
from prunekit.errors import BudgetError, ParameterError, StatisticsError
from prunekit.plan import Plan
from prunekit.pruning.allocation import Candidates, Curve, Path, allocate, allocate_evenly, at_random, by_magnitude, elimination
from prunekit.pruning.costs import Cost, Goal
from prunekit.refit.refit import Damping, refit, stand_in
from prunekit.refit.solution import Solution
from prunekit.stats.blocks import Calls, Site, record_calls, sites
from prunekit.stats.sensitivity import Sensitivity, sensitivity
from prunekit.transforms.apply import apply, settled
from prunekit.transforms.cut import cut, prunable

Choice = Literal["cost", "random", "magnitude"]
Tighten = Callable[[ModelView], Sequence[Goal] | None]
"""Given a cut model: the goals that it must meet instead, or None if it will do."""


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A slim model and the plan that names its units in the dense model's numbering.

    Attributes
    ----------
    model : nn.Module
    plan : Plan
    steps : tuple of dict
        Share of the parameters of the layers ("params") and of the multiply-accumulates ("macs") left after each step.
    solutions : tuple of Solution
        The least-squares solutions of the last step.
    """

    model: nn.Module
    plan: Plan
    steps: tuple[dict[str, float], ...] = ()
    solutions: tuple[Solution, ...] = ()


@dataclass(frozen=True)
class Shape:
    """What the widths that are kept must look like.

    Attributes
    ----------
    uniform : bool
        Every block keeps the same number of FFN neurons, so that stock classes load the result. Heads then go only where
        the family's config can say that there are fewer (a head size of its own), and then equally many everywhere.
    multiple_of : int
        FFN widths are multiples of this.
    """

    uniform: bool = False
    multiple_of: int = 1

    def stops(self, site: Site, units: int) -> tuple[int, ...]:
        """How many of a site's `units` may go."""
        step = self.multiple_of if site.role == "ffn" else 1
        return tuple(gone for gone in range(units + 1) if (units - gone) % step == 0 and not (self.uniform and gone == units))


@dataclass(frozen=True)
class Origin:
    """What shares and costs are taken of, where that is not the model that comes in.

    Attributes
    ----------
    lengths : ndarray of int, optional
        Real lengths of the data's rows, for MACs; default: those of the calibration rows.
    full : Counts, optional
        What shares are taken of; default: the model that comes in. Another where it has lost blocks already.
    kept : callable, optional
        Says which units a site of a model has that has been cut already; what such a model computes now is what is aimed at.
    """

    lengths: NDArray[np.integer] | None = None
    full: Counts | None = None
    kept: Callable[[Site], tuple[int, ...]] | None = None


@dataclass
class _State:
    """The slim model under way; `kept` numbers its units as the dense model does."""

    view: ModelView
    kept: dict[Site, tuple[int, ...]] = field(default_factory=dict)

    def cut(self, site: Site, gone: Sequence[int]) -> None:
        """Remove the units at these places of those that are left."""
        units, lost = self.kept[site], set(gone)
        stay = tuple(place for place in range(len(units)) if place not in lost)
        if lost:
            cut(self.view, site, stay, len(units))
            self.kept[site] = tuple(units[place] for place in stay)

    def copy(self) -> _State:
        """One that can be cut alone."""
        return _State(ModelView.of(copy.deepcopy(self.view.model)), dict(self.kept))


@dataclass(frozen=True)
class _Felt:
    """What the task feels of a state, and the orders in which its sites give their units up, as far as they have been worked out."""

    found: Mapping[Site, Sensitivity]
    paths: dict[tuple[Choice, int], dict[Site, Path]] = field(default_factory=dict)


class Shrinker:
    """A model on its way down, step by step: what a step leaves can be kept, and gone on from.

    Parameters
    ----------
    model : PreTrainedModel or ReadoutModel
        Dense model with or without a head, or one that reads chosen neurons; it is left as it is.
    batches : sequence of dict
        Tokenised calibration rows.
    origin : Origin
    shape : Shape
    choice, damping, seed
        As in `shrink`.

    Raises
    ------
    ParameterError, StatisticsError
        As in `shrink`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Mapping[str, Tensor]],
        *,
        origin: Origin | None = None,
        shape: Shape | None = None,
        choice: Choice = "cost",
        damping: Damping | None = None,
        seed: int = 0,
    ) -> None:
        origin, self.shape = origin or Origin(), shape or Shape()
        self.dense = ModelView.of(model)
        _check(self.dense, batches, self.shape.multiple_of)
        lengths = origin.lengths
        if lengths is None:
            lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).numpy()
        self.batches, self.lengths, self.start = batches, lengths, origin.full or count(self.dense, lengths)
        self.choice, self.damping, self.seed, self.draw = choice, damping, seed, 0
        # A model with a readout has been cut already, and remembers its dense config.
        copied = copy.deepcopy(model) if isinstance(model, Reader) else apply(model, Plan(source=self.dense.source))
        kept = origin.kept or (lambda site: tuple(range(self.dense.units(site.role, site.block))))
        sizes = {site: kept(site) for site in sites(self.dense) if _may_go(self.dense, site, self.shape)}
        self._state = _State(ModelView.of(copied), sizes)
        self._calls: Calls | None = None
        self._felt: _Felt | None = None
        self._taken = 0
        self.trace: tuple[dict[str, float], ...] = ()
        self.solutions: tuple[Solution, ...] = ()

    @property
    def view(self) -> ModelView:
        """The slim model as it is now."""
        return self._state.view

    @property
    def kept(self) -> dict[Site, tuple[int, ...]]:
        """Units that are left of every site whose units may go, in the dense model's numbering."""
        return dict(self._state.kept)

    @property
    def removable(self) -> bool:
        """Whether there is anything that may go."""
        return bool(self._state.kept)

    @property
    def fits(self) -> bool:
        """Whether the widths are what they must look like."""
        return all(not self.shape.stops(site, len(kept))[0] for site, kept in self._state.kept.items())

    def fork(self, choice: Choice | None = None, *, draw: int = 0) -> Shrinker:
        """Another one that starts from here, and may choose otherwise; this one can go on without it.

        `draw` is the number of a choice at random, where there are several.
        """
        self._record()
        if self.removable:
            self._feel()
        twin = copy.copy(self)
        twin._state, twin.choice, twin.draw = self._state.copy(), choice or self.choice, draw
        return twin

    def check_reach(self, goals: Sequence[Goal]) -> None:
        """Raise BudgetError if a goal does not hold even with as few units as may be."""
        least = self._least()
        for goal in goals:
            if not goal.met(least):
                heads = not self.removable or any(site.role == "heads" for site in self._state.kept)
                which = "heads and FFN neurons" if heads else f"FFN neurons ({_why_heads_stay(self.view, self.shape)})"
                left = goal.cost.tell(goal.cost.of(least), goal.full)
                raise BudgetError(f"{goal.asked} cannot be met by removing {which}: with as few as may be, {left} is left.")

    def least(self, cost: Cost) -> float:
        """What is left of a cost with as few units as may be."""
        return cost.of(self._least())

    def _least(self) -> ModelView:
        state = self._state.copy()
        for site, units in self._state.kept.items():
            state.cut(site, range(self.shape.stops(site, len(units))[-1]))
        return state.view

    def step(self, goals: Sequence[Goal], tighten: Tighten | None = None) -> None:
        """Remove the cheapest units until every goal holds, and solve what stays anew.

        Parameters
        ----------
        goals : sequence of Goal
        tighten : callable, optional
            Given the cut model before it is solved anew: the goals to meet instead, or None if it will do.

        Raises
        ------
        StatisticsError
            If the calibration rows are degenerate.
        """
        calls, felt = self._record(), self._feel()
        choose = self._chooser(felt)
        wanted: Sequence[Goal] | None = goals
        while wanted is not None:
            goals, gone = wanted, choose(wanted)
            tried = self._state if tighten is None else self._state.copy()
            for site, units in gone.items():
                tried.cut(site, units)
            wanted = None if tighten is None else tighten(tried.view)
        self._state, self._felt = tried, None
        weights = {site: found.weights for site, found in felt.found.items()}
        self.solutions = refit(self.view, self.dense, self.batches, weights=weights, damping=self.damping, calls=calls)
        self._note()

    def trim(self, goals: Sequence[Goal], *, recover: bool = True) -> None:
        """A cheap `step`: units that stay stand in for those that go from their own site, by the moments that chose them.

        No further pass over the rows is made, so what one site lacks is not made up for at another (Kwon et al. 2022 solve alike).

        Parameters
        ----------
        goals : sequence of Goal
        recover : bool
            False: cut alone.

        Raises
        ------
        StatisticsError
            If the calibration rows are degenerate.
        """
        felt = self._feel()
        damping = (self.damping or Damping()).projection
        for site, units in self._chooser(felt, share=8)(goals).items():
            moment, projection = felt.found[site].units, site.projection(self.view)
            assert moment is not None
            assert projection is not None
            columns = torch.arange(len(moment.xx)).reshape(len(self._state.kept[site]), -1)[list(units)].flatten()
            lost = moment.lost(columns, projection.weight) if recover and units else None
            self._state.cut(site, units)
            if lost is not None:
                with torch.no_grad():
                    stand_in(self.view, site, lost, damping)
        self._felt = None
        self._note()

    def _chooser(self, felt: _Felt, *, share: int = 32) -> _Choice:
        self._taken += 1
        paths = felt.paths.setdefault((self.choice, self.draw), {})
        return _Choice(
            self._state, felt.found, self.shape, _chooser(self.choice, (self.draw << 32) + self.seed + self._taken, share), paths
        )

    def _feel(self) -> _Felt:
        """What the task feels of the state as it is, which all forks from here share."""
        self._felt = self._felt or _Felt(sensitivity(self.view, self.batches, seed=self.seed + self._taken + 1, units=True))
        return self._felt

    def _record(self) -> Calls:
        """The dense model's calls, which all forks share."""
        self._calls = self._calls or record_calls(self.dense, self.batches)
        return self._calls

    def _note(self) -> None:
        now = count(self.view, self.lengths)
        # A model without blocks has lost all there was.
        shares = {"params": now.params_layers / max(self.start.params_layers, 1), "macs": now.macs / max(self.start.macs, 1.0)}
        self.trace = (*self.trace, shares)

    def result(self) -> Shrunk:
        """The model as it is now, and its plan."""
        if not self.trace:
            self._note()
        plan = plan_of(self.dense, self._state.kept)
        return Shrunk(settled(self.dense.model, plan, self.view.model), plan, self.trace, self.solutions)


def _check(dense: ModelView, batches: Sequence[Mapping[str, Tensor]], multiple_of: int) -> None:
    if not 1 <= multiple_of <= dense.source.ffn:
        raise ParameterError("multiple_of", "shrink", f"between 1 and the model's FFN width, {dense.source.ffn}", multiple_of)
    if not batches:
        raise StatisticsError("There are no calibration rows; give some.")


def _may_go(dense: ModelView, site: Site, shape: Shape) -> bool:
    if site.role == "heads" and shape.uniform and not (dense.spec.free_head_dim and getattr(dense.config, "head_dim", None)):
        return False
    return prunable(dense, site)


def _why_heads_stay(view: ModelView, shape: Shape) -> str:
    return "heads stay: uniform widths cannot say that there are fewer" if shape.uniform else "heads stay"


def plan_of(dense: ModelView, kept: Mapping[Site, tuple[int, ...]]) -> Plan:
    """The plan that keeps these units, in the dense model's numbering."""
    chosen: dict[str, dict[int, tuple[int, ...]]] = {"heads": {}, "ffn": {}}
    for site, units in kept.items():
        if len(units) < dense.units(site.role, site.block):
            for block in range(dense.num_layers) if dense.spec.shared_blocks else [site.block]:
                chosen[site.role][block] = units
    return Plan(source=dense.source, heads=chosen["heads"], ffn=chosen["ffn"])


class _Choice:
    """Which units go for which goals, in the order in which each site gives them up."""

    def __init__(
        self,
        state: _State,
        felt: Mapping[Site, Sensitivity],
        shape: Shape,
        chooser: Callable[[Candidates], Path],
        paths: dict[Site, Path],
    ) -> None:
        self.view, self.shape = state.view, shape
        self.units = {site: len(kept) for site, kept in state.kept.items() if kept}
        self.felt, self.chooser = felt, chooser
        self.paths = paths

    def __call__(self, goals: Sequence[Goal]) -> dict[Site, tuple[int, ...]]:
        """The places of the units of each site that go so that every goal holds."""
        stops = {site: self.shape.stops(site, number) for site, number in self.units.items()}
        for goal in goals:
            excess = goal.cost.of(self.view) - goal.limit
            if excess <= 0 and not any(first[0] for first in stops.values()):
                continue
            prices = {site: goal.cost.each(self.view, site, number) for site, number in self.units.items()}
            if not self.paths:
                self.paths.update({site: self.chooser(self._candidates(site, price)) for site, price in prices.items()})
            curves = {site: Curve(self.paths[site].cost, prices[site], stops[site], goal.cost.last(self.view, site)) for site in self.units}
            gone = _allocate(curves, excess, self.shape)
            # The next goal can only take more.
            stops = {site: tuple(stop for stop in stops[site] if stop >= gone[site]) for site in curves}
        return {site: path.order[: stops[site][0]] for site, path in self.paths.items()}

    def _candidates(self, site: Site, price: float) -> Candidates:
        projection, found = site.projection(self.view), self.felt[site]
        assert projection is not None
        assert found.covariance is not None
        weight = projection.weight.double().numpy()
        return Candidates(found.covariance.numpy(), weight, found.metric.numpy(), self.units[site], price)


def _allocate(curves: Mapping[Site, Curve], excess: float, shape: Shape) -> dict[Site, int]:
    if not shape.uniform:
        return allocate(curves, excess)
    groups = [{site: curve for site, curve in curves.items() if site.role == role} for role in ("heads", "ffn")]
    gone = allocate_evenly(groups, excess)
    # That as few as may be suffice was seen at the start.
    assert gone is not None
    return gone


def _chooser(choice: Choice, seed: int, share: int) -> Callable[[Candidates], Path]:
    if choice == "cost":
        return partial(elimination, share=share)
    if choice == "magnitude":
        return by_magnitude
    generator = np.random.default_rng(seed)
    return lambda site: at_random(site, generator)
