"""Runs a model one block at a time over a small calibration set, and taps what flows inside.

A block is called with exactly the arguments that the whole model gave it (masks, positions, rotations), but with a
hidden state of the caller's choice, so that a block can be changed and run again without running those below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView, find
from prunekit.errors import StatisticsError, UnsupportedError

Role = Literal["heads", "ffn"]
ROLES: tuple[Role, Role] = ("heads", "ffn")
#: A place inside a block: what enters the module (or method) at a path, or leaves it; "" is the block itself.
Tap = tuple[Literal["in", "out"], str]


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer, whatever module or raw parameter holds it.

    Attributes
    ----------
    weight : Tensor
        (out, in), a view of the parameter: what is written here is written there.
    bias : Tensor or None
        (out,), the parameter.
    """

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def at(cls, root: nn.Module, path: str) -> Linear | None:
        """The linear layer at a path; None if something else stands there, or nothing."""
        found = find(root, path)
        if isinstance(found, nn.Parameter):
            # (out, heads, head_dim), contiguous, so that this is a view.
            return cls(found.detach().view(len(found), -1), None)
        if isinstance(found, nn.Linear):
            return cls(found.weight.detach(), None if found.bias is None else found.bias.detach())
        if isinstance(found, Conv1D):
            return cls(found.weight.detach().T, found.bias.detach())
        return None


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

    def projection(self, view: ModelView) -> Linear | None:
        """The output projection; None where the sub-block is gone."""
        return Linear.at(view.blocks[self.block], self.part(view).output)

    def units_tap(self, view: ModelView) -> Tap:
        """Where what the units give can be seen, (..., k): the input of the output projection."""
        part = self.part(view)
        return "in", part.method or part.output

    def sum_tap(self, view: ModelView) -> Tap:
        """Where the residual sum behind the sub-block can be seen."""
        part = self.part(view)
        if not part.sum:
            return "out", ""
        if find(view.blocks[self.block], part.sum) is None:
            # The sub-block is gone and its norm has moved into what stands in its place.
            stub = next(stub for stub in part.removal if stub.kind == "residual")
            return "in", f"{stub.at}.norm"
        return "in", part.sum


def sites(view: ModelView) -> tuple[Site, ...]:
    """All sites of a model, from the bottom up."""
    # A body that cannot run without blocks may hold one that is no block.
    return tuple(Site(block, role) for block in range(min(len(view.blocks), view.num_layers)) for role in ROLES)


def batch_first(view: ModelView, tensor: Tensor) -> Tensor:
    """(batch, length, ...) of something seen inside a block."""
    return tensor.transpose(0, 1) if view.spec.time_first else tensor


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
        Input of the first block, one (batch, length, H) a batch, as the blocks lay it out.
    calls : tuple of tuple of Call
        [batch][layer]; with shared weights one call for each time that the block is applied.
    masks : tuple of Tensor
        Real tokens, one (batch, length) bool a batch.
    """

    hidden: tuple[Tensor, ...]
    calls: tuple[tuple[Call, ...], ...]
    masks: tuple[Tensor, ...]


def record_calls(view: ModelView, batches: Sequence[Mapping[str, Tensor]]) -> Calls:
    """Run the body once over each batch and write down how it calls its blocks.

    Raises
    ------
    StatisticsError
        If there are no batches.
    UnsupportedError
        If something stands between the blocks, so that they cannot be run one by one.
    """
    if not batches:
        raise StatisticsError("There are no calibration rows; give some.")
    hidden: list[Tensor] = []
    calls: list[tuple[Call, ...]] = []
    for batch in batches:
        seen: list[tuple[Tensor, Call]] = []
        given: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], seen: list[tuple[Tensor, Call]] = seen) -> None:
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            seen.append((args[0] if args else kwargs["hidden_states"], Call(args[1:], named, not args)))

        def after(module: nn.Module, args: Any, output: Any, given: list[Tensor] = given) -> None:
            given.append(output if isinstance(output, Tensor) else output[0])

        handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in view.blocks]
        handles += [block.register_forward_hook(after) for block in view.blocks]
        try:
            with torch.no_grad():
                view.hidden_states(batch)
        finally:
            for handle in handles:
                handle.remove()
        if any(later is not earlier for (later, _), earlier in zip(seen[1:], given, strict=False)):
            raise UnsupportedError(
                f"{view.source.model_type} model: something stands between its blocks, so that they cannot be re-solved one by one."
            )
        hidden.append(seen[0][0] if seen else torch.empty(0))
        calls.append(tuple(call for _, call in seen))
    return Calls(tuple(hidden), tuple(calls), tuple(batch["attention_mask"].bool() for batch in batches))


@contextmanager
def taps(module: nn.Module, wanted: Iterable[Tap]) -> Iterator[dict[Tap, list[Tensor]]]:
    """Collect what enters and leaves submodules while the context is open: one tensor a call for each tap.

    A tap whose path is not there is left out.
    """
    found: dict[Tap, list[Tensor]] = {}
    handles: list[Any] = []
    methods: list[tuple[nn.Module, str]] = []
    try:
        for kind, path in dict.fromkeys(wanted):
            target = find(module, path) if path else module
            if target is None:
                continue
            into = found[kind, path] = []
            if not isinstance(target, nn.Module):
                above, _, name = path.rpartition(".")
                owner = find(module, above)
                setattr(owner, name, _noting(target, into))
                methods.append((owner, name))
            elif kind == "in":
                handles.append(target.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0])))
            else:
                handles.append(
                    target.register_forward_hook(
                        lambda _, __, output, into=into: into.append(output if isinstance(output, Tensor) else output[0])
                    )
                )
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for owner, name in methods:
            # The method of the class shows again.
            delattr(owner, name)


def _noting(method: Any, into: list[Tensor]) -> Any:
    def noting(residual: Tensor, units: Tensor, *rest: Any) -> Any:
        into.append(units.flatten(-2))
        return method(residual, units, *rest)

    return noting


class _ReachedError(Exception):
    """Everything asked for has been seen; the rest of the block need not run."""


def run_until(call: Call, block: nn.Module, hidden: Tensor, wanted: Sequence[Tap]) -> dict[Tap, Tensor]:
    """What is seen at some places of a block; it is run no further than the last of them."""
    (kind, path) = wanted[-1]
    target = find(block, path) if path else block
    assert isinstance(target, nn.Module)

    def stop(*_: object) -> None:
        raise _ReachedError

    with taps(block, wanted) as found:
        # Registered after the taps, so that it runs after them.
        handle = target.register_forward_pre_hook(stop) if kind == "in" else target.register_forward_hook(stop)
        try:
            call(block, hidden)
        except _ReachedError:
            pass
        finally:
            handle.remove()
    return {tap: values[0] for tap, values in found.items() if values}


def reader_paths(view: ModelView) -> list[str]:
    """Linear layers outside the blocks that read the last hidden state."""
    found = []
    for name, axes in view.roles(blocks=False).items():
        reads = len(axes) == 2 and axes[0] is None and axes[1] is not None and axes[1].role == "hidden"
        path = name.removesuffix(".weight")
        if reads and Linear.at(view.model, path) is not None:
            found.append(path)
    return found
