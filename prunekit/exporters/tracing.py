"""A model in the state in which it is traced, and afterwards as it was."""

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
    """Put every module in evaluation mode, without gradients, and back as it was."""
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
        given = [index for index in indices if index is not None]
        grid = [index.reshape([-1 if axis == at else 1 for axis in range(len(given))]) for at, index in enumerate(given)]
        found = mask_function(*([None] * (len(indices) - len(given))), *grid)
        return found.expand([index.shape[0] for index in given])

    return mask


def _padding(padding_mask: Tensor) -> Callable[..., Tensor]:
    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return padding_mask[:, None, None, :]

    return mask


def _everything(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query.new_ones((1, 1, 1, 1), dtype=torch.bool)


#: Functions of transformers' mask building, and what stands for them while a model is traced, by major version. 4 computes causal
#: masks by vmap, which cannot be traced; broadcasting gives the same mask. 5 looks up each place of a mask by its indices, which
#: without a cache are all of them in order: twenty nodes that say what the mask itself says.
_MASKS: Mapping[int, Mapping[str, Any]] = {
    4: {"_vmap_for_bhqkv": _broadcast, "TransformGetItemToIndex": nullcontext},
    5: {"padding_mask_function": _padding, "bidirectional_mask_function": _everything},
}


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Plain matrix products for attention and no cache of keys and values, and back as it was.

    Modules ask their config when they run, except those of some families in transformers 4, which ask when they are built:
    those keep the attention that they have.
    """
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None}
    asks = all(module._can_set_attn_implementation() for module in model.modules() if isinstance(module, PreTrainedModel))
    changes = {"use_cache": False, **({"_attn_implementation": "eager"} if asks else {})}
    before = [
        (config, name, value) for config in configs.values() for name in changes if (value := getattr(config, name, None)) is not None
    ]
    for config, name, _ in before:
        setattr(config, name, changes[name])
    masks = _MASKS.get(int(transformers.__version__.partition(".")[0]), {})
    mapped = {name: getattr(masking_utils, name) for name in masks}
    for name, function in masks.items():
        setattr(masking_utils, name, function)
    try:
        yield
    finally:
        for name, value in mapped.items():
            setattr(masking_utils, name, value)
        for config, name, value in before:
            setattr(config, name, value)
