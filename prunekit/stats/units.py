"""Scores of heads and FFN neurons: gradients of a mask on each, the energy that it adds, and the cost of its removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from prunekit.arch.view import ModelView, answers_by_span
from prunekit.data.batches import Batch, Encoded
from prunekit.errors import StatisticsError
from prunekit.stats.blocks import Recorded, Site, Tap, batch_first, sites, taps
from prunekit.stats.collected import UnitScores
from prunekit.stats.comoment import Comoment, ComomentSum, widened
from prunekit.stats.sensitivity import TOKENS, Scalar, fisher_scalar

#: Added to a covariance, in units of its mean diagonal, where it is inverted.
DAMPING = 1e-9


def unit_scores(
    view: ModelView,
    encoded: Encoded,
    *,
    labelled: bool,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[UnitScores, ...]:
    """Run the model forward and backward once over some rows, and score every unit of every site.

    Parameters
    ----------
    view : ModelView
    encoded : Encoded
        The rows.
    labelled : bool
        Whether the model's head is one for the rows' labels, so that their loss can be differentiated too.
    seed : int
        As in `prunekit.stats.sensitivity.sensitivity`.
    progress : callable, optional
        Called with (rows done, rows in all).

    Raises
    ------
    StatisticsError
        No rows, or a gradient or activation that is not finite.
    """
    accumulators = {
        site: _UnitSums(site, projection.weight, view) for site in sites(view) if (projection := site.projection(view)) is not None
    }
    generator = torch.Generator().manual_seed(seed)
    done = 0
    training = view.model.training
    view.model.eval()
    try:
        for batch in encoded.batches(TOKENS):
            _add(view, batch, accumulators, labelled, generator)
            done += len(batch.rows)
            if progress is not None:
                progress(done, len(encoded))
    finally:
        view.model.train(training)
    if not done:
        raise StatisticsError("There are no rows to score units on; give some.")
    return tuple(sums.finish(done) for sums in accumulators.values())


def _add(view: ModelView, batch: Batch, accumulators: Mapping[Site, _UnitSums], labelled: bool, generator: torch.Generator) -> None:
    """Add one batch to the sums of every site."""
    tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    mask = tensors["attention_mask"].bool()
    inputs = {name: tensors[name] for name in view.inputs if name in tensors}
    with ExitStack() as stack, torch.enable_grad():
        recorded: dict[int, dict[Tap, list[Recorded]]] = {}
        for number, block in enumerate(view.blocks):
            wanted = [tap for site in accumulators if site.block == number for tap in (site.sum_tap(view), site.units_tap(view))]
            recorded[number] = stack.enter_context(taps(block, wanted))
        output = view.model(**inputs, return_dict=True)
        passes = {site: recorded[site.block][site.sum_tap(view)] for site in accumulators}
        sums = [tensor for site_sums in passes.values() for tensor in site_sums]
        # An answer starts and ends only at the positions that are read.
        read = torch.from_numpy(batch.read).bool() if answers_by_span(view.model) else mask
        scalars = [fisher_scalar(output, read, generator, labels=view.many_labels)] + ([_loss(output, batch)] if labelled else [])
        # One backward pass through the graph for each scalar.
        grads = [
            torch.autograd.grad(scalar, sums, allow_unused=True, retain_graph=index + 1 < len(scalars))
            for index, scalar in enumerate(scalars)
        ]
    offset = 0
    for site, site_sums in passes.items():
        units = [widened(batch_first(view, value.detach())) for value in recorded[site.block][site.units_tap(view)]]
        site_grads = [[_filled(scalar_grads[offset + step], tensor) for step, tensor in enumerate(site_sums)] for scalar_grads in grads]
        accumulators[site].add(units, [[widened(batch_first(view, grad)) for grad in scalar_grads] for scalar_grads in site_grads], mask)
        offset += len(site_sums)


def _filled(grad: Float[Tensor, "*sizes"] | None, like: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
    return torch.zeros_like(like) if grad is None else grad


def _loss(output: Any, batch: Batch) -> Scalar:
    """Return the loss on the labels, summed over the positions that have one."""
    logits = widened(output.logits)
    if batch.first is not None:
        first = torch.from_numpy(batch.first)
        logits = logits[first[:, 0], first[:, 1]]
    labels = torch.from_numpy(np.asarray(batch.labels))
    if labels.ndim == 2:
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
    if logits.shape[-1] == 1:
        return (logits.squeeze(-1) - labels.to(logits)).square().sum()
    return functional.cross_entropy(logits, labels, reduction="sum")


class _UnitSums:
    """Accumulated sums of one site."""

    def __init__(self, site: Site, weight: Float[Tensor, "h k"], view: ModelView) -> None:
        self._site, self._weight, self._units = site, widened(weight.detach()), view.units(site.role, site.block)
        if weight.shape[1] % self._units:
            # Query heads of a group are kept or removed together with their key and value heads.
            self._units = 1
        self._squares = [torch.zeros(self._units, dtype=torch.float64) for _ in range(2)]
        self._labelled = False
        self._comoment = ComomentSum()

    def add(self, units: list[Float[Tensor, "b t k"]], grads: list[list[Float[Tensor, "b t h"]]], mask: Bool[Tensor, "b t"]) -> None:
        """Add one batch: outputs of the units and gradients of the sum behind the site, pass by pass, for each scalar."""
        self._labelled = len(grads) > 1
        for total, scalar_grads in zip(self._squares, grads, strict=False):
            derivatives = torch.zeros(len(mask), self._units, dtype=torch.float64)
            for value, grad in zip(units, scalar_grads, strict=True):
                # A mask on a unit scales its output: its derivative is <output, gradient>, summed over the row's tokens.
                product = value * (grad @ self._weight) * mask[..., None]
                derivatives += product.sum(1).view(len(mask), self._units, -1).sum(-1).double()
            total += derivatives.square().sum(0)
        for value in units:
            real = value[mask]
            self._comoment.add(real, real[:, :0], real.new_ones(len(real)))

    def finish(self, rows: int) -> UnitScores:
        """Return the normalised scores; raise StatisticsError for values that are not finite."""
        moments = self._comoment.finish()
        if not all(bool(torch.isfinite(total).all()) for total in self._squares):
            raise StatisticsError("A gradient of the model's output is not finite; the model or the rows are broken.")
        weight = self._weight.double()
        fisher, labelled = (np.asarray(total / rows) for total in self._squares)
        output = float(((weight @ moments.xx) * weight).sum())
        energy = np.asarray(_energy(moments, weight, self._units))
        removal = removal_costs(np.asarray(moments.xx), np.asarray(weight), self._units)
        return UnitScores(self._site.block, self._site.role, fisher, labelled if self._labelled else None, energy, removal, output)


def _energy(moments: Comoment, weight: Float64[Tensor, "o k"], units: int) -> Float64[Tensor, " units"]:
    """Return the mean of |W_u a_u|^2 of each unit, (units,): its own block of W'W, against that of the second moment."""
    second = moments.xx + torch.outer(moments.mean_x, moments.mean_x)
    width = len(second) // units
    blocks = torch.arange(units)
    grouped = second.view(units, width, units, width)[blocks, :, blocks, :]
    parts = weight.reshape(len(weight), units, width).transpose(0, 1)
    return torch.einsum("uow,uwv,uov->u", parts, grouped, parts)


def removal_costs(
    covariance: Float64[NDArray[np.float64], "k k"], weight: Float64[NDArray[np.float64], "o k"], units: int
) -> Float64[NDArray[np.float64], " u"]:
    """Return the growth of the mean squared error of ``W a`` if a unit of `a` is removed and the others' weights and bias are refitted.

    The costs are (units,); with C the covariance they are ``tr(W_u [(C^-1)_uu]^-1 W_u^T)``, exactly. A unit that never varies costs
    nothing, and so do both of two that are equal: each can be expressed by the other.

    Parameters
    ----------
    covariance : (k, k) float64
    weight : (o, k) float64
    units : int
        Each is k / units consecutive inputs.
    """
    k = len(covariance)
    width = k // units
    strength = max(DAMPING * float(np.trace(covariance)) / k, np.finfo(np.float64).tiny ** 0.5)
    inverse = np.linalg.inv(covariance + strength * np.eye(k))
    blocks = np.arange(units)
    groups = inverse.reshape(units, width, units, width)[blocks, :, blocks, :]
    parts = weight.reshape(len(weight), units, width).transpose(1, 0, 2)
    return np.asarray(np.einsum("uow,uwv,uov->u", parts, np.linalg.inv(groups), parts, optimize=True))
