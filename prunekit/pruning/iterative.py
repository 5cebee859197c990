"""Iterative pruning: selection of the units to remove for a set of goals, and the refit after each step."""

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
from prunekit.arch.view import ModelView, Reader, evaluated
from prunekit.errors import BudgetError, ParameterError
from prunekit.plan import Plan
from prunekit.pruning.allocation import Candidates, Curve, Path, allocate, allocate_evenly, at_random, by_magnitude, elimination
from prunekit.pruning.costs import Cost, Goal
from prunekit.refit.records import Solution
from prunekit.refit.refit import Damping, refit, stand_in
from prunekit.stats.blocks import Calls, Site, record_calls, sites
from prunekit.stats.sensitivity import Sensitivity, check_batches, sensitivity
from prunekit.transforms.apply import apply, check_uncut, settled
from prunekit.transforms.cut import cut, prunable

Criterion = Literal["cost", "random", "magnitude"]
Tighten = Callable[[ModelView], Sequence[Goal] | None]
"""Called with a cut model; returns the goals that it must meet instead, or None to accept it."""


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
    """Constraints on the widths that are kept.

    Attributes
    ----------
    uniform : bool
        Whether every block keeps the same number of FFN neurons, so that stock classes load the result. Heads are then
        removed only where the family's config can express it (by a separate head size), and equally many everywhere.
    multiple_of : int
        FFN widths are multiples of this.
    """

    uniform: bool = False
    multiple_of: int = 1

    def stops(self, site: Site, units: int) -> tuple[int, ...]:
        """Return the numbers of units that may be removed from a site of `units`."""
        step = self.multiple_of if site.role == "ffn" else 1
        return tuple(gone for gone in range(units + 1) if (units - gone) % step == 0 and not (self.uniform and gone == units))


@dataclass(frozen=True)
class Origin:
    """Reference of shares and costs, where it is not the model that is passed in.

    Attributes
    ----------
    lengths : ndarray of int, optional
        Real lengths of the data's rows, for MACs; default: those of the calibration rows.
    full : Counts, optional
        Counts that shares refer to; default: those of the model. They differ where it has already lost blocks.
    kept : callable, optional
        Returns the units that a site of an already cut model has; the target is then what that model computes now.
    """

    lengths: NDArray[np.integer] | None = None
    full: Counts | None = None
    kept: Callable[[Site], tuple[int, ...]] | None = None


@dataclass
class _State:
    """The slim model during pruning; `kept` holds its units in the dense model's numbering.

    `shared` says that it is still the dense model itself, which is copied before anything is removed from it.
    """

    view: ModelView
    kept: dict[Site, tuple[int, ...]] = field(default_factory=dict)
    shared: bool = False

    def cut(self, site: Site, gone: Sequence[int]) -> None:
        """Remove the units at these positions among those that are left."""
        units, removed = self.kept[site], set(gone)
        staying = tuple(position for position in range(len(units)) if position not in removed)
        if removed:
            cut(self.view, site, staying, len(units))
            self.kept[site] = tuple(units[position] for position in staying)

    def copy(self) -> _State:
        """Return an independent copy."""
        model = self.view.model
        # A model with a readout has been cut already, and keeps its dense config.
        dense = self.shared and not isinstance(model, Reader)
        copied = apply(model, Plan(source=self.view.source)) if dense else copy.deepcopy(model)
        return _State(ModelView.of(copied), dict(self.kept))

    def owned(self) -> _State:
        """Return a state of which the model may be changed."""
        return self.copy() if self.shared else self


@dataclass(frozen=True)
class _Sensitivities:
    """Sensitivities of a state, and the elimination paths of its sites as far as they have been computed."""

    by_site: Mapping[Site, Sensitivity]
    paths: dict[tuple[Criterion, int], dict[Site, Path]] = field(default_factory=dict)


