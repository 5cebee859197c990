"""The same plan as masks on the model at its full size: what every cut is compared with.

Nothing here touches the code that cuts. Activations are zeroed by hooks where they enter a projection, blocks are
bypassed, and norms are computed anew over the dimensions kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.arch.view import ModelView, find
from prunekit.plan import Plan
from prunekit.transforms.readout_head import ReadoutModel


def _dropped(kept: Sequence[int], units: int) -> list[int]:
    return sorted(set(range(units)) - set(kept))


def _mask_consumer(block: nn.Module, path: str, kept: Sequence[int], units: int) -> None:
    """Zero what the dropped units feed into a projection."""
    consumer, dropped = find(block, path), _dropped(kept, units)
    if isinstance(consumer, nn.Parameter):
        # XLNet's output projection, (hidden, heads, head_dim), has no module to hook.
        with torch.no_grad():
            consumer[:, dropped] = 0
        return

    def zero(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        grouped = args[0].reshape(*args[0].shape[:-1], units, -1).clone()
        grouped[..., dropped, :] = 0
        return (grouped.flatten(-2), *args[1:])

    consumer.register_forward_pre_hook(zero)


def _mask_affine(view: ModelView, block: nn.Module, affine: nn.Module | None) -> None:
    """Let the output projection of the FFN give an affine map of what enters the FFN; without one, its own bias."""
    entering: list[Tensor] = []
    part = view.spec.ffn
    find(block, part.reads[0]).register_forward_pre_hook(lambda _, args: entering.append(args[0]))

    def instead(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        states = entering.pop()
        if affine is not None:
            found: Tensor = affine(states)
            return found
        bias: Tensor | None = dict(module.named_parameters()).get("bias")
        return torch.zeros_like(states) if bias is None else bias.expand_as(states)

    find(block, part.output).register_forward_hook(instead)


def _mask_norm(norm: nn.Module, kept: Sequence[int]) -> None:
    """Normalise over the dimensions kept, and write zeros elsewhere."""
    chosen = torch.tensor(kept)
    eps: float = vars(norm)["eps"] if "eps" in vars(norm) else vars(norm)["variance_epsilon"]
    centred = "RMS" not in type(norm).__name__
    parameters = dict(norm.named_parameters())

    def over_kept(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        values = args[0][..., chosen]
        if centred:
            values = values - values.mean(-1, keepdim=True)
        values = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps) * parameters["weight"][chosen]
        if "bias" in parameters:
            values = values + parameters["bias"][chosen]
        result = torch.zeros_like(output)
        result[..., chosen] = values
        return result

    norm.register_forward_hook(over_kept)


def _mask_hidden(view: ModelView, kept: Sequence[int]) -> None:
    dropped = _dropped(kept, view.hidden_size)
    for name, axes in view.roles().items():
        if name.endswith(".weight") and len(axes) == 1 and axes[0] is not None and axes[0].role == "hidden":
            _mask_norm(find(view.model, name.removesuffix(".weight")), kept)
    if getattr(view.config, "share_att_key", False):
        with torch.no_grad():
            find(view.body, "encoder.rel_embeddings").weight[:, dropped] = 0

    def zero(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states = (args[0] if args else kwargs["hidden_states"]).clone()
        states[..., dropped] = 0
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    for block in view.blocks:
        block.register_forward_pre_hook(zero, with_kwargs=True)


def _project(layer: nn.Module, mean: Tensor, directions: Tensor) -> None:
    """Let a layer read the projection of its input onto some directions."""

    def onto(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (mean + (args[0] - mean) @ directions.T @ directions, *args[1:])

    layer.register_forward_pre_hook(onto)


def _bypass(view: ModelView, kept: Sequence[int]) -> None:
    calls = 0

    def skip(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        nonlocal calls
        # Shared blocks run once per layer; otherwise each block runs once per call of the model, in order.
        layer, calls = calls % view.num_layers, calls + 1
        if layer in kept:
            return None
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    for block in view.blocks:
        # Before any hook that records hidden states.
        block.register_forward_hook(skip, with_kwargs=True, prepend=True)


def masked(
    model: nn.Module,
    plan: Plan,
    affine: Mapping[int, nn.Module] | None = None,
    principal: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> nn.Module:
    """A copy of the model at full size that computes what the slim model should.

    Hidden dimensions that are dropped hold zeros (post-norm families) or are never read (pre-norm families); dropped
    blocks hand their input on, so that there are still L+1 hidden states; the vocabulary is left alone.

    Parameters
    ----------
    model : PreTrainedModel
    plan : Plan
    affine : mapping, optional
        {block: what takes the place of its FFN}, at full size, for the blocks of `plan.affine`; default: the output bias alone.
    principal : mapping, optional
        {layer of the head, by path in the model: (mean (H,), directions (k, H))} onto which what it reads is projected.

    Returns
    -------
    nn.Module
        The same class of model; a `ReadoutModel` with a zero classifier if the plan has a readout.
    """
    view = ModelView.of(copy.deepcopy(model))
    if plan.readout is not None:
        view = ModelView.of(ReadoutModel(view.body, plan.readout.neurons, plan.readout.pooling, view.config.num_labels))
    spec, source = view.spec, plan.source
    for number, block in enumerate(view.blocks):
        if number in plan.heads:
            _mask_consumer(block, spec.attention.output, plan.heads[number], source.heads)
        if number in (plan.affine or ()):
            _mask_affine(view, block, (affine or {}).get(number))
        if number in plan.ffn:
            _mask_consumer(block, spec.ffn.output, plan.ffn[number], source.ffn)
    if plan.hidden is not None:
        _mask_hidden(view, plan.hidden)
    for path, (mean, directions) in (principal or {}).items():
        _project(find(view.model, path), mean, directions)
    if plan.layers is not None:
        _bypass(view, plan.layers)
    return view.model
