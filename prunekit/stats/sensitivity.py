"""What an error of the residual stream costs the task: gradients of the model's output, label-free.

The cost of a small change of the output is measured as the Kullback-Leibler divergence from the model's own
prediction, to second order ``g^T F g`` with the Fisher matrix F of the softened class probabilities; a regression or a
bare encoder has the identity in the place of F. One backward pass a batch gives an unbiased estimate for all sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from prunekit.arch.view import ModelView
from prunekit.errors import StatisticsError
from prunekit.stats.blocks import Site, sites, sum_tap, taps

#: Weights above this multiple of the mean are cut: a few tokens must not own the solution.
_LARGEST = 20.0


@dataclass(frozen=True)
class Sensitivity:
    """What an error of one site's residual sum costs.

    Attributes
    ----------
    weights : tuple of Tensor
        One (batch, length) a batch, mean about 1 over the tokens that matter; 0 where nothing reads the token.
    metric : Tensor
        (H, H) float64, the mean of g g^T over rows, summed over a row's tokens: ``e^T metric e`` is the loss a row pays
        if all its tokens err by e, apart from interactions between tokens.
    """

    weights: tuple[Tensor, ...]
    metric: Tensor


def sensitivity(
    view: ModelView, batches: Sequence[Mapping[str, Tensor]], *, temperature: float = 2.0, seed: int = 0
) -> dict[Site, Sensitivity]:
    """Differentiate the model's output with respect to the residual sum behind every site.

    Parameters
    ----------
    view : ModelView
    batches : sequence of dict
    temperature : float
        Softens the class probabilities, so that rows of which the model is certain still count.
    seed : int
        Of the random directions (more than two classes, a bare encoder).

    Raises
    ------
    StatisticsError
        If a gradient is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    grads: dict[Site, list[Tensor]] = {site: [] for site in sites(view)}
    for batch in batches:
        with ExitStack() as stack, torch.enable_grad():
            seen = {}
            for site in grads:
                kind, path = sum_tap(view, site)
                seen[site] = stack.enter_context(
                    taps(view.blocks[site.block], [path] if kind == "in" else [], [path] if kind == "out" else [])
                )[kind, path]
            scalar = _scalar(view, batch, temperature, generator)
            order = [site for site in seen if seen[site]]
            tensors = [tensor for site in order for tensor in seen[site]]
            found = iter(torch.autograd.grad(scalar, tensors, allow_unused=True))
        for site in order:
            parts = [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(seen[site], found, strict=False)]
            # With shared weights a site is passed several times: its tokens then weigh as all passes together.
            grads[site].append(torch.stack(parts).square().sum(0).sqrt() if len(parts) > 1 else parts[0])
    rows = sum(len(batch["input_ids"]) for batch in batches)
    return {site: _summarise(found, [batch["attention_mask"].bool() for batch in batches], rows) for site, found in grads.items()}


def _scalar(view: ModelView, batch: Mapping[str, Tensor], temperature: float, generator: torch.Generator) -> Tensor:
    """A random scalar of the output whose gradient's second moment is the Fisher matrix pulled back."""
    tensors = {name: batch[name] for name in view.inputs if name in batch}
    mask = batch["attention_mask"].bool()
    output = view.model(**tensors, return_dict=True)
    if getattr(output, "logits", None) is None:
        ends: list[Tensor] = [end for name in ("start_logits", "end_logits") if (end := getattr(output, name, None)) is not None]
        if ends:
            return torch.stack([_fisher(end.masked_fill(~mask, -1e4), temperature, generator) for end in ends]).sum()
        states: Tensor = output.last_hidden_state[mask]
        return (states * _signs(states, generator)).sum() / states.shape[-1] ** 0.5
    logits: Tensor = output.logits
    if logits.ndim == 3:
        logits = logits[mask]
    return _fisher(logits, temperature, generator)


def _fisher(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Scalar with gradient v, E[v v^T] = diag(p) - p p^T at the softened probabilities p; exact for two classes."""
    if logits.shape[-1] == 1:
        return logits.sum()
    p = (logits.detach() / temperature).softmax(-1)
    if logits.shape[-1] == 2:
        direction = torch.tensor([-1.0, 1.0], device=p.device) * (p[..., :1] * p[..., 1:]).sqrt()
    else:
        noise = _signs(p, generator) * p.sqrt()
        direction = noise - p * noise.sum(-1, keepdim=True)
    return (logits * direction).sum()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)


def _summarise(grads: list[Tensor], masks: list[Tensor], rows: int) -> Sensitivity:
    flat = torch.cat([grad[mask] for grad, mask in zip(grads, masks, strict=True)])
    if not bool(torch.isfinite(flat).all()):
        raise StatisticsError("A gradient of the model's output is not finite; the model or the calibration rows are broken.")
    size = flat.double().square().sum(1)
    live = size > 0
    mean = float(size[live].mean()) if bool(live.any()) else 1.0
    # The square root of the squared norm: between weighting tokens alike (noisy gradients) and fully (few tokens decide).
    weights = tuple((grad.square().sum(-1) / mean).clamp(max=_LARGEST).sqrt() * mask for grad, mask in zip(grads, masks, strict=True))
    wide = flat.double()
    return Sensitivity(weights, wide.T @ wide / rows)
