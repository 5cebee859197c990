"""Shrinks a model to a budget of parameters or multiply-accumulates, without training.

In a few steps: feel what the task feels (`stats.sensitivity`), price every head and FFN neuron (`select.structure`),
cut the cheapest (`transforms`), and solve what is left anew (`transforms.refit`). Several small steps beat one large
one, because what a unit is worth depends on what else is gone.
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
from prunekit.arch.view import ModelView, Reader, find
from prunekit.budget import Budget, Unit
from prunekit.errors import BudgetError, UnsupportedError
from prunekit.plan import Plan
from prunekit.select.structure import Candidates, Path, allocate, at_random, by_magnitude, elimination
from prunekit.stats.blocks import Site, record_calls, sites, taps
from prunekit.stats.comoment import ComomentSum
from prunekit.stats.sensitivity import Sensitivity, sensitivity
from prunekit.transforms.apply import apply
from prunekit.transforms.refit import Damping, linear_weight, refit
from prunekit.transforms.surgery import remove, scale_sizes, slice_role

Progress = Callable[[int, int], None]
Choice = Literal["cost", "random", "magnitude"]

#: Each step leaves about this share of what the step before left.
_STEP = 0.7


@dataclass(frozen=True)
class Shrunk:
    """A slim model and the plan that names its units in the dense model's numbering."""

    model: nn.Module
    plan: Plan
    steps: tuple[dict[str, float], ...] = ()


@dataclass
class _State:
    """The slim model under way; `kept` numbers its units as the dense model does."""

    view: ModelView
    kept: dict[Site, tuple[int, ...]] = field(default_factory=dict)


def shrink(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    budgets: Sequence[Budget],
    *,
    lengths: NDArray[np.integer] | None = None,
    start: Counts | None = None,
    choice: Choice = "cost",
    damping: Damping | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Shrunk:
    """Choose and remove heads and FFN neurons until every budget holds, and re-solve what stays.

    Parameters
    ----------
    model : PreTrainedModel
        Dense model with or without a head; it is left as it is.
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
    damping : Damping, optional
        Of the least-squares solutions.
    seed : int
    progress : callable, optional
        Called with (steps done, steps in all).

    Raises
    ------
    BudgetError
        If a budget cannot be met even with all heads and FFN neurons gone.
    """
    dense = ModelView.of(model)
    if lengths is None:
        lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).numpy()
    start = start or count(dense, lengths)
    # A model with a readout has been cut already, and remembers its dense config.
    copied = copy.deepcopy(model) if isinstance(model, Reader) else apply(model, Plan(source=dense.source))
    state = _State(ModelView.of(copied))
    state.kept = {site: tuple(range(dense.units(site.role))) for site in sites(dense) if _prunable(dense, site)}
    smallest = min(budget.amount for budget in budgets)
    total = max(1, math.ceil(math.log(smallest) / math.log(_STEP)))
    trace = []
    for step in range(1, total + 1):
        goals = [Budget(budget.unit, max(budget.amount, smallest ** (step / total))) for budget in budgets]
        feelings = sensitivity(state.view, batches, seed=seed + step)
        _cut_to(state, batches, feelings, goals, start, lengths, _chooser(choice, seed + step))
        weights = {site: feeling.weights for site, feeling in feelings.items()}
        refit(state.view, dense, batches, weights=weights, damping=damping or Damping())
        now = count(state.view, lengths)
        trace.append({"params": now.params_layers / start.params_layers, "macs": now.macs / start.macs})
        if progress is not None:
            progress(step, total)
    for budget in budgets:
        reached = trace[-1][budget.unit.value]
        if reached > budget.amount * (1 + 1e-9):
            raise BudgetError(
                f"--keep {str(budget)!r} cannot be met by removing heads and FFN neurons: with all of them gone, {reached:.1%} is left."
            )
    return Shrunk(state.view.model, plan_of(dense, state.kept), tuple(trace))


