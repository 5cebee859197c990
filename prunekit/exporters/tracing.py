"""Context managers that prepare a model for tracing and restore it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel, masking_utils


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, without gradients, and restore the training modes on exit."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _broadcast(mask_function: Callable[..., Tensor], bh_indices: bool = True) -> Callable[..., Tensor]:
    def mask(*indices: Tensor) -> Tensor:
        present = [index for index in indices if index is not None]
        grid = [index.reshape([-1 if axis == at else 1 for axis in range(len(present))]) for at, index in enumerate(present)]
        allowed = mask_function(*([None] * (len(indices) - len(present))), *grid)
        return allowed.expand([index.shape[0] for index in present])

    return mask


def _padding(padding_mask: Tensor) -> Callable[..., Tensor]:
    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return padding_mask[:, None, None, :]

    return mask


def _unmasked(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query.new_ones((1, 1, 1, 1), dtype=torch.bool)


#: Functions of transformers' mask building and their replacements during tracing, by major version. 4 computes causal masks by
#: vmap, which cannot be traced; broadcasting gives the same mask. 5 looks up each position of a mask by its indices, which without
#: a cache are all of them in order: twenty nodes that return the mask itself.
_MASKS: Mapping[int, Mapping[str, Any]] = {
    4: {"_vmap_for_bhqkv": _broadcast, "TransformGetItemToIndex": nullcontext},
    5: {"padding_mask_function": _padding, "bidirectional_mask_function": _unmasked},
}


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Use plain matrix products for attention and no cache of keys and values, and restore the settings on exit.

    Modules read their config when they run, except those of some families in transformers 4, which read it when they are built:
    those keep their attention implementation.
    """
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    switchable = all(module._can_set_attn_implementation() for module in model.modules() if isinstance(module, PreTrainedModel))
    changes = {"use_cache": False, **({"_attn_implementation": "eager"} if switchable else {})}
    previous = [
        (config, name, value) for config in configs.values() for name in changes if (value := getattr(config, name, None)) is not None
    ]
    for config, name, _ in previous:
        setattr(config, name, changes[name])
    masks = _MASKS.get(int(transformers.__version__.partition(".")[0]), {})
    originals = {name: getattr(masking_utils, name) for name in masks}
    for name, function in masks.items():
        setattr(masking_utils, name, function)
    try:
        yield
    finally:
        for name, value in originals.items():
            setattr(masking_utils, name, value)
        for config, name, value in previous:
            setattr(config, name, value)
