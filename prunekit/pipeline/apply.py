"""Application of a plan to a model, with a refit of the remaining weights where calibration rows are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunekit.arch.live import check_weights
from prunekit.arch.view import ModelView, evaluated
from prunekit.errors import StatisticsError
from prunekit.plan import Plan, kept_blocks
from prunekit.refit.readers import Stream
from prunekit.refit.records import Solution
from prunekit.refit.refit import Damping, matches, refit
from prunekit.stats.blocks import ROLES, Site
from prunekit.stats.principal import principals
from prunekit.stats.sensitivity import check_batches, sensitivity
from prunekit.transforms.apply import apply as cut
from prunekit.transforms.apply import settled
from prunekit.transforms.components import ReadComponents, fold_components
from prunekit.validation.arguments import Seed, checked

#: Where dimensions are gone every layer is refitted at once, and weak damping adds more noise than it removes.
_NARROW = Damping(1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Solved:
    """A slim model and the solutions of its refit."""

    model: nn.Module
    solutions: tuple[Solution, ...]


@checked("apply")
def apply(
    model: nn.Module,
    plan: Plan,
    calibration: Sequence[Mapping[str, Tensor]] | None = None,
    *,
    damping: Damping | None = None,
    seed: Seed = 0,
) -> nn.Module:
    """Cut a copy of a model down to what a plan keeps and, with calibration rows, refit what stays.

    Parameters
    ----------
    model : PreTrainedModel
        Dense model of a supported family, with or without a task head; it is left as it is.
    plan : Plan
        Made for a model of the same shape.
    calibration : sequence of dict, optional
        Batches of tokenised rows in the dense vocabulary, labels not needed: `input_ids`, `attention_mask`, and what else the
        model reads, each (batch, length) int64. The least-squares statistics of every site are computed from them layer by
        layer from the bottom, since a site above one that was cut has other inputs than in the dense model: moments of the
        dense model alone would fit to inputs that no longer occur. Default: weights are cut and not refitted, and affine maps
        are their biases alone.
    damping : Damping, optional
        Of the least-squares solutions; default: that of `Damping`, and 1 throughout where hidden dimensions are gone.
    seed : int
        Of the random directions in which the task's sensitivity is measured.

    Returns
    -------
    nn.Module
        The same class of model; a `ReadoutModel`, its classifier zero, if the plan has a readout.

    Raises
    ------
    PlanError
        If the plan does not fit the model.
    ModelError
        If weights are not those that the config describes, or hold NaN.
    UnsupportedError
        If the family cannot express what the plan asks, or its blocks cannot be refitted one by one.
    StatisticsError
        If the calibration rows are degenerate, or there are none.
    """
    if calibration is None and plan.components is not None:
        raise StatisticsError("The plan reads principal components, which are those of data; give calibration rows.")
    check_weights(model)
    return cut(model, plan) if calibration is None else solve(model, plan, calibration, damping=damping, seed=seed).model


def solve(
    model: nn.Module, plan: Plan, calibration: Sequence[Mapping[str, Tensor]], *, damping: Damping | None = None, seed: int = 0
) -> Solved:
    """Apply a plan with calibration rows, and return the model with the solutions of its refit."""
    model = evaluated(model)
    dense = ModelView.of(model)
    reads = ReadComponents()
    if reads.concerns(plan):
        reads.requires(dense, plan)
    check_batches(dense, calibration)
    structure = plan.model_copy(update={"vocabulary": None, "components": None})
    slim, stream = ModelView.of(cut(model, structure)), Stream()
    if plan.hidden is not None and len(plan.hidden) < plan.source.hidden:
        damping = damping or _NARROW
        stream = Stream(torch.tensor(plan.hidden), ModelView.of(cut(model, structure.model_copy(update={"hidden": None}))))
    # A readout also reads layers below gaps, so gaps stay; without the model's own head all tokens have equal weight.
    pairs = matches(kept_blocks(plan), dense.num_layers, fill=plan.readout is None)
    weights: dict[Site, Sequence[Tensor]] | None = None
    if plan.readout is None:
        sensitivities = sensitivity(dense, calibration, seed=seed)
        shared = bool(dense.spec.shared_blocks)
        weights = {
            Site(0 if shared else layer, role): sensitivities[Site(0 if shared else origin, role)].weights
            for layer, pair in enumerate(pairs)
            for role, origin in zip(ROLES, (pair.attention, pair.output), strict=True)
        }
    solutions = refit(slim, dense, calibration, matched=pairs, weights=weights, damping=damping, stream=stream)
    if plan.components is not None:
        fold_components(slim, principals(slim, calibration, plan.components))
    return Solved(slim.model if plan.vocabulary is None else settled(model, plan, slim.model), solutions)