def _prunable(view: ModelView, site: Site) -> bool:
    """Whether units of a site can be chosen one by one: the family can express it and the projection's input can be seen."""
    if site.projection(view) is None or (site.role == "heads" and view.spec.equal_heads):
        return False
    try:
        view.check(site.role)
    except UnsupportedError:
        return False
    return True


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
    batches: Sequence[Mapping[str, Tensor]],
    feelings: Mapping[Site, Sensitivity],
    goals: Sequence[Budget],
    start: Counts,
    lengths: NDArray[np.integer],
    chooser: Callable[[Candidates], Path],
) -> None:
    """Cut the cheapest units until every goal holds."""
    open_sites = [site for site, units in state.kept.items() if units]
    inputs = covariances(state.view, batches, open_sites, feelings)
    for goal in goals:
        now = count(state.view, lengths)
        used, full = (now.params_layers, start.params_layers) if goal.unit is Unit.PARAMS else (now.macs, start.macs)
        excess = used - goal.amount * full
        if excess <= 0:
            continue
        paths = {}
        for site in [site for site in open_sites if state.kept[site]]:
            projection = linear_weight_of(state.view, site)
            price = unit_price(state.view, site, len(state.kept[site]), goal.unit, lengths)
            metric = feelings[site].metric.numpy()
            paths[site] = chooser(Candidates(inputs[site], projection, metric, len(state.kept[site]), price))
        gone = allocate({(site.block, site.role): path for site, path in paths.items()}, excess)
        for site, path in paths.items():
            dropped = set(path.order[: gone[site.block, site.role]])
            stay = tuple(place for place in range(len(state.kept[site])) if place not in dropped)
            if dropped:
                inputs[site] = _narrow(inputs[site], stay, len(state.kept[site]))
                cut(state.view, site, stay, len(state.kept[site]))
                state.kept[site] = tuple(state.kept[site][place] for place in stay)


def _chooser(choice: Choice, seed: int) -> Callable[[Candidates], Path]:
    if choice == "cost":
        return elimination
    if choice == "magnitude":
        return by_magnitude
    generator = np.random.default_rng(seed)
    return lambda site: at_random(site, generator)


def _narrow(covariance: NDArray[np.float64], stay: tuple[int, ...], units: int) -> NDArray[np.float64]:
    width = len(covariance) // units
    columns = (np.array(stay, dtype=np.int64)[:, None] * width + np.arange(width)).ravel()
    narrow: NDArray[np.float64] = covariance[np.ix_(columns, columns)]
    return narrow


def linear_weight_of(view: ModelView, site: Site) -> NDArray[np.float64]:
    """Weight (o, k) of a site's projection, float64."""
    module = site.projection(view)
    assert module is not None
    weight: NDArray[np.float64] = linear_weight(module).detach().double().numpy()
    return weight


def covariances(
    view: ModelView, batches: Sequence[Mapping[str, Tensor]], wanted: Sequence[Site], feelings: Mapping[Site, Sensitivity]
) -> dict[Site, NDArray[np.float64]]:
    """Weighted covariance of the inputs of each site's projection, (k, k) float64, in one pass over the batches."""
    sums = {site: ComomentSum() for site in wanted}
    calls = record_calls(view, batches)
    shared = bool(view.spec.shared_blocks)
    with torch.inference_mode():
        for batch, hidden in enumerate(calls.hidden):
            for depth, call in enumerate(calls.calls[batch]):
                block = 0 if shared else depth
                here = [site for site in wanted if site.block == block]
                with taps(view.blocks[block], [site.part(view).output for site in here]) as found:
                    hidden = call(view.blocks[block], hidden)
                for site in here:
                    weights = feelings[site].weights[batch]
                    chosen = weights > 0
                    rows = found["in", site.part(view).output][0][chosen]
                    sums[site].add(rows, rows[:, :0], weights[chosen])
    return {site: total.finish().xx.numpy() for site, total in sums.items()}


def unit_price(view: ModelView, site: Site, units: int, unit: Unit, lengths: NDArray[np.integer]) -> float:
    """What one head or FFN neuron of a site takes: parameters, or mean multiply-accumulates per row."""
    block, spec = view.blocks[site.block], view.spec
    parameters = matrix = 0
    for name, axes in spec.block.items():
        parameter = find(block, name)
        if parameter is not None and any(axis is not None and axis.role == site.role for axis in axes):
            parameters += parameter.numel() / units
            matrix += parameter.numel() / units if parameter.ndim > 1 else 0
    if unit is Unit.PARAMS:
        return parameters
    tokens = lengths.astype(np.float64)
    width = linear_weight_of(view, site).shape[1] / units if site.role == "heads" else 0
    passes = view.num_layers if spec.shared_blocks else 1
    return float(passes * (matrix * tokens.mean() + 2 * width * (tokens**2).mean()))


def cut(view: ModelView, site: Site, stay: tuple[int, ...], units: int) -> None:
    """Keep the units at places `stay` of the `units` that a site has now; none: the sub-block goes, but for its bias."""
    block, part = view.blocks[site.block], site.part(view)
    if not stay:
        remove(block, part)
        return
    slice_role(block, view.spec.block, site.role, stay, units)
    scale_sizes(block, part.sizes, len(stay), units)
