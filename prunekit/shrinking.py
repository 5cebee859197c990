"""Shrinks a model to a budget of parameters or multiply-accumulates, without training.

In a few steps: feel what the task feels (`stats.sensitivity`), price every head and FFN neuron (`select.structure`),
cut the cheapest (`transforms.cut`), and solve what is left anew (`transforms.refit`). A large cut is made in steps, because
what a unit is worth depends on what else is gone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.arch.count import Counts, count
from prunekit.arch.view import ModelView, Reader
from prunekit.budget import Budget, Unit
from prunekit.errors import BudgetError, ParameterError, StatisticsError
from prunekit.plan import Plan
from prunekit.select.structure import Candidates, Curve, Path, allocate, allocate_evenly, at_random, by_magnitude, elimination
from prunekit.solve import settled
from prunekit.stats.blocks import Site, record_calls, sites
from prunekit.stats.sensitivity import Sensitivity, sensitivity
from prunekit.transforms.apply import apply
from prunekit.transforms.cut import cut, prunable, unit_price
from prunekit.transforms.refit import Damping, refit
from prunekit.transforms.solution import Solution

Progress = Callable[[int, int], None]
Choice = Literal["cost", "random", "magnitude"]

#: Each step leaves no less than this share of what the step before left. More steps do not pay: every refit adds noise.
_STEP = 0.35


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


def shrink(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    budgets: Sequence[Budget],
    *,
    lengths: NDArray[np.integer] | None = None,
    start: Counts | None = None,
    choice: Choice = "cost",
    uniform: bool = False,
    multiple_of: int = 1,
    damping: Damping | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Shrunk:
    """Choose and remove heads and FFN neurons until every budget holds, and re-solve what stays.

    Parameters
    ----------
    model : PreTrainedModel or ReadoutModel
        Dense model with or without a head, or one that reads chosen neurons; it is left as it is.
    batches : sequence of dict
        Tokenised calibration rows, labels not needed: `input_ids`, `attention_mask` and what else the model reads.
    budgets : sequence of Budget
        Of parameters of the layers (`Unit.PARAMS`) or multiply-accumulates (`Unit.MACS`).
    lengths : ndarray of int, optional
        Real lengths of the data's rows, for MACs; default: those of the calibration rows.
    start : Counts, optional
        What shares are taken of; default: the model given. Another where the model has lost blocks already.
    choice : {"cost", "random", "magnitude"}
        How units are chosen: by what their removal costs, or, as baselines that are re-solved all the same, at random or
        by the smallest projection weights.
    uniform : bool
        Every block keeps equally many FFN neurons, so that stock classes load the result; heads go only where the
        family's config can say so, and equally many in every block.
    multiple_of : int
        FFN widths are multiples of this.
    damping : Damping, optional
        Of the least-squares solutions.
    seed : int
    progress : callable, optional
        Called with (steps done, steps in all).

    Raises
    ------
    ParameterError
        If a budget counts something else, or `multiple_of` does not fit the model.
    BudgetError
        If a budget cannot be met even with all heads and FFN neurons gone that may go.
    StatisticsError
        If the calibration rows are degenerate, or there are none.
    """
    dense = ModelView.of(model)
    _check(dense, batches, budgets, multiple_of)
    shape = Shape(uniform, multiple_of)
    if lengths is None:
        lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).numpy()
    start = start or count(dense, lengths)
    # A model with a readout has been cut already, and remembers its dense config.
    copied = copy.deepcopy(model) if isinstance(model, Reader) else apply(model, Plan(source=dense.source))
    state = _State(ModelView.of(copied))
    state.kept = {site: tuple(range(dense.units(site.role))) for site in sites(dense) if _may_go(dense, site, shape)}
    _check_reach(state, budgets, start, lengths, shape)
    if not state.kept:
        # Nothing can be removed, and what there is suffices.
        return Shrunk(state.view.model, Plan(source=dense.source), (_shares(state.view, start, lengths),))
    calls = record_calls(dense, batches)
    smallest = min(budget.amount for budget in budgets)
    # What the baselines choose does not depend on what else is gone.
    total = max(1, math.ceil(math.log(smallest) / math.log(_STEP))) if choice == "cost" else 1
    trace: list[dict[str, float]] = []
    solutions: tuple[Solution, ...] = ()
    for step in range(1, total + 1):
        goals = [Budget(budget.unit, max(budget.amount, smallest ** (step / total))) for budget in budgets]
        felt = sensitivity(state.view, batches, seed=seed + step, units=True)
        _cut_to(state, felt, goals, start, lengths, shape, _chooser(choice, seed + step))
        weights = {site: found.weights for site, found in felt.items()}
        solutions = refit(state.view, dense, batches, weights=weights, damping=damping, calls=calls)
        trace.append(_shares(state.view, start, lengths))
        if progress is not None:
            progress(step, total)
    plan = plan_of(dense, state.kept)
    return Shrunk(settled(model, plan, state.view.model), plan, tuple(trace), solutions)


def _check(dense: ModelView, batches: Sequence[Mapping[str, Tensor]], budgets: Sequence[Budget], multiple_of: int) -> None:
    for budget in budgets:
        if budget.unit not in (Unit.PARAMS, Unit.MACS):
            raise ParameterError("budgets", "shrink", "shares of params or macs", str(budget))
    if not budgets:
        raise ParameterError("budgets", "shrink", "at least one share of params or macs", budgets)
    if not 1 <= multiple_of <= dense.units("ffn"):
        raise ParameterError("multiple_of", "shrink", f"between 1 and the model's FFN width, {dense.units('ffn')}", multiple_of)
    if not batches:
        raise StatisticsError("There are no calibration rows; give some.")


def _may_go(dense: ModelView, site: Site, shape: Shape) -> bool:
    if site.role == "heads" and shape.uniform and not (dense.spec.free_head_dim and getattr(dense.config, "head_dim", None)):
        return False
    return prunable(dense, site)


def _shares(view: ModelView, start: Counts, lengths: NDArray[np.integer]) -> dict[str, float]:
    now = count(view, lengths)
    # A model without blocks has lost all there was.
    return {"params": now.params_layers / max(start.params_layers, 1), "macs": now.macs / max(start.macs, 1.0)}


def _check_reach(state: _State, budgets: Sequence[Budget], start: Counts, lengths: NDArray[np.integer], shape: Shape) -> None:
    """Raise BudgetError if a budget does not hold even with as few units as may be."""
    least = _State(ModelView.of(copy.deepcopy(state.view.model)), dict(state.kept))
    for site, units in state.kept.items():
        least.cut(site, range(shape.stops(site, len(units))[-1]))
    reached = _shares(least.view, start, lengths)
    for budget in budgets:
        left = reached[budget.unit.value]
        if left > budget.amount * (1 + 1e-9):
            heads = any(site.role == "heads" for site in state.kept)
            which = "heads and FFN neurons" if heads else f"FFN neurons ({_why_heads_stay(state.view, shape)})"
            raise BudgetError(f"--keep {str(budget)!r} cannot be met by removing {which}: with as few as may be, {left:.1%} is left.")


def _why_heads_stay(view: ModelView, shape: Shape) -> str:
    if view.spec.equal_heads:
        return f"heads stay: {view.spec.equal_heads}"
    return "heads stay: uniform widths cannot say that there are fewer" if shape.uniform else "heads stay"


def plan_of(dense: ModelView, kept: Mapping[Site, tuple[int, ...]]) -> Plan:
    """The plan that keeps these units, in the dense model's numbering."""
    chosen: dict[str, dict[int, tuple[int, ...]]] = {"heads": {}, "ffn": {}}
    for site, units in kept.items():
        if len(units) < dense.units(site.role):
            for block in range(dense.num_layers) if dense.spec.shared_blocks else [site.block]:
                chosen[site.role][block] = units
    return Plan(source=dense.source, heads=chosen["heads"], ffn=chosen["ffn"])


