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

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:  # type: ignore[override]
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


STUBS = (Affine, Constant, ConstantAttention, PassAttention, ResidualAttention)