class IterativePruner:
    """Iterative pruning of a model, step by step: the result of each step can be kept, and pruned further.

    Parameters
    ----------
    model : PreTrainedModel or ReadoutModel
        Dense model with or without a head, or one that reads selected neurons; it is not changed.
    batches : sequence of dict
        Tokenised calibration rows.
    origin : Origin
    shape : Shape
    criterion, damping, seed
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
        criterion: Criterion = "cost",
        damping: Damping | None = None,
        seed: int = 0,
    ) -> None:
        origin, self.shape = origin or Origin(), shape or Shape()
        # What a Trainer leaves is in training mode, where dropout would be measured.
        model = evaluated(model)
        self.dense = ModelView.of(model)
        _check(self.dense, batches, self.shape.multiple_of)
        lengths = origin.lengths
        if lengths is None:
            lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).numpy()
        self.batches, self.lengths, self.start = batches, lengths, origin.full or count(self.dense, lengths)
        self.criterion, self.damping, self.seed, self.draw = criterion, damping, seed, 0
        if not isinstance(model, Reader):
            check_uncut(self.dense)
        kept = origin.kept or (lambda site: tuple(range(self.dense.units(site.role, site.block))))
        sizes = {site: kept(site) for site in sites(self.dense) if _is_removable(self.dense, site, self.shape)}
        self._state = _State(self.dense, sizes, shared=True)
        self._dense_calls: Calls | None = None
        self._sensitivities: _Sensitivities | None = None
        self._steps_taken = 0
        self.trace: tuple[dict[str, float], ...] = ()
        self.solutions: tuple[Solution, ...] = ()

    @property
    def view(self) -> ModelView:
        """The slim model in its current state."""
        return self._state.view

    @property
    def kept(self) -> dict[Site, tuple[int, ...]]:
        """Units that are left at every site whose units may be removed, in the dense model's numbering."""
        return dict(self._state.kept)

    @property
    def removable(self) -> bool:
        """Whether there are units that may be removed."""
        return bool(self._state.kept)

    @property
    def fits(self) -> bool:
        """Whether the widths satisfy the constraints."""
        return all(not self.shape.stops(site, len(kept))[0] for site, kept in self._state.kept.items())

    def fork(self, criterion: Criterion | None = None, *, draw: int = 0) -> IterativePruner:
        """Return an independent copy that continues from here, possibly with another criterion.

        `draw` is the number of a random selection, where there are several.
        """
        self._record_dense_calls()
        if self.removable:
            self._measure_sensitivities()
        forked = copy.copy(self)
        forked._state, forked.criterion, forked.draw = self._state.copy(), criterion or self.criterion, draw
        return forked

    @property
    def moment_bytes(self) -> int:
        """Bytes of the moments of the units, which sensitivities hold in float64."""
        widths = [projection.weight.shape[1] for site in self._state.kept if (projection := site.projection(self.view)) is not None]
        return sum(8 * width**2 for width in widths)

    def forget(self) -> None:
        """Drop the statistics, which are computed again if a step or a fork needs them."""
        self._dense_calls = self._sensitivities = None

    def check_reach(self, goals: Sequence[Goal]) -> None:
        """Raise BudgetError if a goal is not met even with the fewest units allowed."""
        least = self._smallest_view()
        for goal in goals:
            if not goal.met(least):
                heads = not self.removable or any(site.role == "heads" for site in self._state.kept)
                units = "heads and FFN neurons" if heads else f"FFN neurons ({_why_heads_stay(self.view, self.shape)})"
                left = goal.cost.format(goal.cost.of(least), goal.full)
                raise BudgetError(f"{goal.description} cannot be met by removing {units}: with as few as may be, {left} is left.")

    def least(self, cost: Cost) -> float:
        """Return the cost with the fewest units allowed."""
        return cost.of(self._smallest_view())

    def _smallest_view(self) -> ModelView:
        state = self._state.copy()
        for site, units in self._state.kept.items():
            state.cut(site, range(self.shape.stops(site, len(units))[-1]))
        return state.view

    def step(self, goals: Sequence[Goal], tighten: Tighten | None = None) -> None:
        """Remove the cheapest units until every goal holds, and refit the rest.

        Parameters
        ----------
        goals : sequence of Goal
        tighten : callable, optional
            Called with the cut model before the refit; returns the goals to meet instead, or None to accept it.

        Raises
        ------
        StatisticsError
            If the calibration rows are degenerate.
        """
        calls, sensitivities = self._record_dense_calls(), self._measure_sensitivities()
        select = self._selection(sensitivities)
        tightened: Sequence[Goal] | None = goals
        while tightened is not None:
            goals, removed = tightened, select(tightened)
            candidate = self._state.owned() if tighten is None else self._state.copy()
            for site, units in removed.items():
                candidate.cut(site, units)
            tightened = None if tighten is None else tighten(candidate.view)
        self._state, self._sensitivities = candidate, None
        weights = {site: measured.weights for site, measured in sensitivities.by_site.items()}
        # Moments of the units, a third of a large model's weights and more, are not held beside the states of the refit.
        del sensitivities, select
        self.solutions = refit(self.view, self.dense, self.batches, weights=weights, damping=self.damping, calls=calls)
        self._append_shares()

    def trim(self, goals: Sequence[Goal], *, recover: bool = True) -> None:
        """Take a cheap step: the units that stay are refitted for those removed from their own site, by the moments that selected them.

        No further pass over the rows is made, so the error of one site is not compensated at another (Kwon et al. 2022 solve alike).

        Parameters
        ----------
        goals : sequence of Goal
        recover : bool
            Whether to refit; False: only remove.

        Raises
        ------
        StatisticsError
            If the calibration rows are degenerate.
        """
        sensitivities, self._state = self._measure_sensitivities(), self._state.owned()
        damping = (self.damping or Damping()).projection
        for site, units in self._selection(sensitivities, share=8)(goals).items():
            moment, projection = sensitivities.by_site[site].units, site.projection(self.view)
            assert moment is not None
            assert projection is not None
            columns = torch.arange(len(moment.xx)).reshape(len(self._state.kept[site]), -1)[list(units)].flatten()
            lost = moment.lost(columns, projection.weight) if recover and units else None
            self._state.cut(site, units)
            if lost is not None:
                with torch.no_grad():
                    stand_in(self.view, site, lost, damping)
        self._sensitivities = None
        self._append_shares()

    def _selection(self, sensitivities: _Sensitivities, *, share: int = 32) -> _Selection:
        self._steps_taken += 1
        paths = sensitivities.paths.setdefault((self.criterion, self.draw), {})
        order = _path_by(self.criterion, (self.draw << 32) + self.seed + self._steps_taken, share)
        return _Selection(self._state, sensitivities.by_site, self.shape, order, paths)

    def _measure_sensitivities(self) -> _Sensitivities:
        """Return the sensitivities of the current state, which all forks from here share."""
        self._sensitivities = self._sensitivities or _Sensitivities(
            sensitivity(self.view, self.batches, seed=self.seed + self._steps_taken + 1, units=True)
        )
        return self._sensitivities

    def _record_dense_calls(self) -> Calls:
        """Return the calls of the dense model, which all forks share."""
        self._dense_calls = self._dense_calls or record_calls(self.dense, self.batches)
        return self._dense_calls

    def _append_shares(self) -> None:
        counts = count(self.view, self.lengths)
        # The denominators of a model without blocks are 0.
        shares = {"params": counts.params_layers / max(self.start.params_layers, 1), "macs": counts.macs / max(self.start.macs, 1.0)}
        self.trace = (*self.trace, shares)

    def result(self) -> Shrunk:
        """Return the current model and its plan."""
        if not self.trace:
            self._append_shares()
        self._state = self._state.owned()
        plan = plan_of(self.dense, self._state.kept)
        return Shrunk(settled(self.dense.model, plan, self.view.model), plan, self.trace, self.solutions)


