"""Small modules that stand where a sub-block was removed; they keep the bias of its output projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    # DistilBERT of transformers 4 names its attention's input `query`, everything else `hidden_states`.
    found = args[0] if args else kwargs["query"] if "query" in kwargs else kwargs["hidden_states"]
    assert isinstance(found, Tensor)
    return found


class Constant(nn.Module):
    """Returns the same vector at each position: the bias of a projection whose input is gone."""

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """(batch, length, width), with the batch and length of the first argument."""
        states = _input(args, kwargs)
        return torch.zeros_like(states) if self.bias is None else self.bias.expand(*states.shape[:-1], -1)


class ConstantAttention(Constant):
    """A `Constant` where an attention module is expected: returns (vector, no attention weights)."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:  # type: ignore[override]  # takes whatever the block took
        """((batch, length, width), None)."""
        return super().forward(*args, **kwargs), None


class PassAttention(nn.Module):
    """Returns (input, no attention weights)."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """((batch, length, width), None)."""
        return _input(args, kwargs), None


class ResidualAttention(nn.Module):
    """What is left of an attention module that holds the residual connection and its norm."""

    def __init__(self, norm: nn.Module, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.norm, self.bias = norm, bias

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """((batch, length, width), None)."""
        states = _input(args, kwargs)
        return self.norm(states if self.bias is None else states + self.bias), None


class Affine(nn.Linear):
    """What takes the place of an FFN: an affine map of its input, at first the output bias alone.

    Parameters
    ----------
    weight : Tensor
        (H, F) of the output projection, for its size, dtype and device.
    bias : Tensor or None
        (H,) of the same.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        width = len(weight)
        # Made without values, for drawing them would move the random state.
        super().__init__(width, width, device="meta")
        self.weight = nn.Parameter(weight.new_zeros(width, width))
        self.bias = nn.Parameter(weight.new_zeros(width) if bias is None else bias.clone())


class ReadsComponents(nn.Module):
    """What takes the place of a layer of the head that reads the last state: a projection to a few numbers, and what is made of them.

    Parameters
    ----------
    layer : nn.Linear
        For its sizes, dtype and device.
    components : int
        How many numbers.

    Attributes
    ----------
    components : nn.Linear
        (H, k); zero at first.
    reader : nn.Linear
        (k, outputs); zero at first.
    """

    def __init__(self, layer: nn.Linear, components: int) -> None:
        super().__init__()
        self.components = _zeros(layer, layer.in_features, components)
        self.reader = _zeros(layer, components, layer.out_features)

    def fill(self, weight: Tensor, bias: Tensor | None, mean: Tensor, directions: Tensor) -> None:
        """Read the projection of states onto `directions` (k, H) about `mean` (H,) as a layer (outputs, H) reads the states."""
        with torch.no_grad():
            self.components.weight.copy_(directions)
            self.components.bias.copy_(-directions @ mean)
            self.reader.weight.copy_(weight @ directions.T)
            self.reader.bias.copy_(weight @ mean if bias is None else weight @ mean + bias)

    def forward(self, states: Tensor) -> Tensor:
        """(..., outputs) of (..., H)."""
        found: Tensor = self.reader(self.components(states))
        return found


class Columns(nn.Module):
    """What a module is handed of something that is shared: some entries of one axis of a named argument.

    Parameters
    ----------
    index : Tensor
        (k,) int64, the entries.
    argument : str
        The keyword by which the module is called with it.
    axis : int
    """

    index: Tensor

    def __init__(self, index: Tensor, argument: str, axis: int) -> None:
        super().__init__()
        self.argument, self.axis = argument, axis
        # It follows from the plan, so that no file holds it.
        self.register_buffer("index", index, persistent=False)
        self._handle: Any = None

    def attach_to(self, module: nn.Module, name: str) -> None:
        """Stand between a module and its callers, and in it under a name."""
        module.add_module(name, self)
        self._name, self._handle = name, module.register_forward_pre_hook(self._choose, with_kwargs=True)

    def detach_from(self, module: nn.Module) -> None:
        """Stand there no longer."""
        self._handle.remove()
        delattr(module, self._name)

    def forward(self, shared: Tensor) -> Tensor:
        """The entries of `shared`."""
        return shared.index_select(self.axis, self.index)

    def _choose(self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**named, self.argument: self(named[self.argument])}


def _zeros(like: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    # Made without values, for drawing them would move the random state.
    made = nn.Linear(inputs, outputs, device="meta")
    made.weight = nn.Parameter(like.weight.new_zeros(outputs, inputs))
    made.bias = nn.Parameter(like.weight.new_zeros(outputs))
    return made


STUBS = (Affine, Columns, Constant, ConstantAttention, PassAttention, ReadsComponents, ResidualAttention)
