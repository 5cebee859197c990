"""What an error of the residual stream costs the task: gradients of the model's output, label-free.

The cost of a small change of the output is measured as the Kullback-Leibler divergence from the model's own
prediction, to second order ``g^T F g`` with the Fisher matrix F of the softened class probabilities; a regression or a
bare encoder has the identity in the place of F. One backward pass a batch gives an unbiased estimate for all sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunekit.arch.view import ModelView
from prunekit.errors import StatisticsError
from prunekit.stats.blocks import Site, Tap, batch_first, sites, taps
from prunekit.stats.comoment import ComomentSum


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What an error of one site's residual sum costs, and what enters the site.

    Attributes
    ----------
    weights : tuple of Tensor
        One (batch, length) a batch, mean about 1 over the tokens that matter; 0 where nothing reads the token.
    metric : Tensor
        (H, H) float64, the mean of g g^T over rows, summed over a row's tokens: ``e^T metric e`` is the loss a row pays
        if all its tokens err by e, apart from interactions between tokens.
    covariance : Tensor or None
        (k, k) float64, weighted covariance of what the site's units give; None if not asked for, or if they are gone.
    """

    weights: tuple[Tensor, ...]
    metric: Tensor
    covariance: Tensor | None


class _Sums:
    """What is summed for one site."""

    def __init__(self) -> None:
        self.sizes: list[Tensor] = []
        self.metric: Tensor | None = None
        self.units: ComomentSum | None = None

    def add(self, grad: Tensor, mask: Tensor, entering: Sequence[Tensor]) -> None:
        """Add one batch: gradients (batch, length, H), and what the units gave in each pass, (batch, length, k)."""
        flat = grad[mask]
        if not bool(torch.isfinite(flat).all()):
            raise StatisticsError("A gradient of the model's output is not finite; the model or the calibration rows are broken.")
        product = (flat.T @ flat).double()
        self.metric = product if self.metric is None else self.metric + product
        # The norm, and not its square: between weighting tokens alike (noisy gradients) and fully (few tokens decide).
        size = grad.square().sum(-1).sqrt() * mask
        self.sizes.append(size)
        chosen = size > 0
        for rows in entering:
            self.units = self.units or ComomentSum()
            self.units.add(rows[chosen], rows[chosen][:, :0], size[chosen])

    def finish(self, site: Site, rows: int) -> Sensitivity:
        """Normalise."""
        sizes = torch.cat([size.flatten() for size in self.sizes]).double()
        if self.metric is None or not bool((sizes > 0).any()):
            raise StatisticsError(
                f"The model's output does not depend on block {site.block} at all; give its classifier weights that are not zero."
            )
        typical = float(sizes[sizes > 0].square().mean().sqrt())
        weights = tuple(size / typical for size in self.sizes)
        return Sensitivity(weights, self.metric / rows, None if self.units is None else self.units.finish().xx)


def sensitivity(
    view: ModelView, batches: Sequence[Mapping[str, Tensor]], *, temperature: float = 2.0, seed: int = 0, units: bool = False
) -> dict[Site, Sensitivity]:
    """Differentiate the model's output with respect to the residual sum behind every site.

    Parameters
    ----------
    view : ModelView
    batches : sequence of dict
        Tokenised rows: (batch, length) tensors, `attention_mask` among them.
    temperature : float
        Softens the class probabilities, so that rows of which the model is certain still count.
    seed : int
        Of the random directions (more than one output or two classes).
    units : bool
        Also take the covariance of what the units of every site give.

    Raises
    ------
    StatisticsError
        If there are no batches, or a gradient is not finite.
    """
    if not batches:
        raise StatisticsError("There are no calibration rows; give some.")
    generator = torch.Generator().manual_seed(seed)
    sums = {site: _Sums() for site in sites(view)}
    entries = {site: site.units_tap(view) for site in sums if units and site.projection(view) is not None}
    for batch in batches:
        mask = batch["attention_mask"].bool()
        with ExitStack() as stack, torch.enable_grad():
            seen: dict[int, dict[Tap, list[Tensor]]] = {}
            for number, block in enumerate(view.blocks):
                wanted = [site.sum_tap(view) for site in sums if site.block == number]
                seen[number] = stack.enter_context(taps(block, [*wanted, *(tap for site, tap in entries.items() if site.block == number)]))
            tensors = {site: seen[site.block][site.sum_tap(view)] for site in sums}
            tensors_in = {name: batch[name] for name in view.inputs if name in batch}
            scalar = felt_by(view.model(**tensors_in, return_dict=True), mask, temperature, generator)
            found = iter(torch.autograd.grad(scalar, [tensor for passes in tensors.values() for tensor in passes], allow_unused=True))
        for site, passes in tensors.items():
            grads = [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(passes, found, strict=False)]
            # With shared weights a site is passed several times: its tokens then weigh as all passes together.
            grad = torch.stack(grads).square().sum(0).sqrt() if len(grads) > 1 else grads[0]
            entering = seen[site.block][entries[site]] if site in entries else []
            sums[site].add(batch_first(view, grad), mask, [batch_first(view, rows.detach()) for rows in entering])
    rows = sum(len(batch["input_ids"]) for batch in batches)
    return {site: total.finish(site, rows) for site, total in sums.items()}


def felt_by(output: Any, mask: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A random scalar of a model's output whose gradient's second moment is the Fisher matrix pulled back, without labels."""
    if getattr(output, "logits", None) is None:
        ends: list[Tensor] = [end for name in ("start_logits", "end_logits") if (end := getattr(output, name, None)) is not None]
        if ends:
            return torch.stack([_fisher(end.masked_fill(~mask, -1e4), temperature, generator) for end in ends]).sum()
        states: Tensor = output.last_hidden_state[mask]
        total: Tensor = (states * _signs(states, generator)).sum() / math.sqrt(states.shape[-1])
        return total
    logits: Tensor = output.logits
    return _fisher(logits[mask] if logits.ndim == 3 else logits, temperature, generator)


def _fisher(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Scalar with gradient v, E[v v^T] = diag(p) - p p^T at the softened probabilities p of each distribution.

    Distributions have independent signs, so that those of one row's tokens do not interact.
    """
    if logits.shape[-1] == 1:
        return (logits * _signs(logits, generator)).sum()
    p = (logits.detach() / temperature).softmax(-1)
    if logits.shape[-1] == 2:
        # Exact for each draw: the matrix has rank one.
        direction = torch.tensor([-1.0, 1.0]).to(p) * (p[..., :1] * p[..., 1:]).sqrt() * _signs(p[..., :1], generator)
    else:
        noise = _signs(p, generator) * p.sqrt()
        direction = noise - p * noise.sum(-1, keepdim=True)
    return (logits * direction).sum()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)