def _check(dense: ModelView, batches: Sequence[Mapping[str, Tensor]], multiple_of: int) -> None:
    if not 1 <= multiple_of <= dense.source.ffn:
        raise ParameterError("multiple_of", "shrink", f"between 1 and the model's FFN width, {dense.source.ffn}", multiple_of)
    check_batches(dense, batches)


def _is_removable(dense: ModelView, site: Site, shape: Shape) -> bool:
    if site.role == "heads" and shape.uniform and not (dense.spec.free_head_dim and getattr(dense.config, "head_dim", None)):
        return False
    return prunable(dense, site)


def _why_heads_stay(view: ModelView, shape: Shape) -> str:
    return "heads stay: uniform widths cannot say that there are fewer" if shape.uniform else "heads stay"


def plan_of(dense: ModelView, kept: Mapping[Site, tuple[int, ...]]) -> Plan:
    """Return the plan that keeps these units, in the dense model's numbering."""
    chosen: dict[str, dict[int, tuple[int, ...]]] = {"heads": {}, "ffn": {}}
    for site, units in kept.items():
        if len(units) < dense.units(site.role, site.block):
            for block in range(dense.num_layers) if dense.spec.shared_blocks else [site.block]:
                chosen[site.role][block] = units
    return Plan(source=dense.source, heads=chosen["heads"], ffn=chosen["ffn"])