def _cut_to(
    state: _State,
    felt: Mapping[Site, Sensitivity],
    goals: Sequence[Budget],
    start: Counts,
    lengths: NDArray[np.integer],
    shape: Shape,
    chooser: Callable[[Candidates], Path],
) -> None:
    """Cut the cheapest units until every goal holds."""
    units = {site: len(kept) for site, kept in state.kept.items() if kept}
    stops = {site: shape.stops(site, number) for site, number in units.items()}
    now = count(state.view, lengths)
    paths: dict[Site, Path] = {}
    for goal in goals:
        used, full = (now.params_layers, start.params_layers) if goal.unit is Unit.PARAMS else (now.macs, start.macs)
        prices = {site: unit_price(state.view, site, number, goal.unit, lengths) for site, number in units.items()}
        if used - goal.amount * full <= 0 and not any(first[0] for first in stops.values()):
            continue
        for site, number in units.items() if not paths else ():
            projection, found = site.projection(state.view), felt[site]
            assert projection is not None
            assert found.covariance is not None
            weight = projection.weight.double().numpy()
            paths[site] = chooser(Candidates(found.covariance.numpy(), weight, found.metric.numpy(), number, prices[site]))
        curves = {site: Curve(path.cost, prices[site], stops[site]) for site, path in paths.items()}
        gone = _allocate(curves, used - goal.amount * full, shape)
        # The next goal can only take more.
        stops = {site: tuple(stop for stop in stops[site] if stop >= gone[site]) for site in curves}
    for site, path in paths.items():
        state.cut(site, path.order[: stops[site][0]])


def _allocate(curves: Mapping[Site, Curve], excess: float, shape: Shape) -> dict[Site, int]:
    if not shape.uniform:
        return allocate(curves, excess)
    groups = [{site: curve for site, curve in curves.items() if site.role == role} for role in ("heads", "ffn")]
    gone = allocate_evenly(groups, excess)
    # That as few as may be suffice was seen at the start.
    assert gone is not None
    return gone


def _chooser(choice: Choice, seed: int) -> Callable[[Candidates], Path]:
    if choice == "cost":
        return elimination
    if choice == "magnitude":
        return by_magnitude
    generator = np.random.default_rng(seed)
    return lambda site: at_random(site, generator)
