"""Runs a model one block at a time over a small calibration set, and taps what flows inside.

A block is called with exactly the arguments that the whole model gave it (masks, positions, rotations), but with a
hidden state of the caller's choice, so that a block can be changed and run again without running those below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView, find

Role = Literal["heads", "ffn"]
ROLES: tuple[Role, Role] = ("heads", "ffn")


@dataclass(frozen=True)
class Site:
    """Where the units of one sub-block enter the projection back into the residual stream.

    Attributes
    ----------
    block : int
        Number of the stored block; families with shared weights have block 0 alone.
    role : {"heads", "ffn"}
    """

    block: int
    role: Role

    def part(self, view: ModelView) -> SubBlock:
        """The family's record of the sub-block."""
        return view.spec.attention if self.role == "heads" else view.spec.ffn

    def projection(self, view: ModelView) -> nn.Module | None:
        """The output projection; None where it is a raw parameter, or gone."""
        module = find(view.blocks[self.block], self.part(view).output)
        return module if isinstance(module, nn.Module) and isinstance(getattr(module, "weight", None), nn.Parameter) else None


def sites(view: ModelView) -> tuple[Site, ...]:
    """All sites of a model, from the bottom up."""
    return tuple(Site(block, role) for block in range(len(view.blocks)) for role in ROLES)


@dataclass(frozen=True)
class Call:
    """How the model called one block on one batch, but for the hidden state."""

    rest: tuple[Any, ...]
    named: Mapping[str, Any]
    by_name: bool

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's output for another hidden state, (batch, length, H)."""
        output = block(**{**self.named, "hidden_states": hidden}) if self.by_name else block(hidden, *self.rest, **self.named)
        return output if isinstance(output, Tensor) else output[0]


@dataclass(frozen=True)
class Calls:
    """Calls of all blocks on all batches.

    Attributes
    ----------
    hidden : tuple of Tensor
        Input of the first block, one (batch, length, H) a batch.
    calls : tuple of tuple of Call
        [batch][block]; with shared weights one call for each time that the block is applied.
    masks : tuple of Tensor
        Real tokens, one (batch, length) bool a batch.
    """

    hidden: tuple[Tensor, ...]
    calls: tuple[tuple[Call, ...], ...]
    masks: tuple[Tensor, ...]


def record_calls(view: ModelView, batches: Sequence[Mapping[str, Tensor]]) -> Calls:
    """Run the body once over each batch and write down how it calls its blocks."""
    hidden: list[Tensor] = []
    calls: list[tuple[Call, ...]] = []
    for batch in batches:
        seen: list[tuple[Tensor, Call]] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], seen: list[tuple[Tensor, Call]] = seen) -> None:
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            first = args[0] if args else kwargs["hidden_states"]
            seen.append((first if not seen else seen[0][0], Call(args[1:], named, not args)))

        handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in view.blocks]
        try:
            with torch.inference_mode():
                view.hidden_states(batch)
        finally:
            for handle in handles:
                handle.remove()
        hidden.append(seen[0][0])
        calls.append(tuple(call for _, call in seen))
    return Calls(tuple(hidden), tuple(calls), tuple(batch["attention_mask"].bool() for batch in batches))


@contextmanager
def taps(module: nn.Module, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> Iterator[dict[tuple[str, str], list[Tensor]]]:
    """Collect what enters and leaves submodules while the context is open: {("in" or "out", path): one tensor a call}.

    A path that is not there is left out; "" is the module itself.
    """
    found: dict[tuple[str, str], list[Tensor]] = {}
    handles = []
    for path in dict.fromkeys(inputs):
        target = find(module, path) if path else module
        if isinstance(target, nn.Module):
            into = found.setdefault(("in", path), [])
            handles.append(target.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0])))
    for path in dict.fromkeys(outputs):
        target = find(module, path) if path else module
        if isinstance(target, nn.Module):
            into = found.setdefault(("out", path), [])
            handles.append(
                target.register_forward_hook(
                    lambda _, __, output, into=into: into.append(output if isinstance(output, Tensor) else output[0])
                )
            )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def sum_tap(view: ModelView, site: Site) -> tuple[str, str]:
    """Where the residual sum behind a site's sub-block can be tapped, as a key of `taps`."""
    part = site.part(view)
    if not part.sum:
        return "out", ""
    if find(view.blocks[site.block], part.sum) is None:
        # The sub-block is gone and its norm has moved into what stands in its place.
        stub = next(stub for stub in part.removal if stub.kind == "residual")
        return "in", f"{stub.at}.norm"
    return "in", part.sum
