"""Update an optimizer's parameters and their state after a cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.errors import UnsupportedError

#: Optimizers whose state can be cut.
CUT = "AdamW, Adam or SGD"


def cut_states(
    optimizer: Optimizer, model: nn.Module, names: Mapping[int, str], narrow: Callable[[nn.Module], None]
) -> dict[str, dict[str, Tensor]]:
    """Cut an optimizer's state of each parameter by the same indices as the parameter.

    For each kind of state a copy of the model that holds it in the place of the weights is cut.

    Parameters
    ----------
    optimizer : Optimizer
    model : nn.Module
        Before the cut.
    names : mapping
        {id of a parameter: its name after the cut}.
    narrow : callable
        Cuts a copy of the model in place.

    Returns
    -------
    dict
        {kind of state: {parameter's name after the cut: the part that is kept}}.

    Raises
    ------
    UnsupportedError
        If the optimizer keeps state that does not have its parameter's shape.
    """
    states: dict[str, dict[str, Tensor]] = {}
    # A scalar of a parameter, such as AdamW's count of steps, is left unchanged.
    kinds = {kind for state in optimizer.state.values() for kind, value in state.items() if isinstance(value, Tensor) and value.ndim}
    for kind in sorted(kinds):
        shadow, held = copy.deepcopy(model), set()
        for (name, ours), theirs in zip(model.named_parameters(), shadow.parameters(), strict=True):
            value = optimizer.state.get(ours, {}).get(kind)
            if not isinstance(value, Tensor) or (value.numel() == 1 and value.shape != ours.shape):
                continue
            if value.shape != ours.shape:
                raise UnsupportedError(f"{type(optimizer).__name__} keeps {kind!r} in another shape than {name}'s; train with {CUT}.")
            theirs.data = value.to(theirs.dtype) if value.dtype != theirs.dtype else value.clone()
            held.add(names[id(ours)])
        if held:
            narrow(shadow)
            states[kind] = {name: parameter.data for name, parameter in shadow.named_parameters() if name in held}
    return states


def is_factored(optimizer: Any) -> bool:
    """Return whether an optimizer will keep factors of its parameters' state, before it has any, in the shapes of rows and columns."""
    # By name: torch, transformers and others each have a class of their own.
    return any("Adafactor" in kind.__name__ for kind in type(optimizer).__mro__)


def held_by(optimizer: Any) -> set[int]:
    """Return the ids of the parameters that an optimizer holds."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def replace_parameters(
    optimizer: Optimizer, names: dict[int, str], after: dict[str, nn.Parameter], states: dict[str, dict[str, Tensor]]
) -> None:
    """Replace the old parameters by the new ones; those that are not the model's are kept.

    Parameters
    ----------
    optimizer : Optimizer
    names : dict
        {id of a parameter of the model before the cut: its name after it}.
    after : dict
        The model's parameters by name.
    states : dict
        {kind of state: {name: the part that is kept}}.
    """
    current = {id(parameter) for parameter in after.values()}
    for group in optimizer.param_groups:
        parameters = []
        for old in group["params"]:
            if id(old) in current or id(old) not in names:
                parameters.append(old)
                continue
            name, state = names[id(old)], optimizer.state.pop(old, None)
            if name not in after:
                continue
            parameters.append(after[name])
            if state is not None:
                optimizer.state[after[name]] = {**state, **{kind: parts[name] for kind, parts in states.items() if name in parts}}
        group["params"] = parameters
