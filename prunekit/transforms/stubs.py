"""Small modules that replace removed sub-blocks; they keep the bias of the output projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    # DistilBERT of transformers 4 names its attention's input `query`, everything else `hidden_states`.
    states = args[0] if args else kwargs["query"] if "query" in kwargs else kwargs["hidden_states"]
    assert isinstance(states, Tensor)
    return states


def _everywhere(bias: Tensor | None, states: Tensor) -> Tensor:
    """Return a vector (width,), or zeros, at each position of states (batch, length, width)."""
    return torch.zeros_like(states) if bias is None else bias.expand(*states.shape[:-1], -1)


class Constant(nn.Module):
    """Module that returns the same vector at each position: the bias of a removed projection."""

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return (batch, length, width), with the batch and length of the first argument."""
        return _everywhere(self.bias, _input(args, kwargs))


class ConstantAttention(nn.Module):
    """`Constant` in the place of an attention module: it returns (vector, no attention weights)."""

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Return ((batch, length, width), None)."""
        return _everywhere(self.bias, _input(args, kwargs)), None


class PassAttention(nn.Module):
    """Identity in the place of an attention module: it returns (input, no attention weights)."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Return ((batch, length, width), None)."""
        return _input(args, kwargs), None


class ResidualAttention(nn.Module):
    """Residual connection and norm of an attention module that contains both."""

    def __init__(self, norm: nn.Module, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.norm, self.bias = norm, bias

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Return ((batch, length, width), None)."""
        states = _input(args, kwargs)
        return self.norm(states if self.bias is None else states + self.bias), None


class Affine(nn.Linear):
    """Replacement of an FFN: an affine map of its input, initially the output bias alone.

    Parameters
    ----------
    weight : Tensor
        (H, F) of the output projection, for its size, dtype and device.
    bias : Tensor or None
        (H,) of the same.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        width = len(weight)
        # Created without values: initialising them would advance the random state.
        super().__init__(width, width, device="meta")
        self.weight = nn.Parameter(weight.new_zeros(width, width))
        self.bias = nn.Parameter(weight.new_zeros(width) if bias is None else bias.clone())


class ReadsComponents(nn.Module):
    """Replacement of a layer of the head that reads the last state: a projection to a few numbers, and a layer that reads these.

    Parameters
    ----------
    layer : nn.Linear
        For its sizes, dtype and device.
    components : int
        Number of components.

    Attributes
    ----------
    components : nn.Linear
        (H, k); initially zero.
    reader : nn.Linear
        (k, outputs); initially zero.
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
        """Return (..., outputs) for states (..., H)."""
        outputs: Tensor = self.reader(self.components(states))
        return outputs


class IndexSelect(nn.Module):
    """Selection of entries along one axis of a named argument of a module, which several modules share.

    Parameters
    ----------
    index : Tensor
        (k,) int64, the entries selected.
    argument : str
        Keyword of the argument.
    axis : int
    """

    index: Tensor

    def __init__(self, index: Tensor, argument: str, axis: int) -> None:
        super().__init__()
        self.argument, self.axis = argument, axis
        # It follows from the plan, so that it is not saved.
        self.register_buffer("index", index, persistent=False)
        self._handle: Any = None

    def attach_to(self, module: nn.Module, name: str) -> None:
        """Select in each call of a module, as a submodule of it under a name."""
        module.add_module(name, self)
        self._name, self._handle = name, module.register_forward_pre_hook(self._replace_argument, with_kwargs=True)

    def detach_from(self, module: nn.Module) -> None:
        """Undo `attach_to`."""
        self._handle.remove()
        delattr(module, self._name)

    def forward(self, shared: Tensor) -> Tensor:
        """Return the selected entries of `shared`."""
        return shared.index_select(self.axis, self.index)

    def _replace_argument(self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**named, self.argument: self(named[self.argument])}


def _zeros(like: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    # Created without values: initialising them would advance the random state.
    layer = nn.Linear(inputs, outputs, device="meta")
    layer.weight = nn.Parameter(like.weight.new_zeros(outputs, inputs))
    layer.bias = nn.Parameter(like.weight.new_zeros(outputs))
    return layer


STUBS = (Affine, IndexSelect, Constant, ConstantAttention, PassAttention, ReadsComponents, ResidualAttention)