class _Selection:
    """Selection of the units to remove for a set of goals, in the elimination order of each site."""

    def __init__(
        self,
        state: _State,
        sensitivities: Mapping[Site, Sensitivity],
        shape: Shape,
        criterion: Callable[[Candidates], Path],
        paths: dict[Site, Path],
    ) -> None:
        self.view, self.shape = state.view, shape
        self.units = {site: len(kept) for site, kept in state.kept.items() if kept}
        self.sensitivities, self.criterion = sensitivities, criterion
        self.paths = paths

    def __call__(self, goals: Sequence[Goal]) -> dict[Site, tuple[int, ...]]:
        """Return the positions of the units of each site to remove so that every goal holds."""
        stops = {site: self.shape.stops(site, number) for site, number in self.units.items()}
        for goal in goals:
            excess = goal.cost.of(self.view) - goal.limit
            if excess <= 0 and not any(first[0] for first in stops.values()):
                continue
            prices = {site: goal.cost.each(self.view, site, number) for site, number in self.units.items()}
            if not self.paths:
                self.paths.update({site: self.criterion(self._candidates(site, price)) for site, price in prices.items()})
            curves = {site: Curve(self.paths[site].cost, prices[site], stops[site], goal.cost.last(self.view, site)) for site in self.units}
            removed = _allocate(curves, excess, self.shape)
            # The next goal can only remove more.
            stops = {site: tuple(stop for stop in stops[site] if stop >= removed[site]) for site in curves}
        return {site: path.order[: stops[site][0]] for site, path in self.paths.items()}

    def _candidates(self, site: Site, price: float) -> Candidates:
        projection, measured = site.projection(self.view), self.sensitivities[site]
        assert projection is not None
        assert measured.covariance is not None
        weight = projection.weight.double().numpy()
        return Candidates(measured.covariance.numpy(), weight, measured.metric.numpy(), self.units[site], price)


def _allocate(curves: Mapping[Site, Curve], excess: float, shape: Shape) -> dict[Site, int]:
    if not shape.uniform:
        return allocate(curves, excess)
    groups = [{site: curve for site, curve in curves.items() if site.role == role} for role in ("heads", "ffn")]
    removed = allocate_evenly(groups, excess)
    # `check_reach` has shown that the fewest units allowed suffice.
    assert removed is not None
    return removed


def _path_by(criterion: Criterion, seed: int, share: int) -> Callable[[Candidates], Path]:
    if criterion == "cost":
        return partial(elimination, share=share)
    if criterion == "magnitude":
        return by_magnitude
    generator = np.random.default_rng(seed)
    return lambda site: at_random(site, generator)
