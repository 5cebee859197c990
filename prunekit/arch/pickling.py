"""Models on their way to another process, as pickles."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel

#: Attribute by which transformers 5 says that a model has the hooks through which it returns its hidden states.
_HOOKED = "_output_capturing_hooks_installed"


def bare(module: nn.Module, seen: dict[int, nn.Module] | None = None) -> nn.Module:
    """Return a module of the same parameters and buffers without hooks, which belong to the process that registered them."""
    seen = {} if seen is None else seen
    if id(module) not in seen:
        copied = seen[id(module)] = module.__new__(type(module))
        state: dict[str, Any] = {name: value for name, value in vars(module).items() if name != _HOOKED}
        hooks = {name: type(value)() for name, value in state.items() if "_hooks" in name and isinstance(value, dict)}
        children = {name: None if child is None else bare(child, seen) for name, child in module._modules.items()}
        copied.__dict__.update(state | hooks | {"_modules": children})
    return seen[id(module)]


def settle(model: nn.Module) -> None:
    """Make the classes of a model known to transformers in this process, which otherwise learns of them when one is made."""
    for kind, config in {type(part): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}.items():
        PreTrainedModel.__init__(kind.__new__(kind), copy.deepcopy(config))
