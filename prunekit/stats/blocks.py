"""Run a model one block at a time over a small calibration set, and record activations inside it.

A block is called with exactly the arguments that the full model passes to it (masks, positions, rotations), but with a
hidden state of the caller's choice, so that a block can be changed and run again without running those below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunekit.arch.spec import SubBlock
from prunekit.arch.view import ModelView, find
from prunekit.errors import StatisticsError, UnsupportedError

Role = Literal["heads", "ffn"]
ROLES: tuple[Role, Role] = ("heads", "ffn")
#: A position inside a block: the input or output of the module (or method) at a path; "" is the block itself.
Tap = tuple[Literal["in", "out"], str]

# Sizes of one name are equal in a call; axes that differ from one batch to the next have none.
States = Float[Tensor, "x y h"]
Recorded = Float[Tensor, "..."]
#: Tokenised rows, tensors of (batch, length), a mapping for each batch.
Batches = Sequence[Mapping[str, Shaped[Tensor, "_ _"]]]


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer, whatever module or raw parameter holds it.

    Attributes
    ----------
    weight : Tensor
        (out, in), a view of the parameter: writing to it changes the parameter.
    bias : Tensor or None
        (out,), the parameter.
    """

    weight: Float[Tensor, "o k"]
    bias: Float[Tensor, " o"] | None

    @classmethod
    def at(cls, root: nn.Module, path: str) -> Linear | None:
        """Return the linear layer at a path; None if there is something else, or nothing."""
        target = find(root, path)
        if isinstance(target, nn.Parameter):
            # (out, heads, head_dim), contiguous, so that this is a view.
            return cls(target.detach().view(len(target), -1), None)
        if isinstance(target, nn.Linear):
            return cls(target.weight.detach(), None if target.bias is None else target.bias.detach())
        if isinstance(target, Conv1D):
            return cls(target.weight.detach().T, target.bias.detach())
        return None


@dataclass(frozen=True)
class Site:
    """The input of the projection by which the units of one sub-block enter the residual stream.

    Attributes
    ----------
    block : int
        Number of the stored block; families with shared weights have block 0 alone.
    role : {"heads", "ffn"}
    """

    block: int
    role: Role

    def part(self, view: ModelView) -> SubBlock:
        """Return the family's record of the sub-block."""
        return view.spec.attention if self.role == "heads" else view.spec.ffn

    def projection(self, view: ModelView) -> Linear | None:
        """Return the output projection; None where the sub-block is removed."""
        return Linear.at(view.blocks[self.block], self.part(view).output)

    def units_tap(self, view: ModelView) -> Tap:
        """Return the tap of the units' outputs, (..., k): the input of the output projection."""
        part = self.part(view)
        return "in", part.method or part.output

    def sum_tap(self, view: ModelView) -> Tap:
        """Return the tap of the residual sum behind the sub-block."""
        part = self.part(view)
        if not part.sum:
            return "out", ""
        if find(view.blocks[self.block], part.sum) is None:
            # The sub-block is removed and its norm has moved into the stub that replaces it.
            stub = next(stub for stub in part.removal if stub.kind == "residual")
            return "in", f"{stub.at}.norm"
        return "in", part.sum


def sites(view: ModelView) -> tuple[Site, ...]:
    """Return all sites of a model, from the lowest block up."""
    # A body that cannot run without blocks may hold a placeholder.
    return tuple(Site(block, role) for block in range(min(len(view.blocks), view.num_layers)) for role in ROLES)


def batch_first(view: ModelView, tensor: Shaped[Tensor, "_ _ *rest"]) -> Shaped[Tensor, "_ _ *rest"]:
    """Return a tensor recorded inside a block as (batch, length, ...)."""
    return tensor.transpose(0, 1) if view.spec.time_first else tensor


@dataclass(frozen=True)
class Call:
    """The call of one block by the model on one batch, except for the hidden state."""

    rest: tuple[Any, ...]
    named: Mapping[str, Any]
    by_name: bool

    def __call__(self, block: nn.Module, hidden: States) -> States:
        """Return the block's output for another hidden state, (batch, length, H)."""
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

    hidden: tuple[Float[Tensor, "_ _ h"], ...]
    calls: tuple[tuple[Call, ...], ...]
    masks: tuple[Bool[Tensor, "_ _"], ...]

    def of(self, share: Sequence[int]) -> Calls:
        """Return the calls on the batches of these numbers."""
        return Calls(*(tuple(each[number] for number in share) for each in (self.hidden, self.calls, self.masks)))  # type: ignore[arg-type]  # each of its own kind


def record_calls(view: ModelView, batches: Batches) -> Calls:
    """Run the body once over each batch and record how it calls its blocks.

    Raises
    ------
    StatisticsError
        If there are no batches.
    UnsupportedError
        If other layers stand between the blocks, so that they cannot be run one by one.
    """
    if not batches:
        raise StatisticsError("There are no calibration rows; give some.")
    hidden: list[States] = []
    calls: list[tuple[Call, ...]] = []
    for batch in batches:
        entered: list[tuple[States, Call]] = []
        outputs: list[States] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], entered: list[tuple[States, Call]] = entered) -> None:
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            entered.append((args[0] if args else kwargs["hidden_states"], Call(args[1:], named, not args)))

        def after(module: nn.Module, args: Any, output: Any, outputs: list[States] = outputs) -> None:
            outputs.append(output if isinstance(output, Tensor) else output[0])

        handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in view.blocks]
        handles += [block.register_forward_hook(after) for block in view.blocks]
        try:
            with torch.no_grad():
                view.hidden_states(batch)
        finally:
            for handle in handles:
                handle.remove()
        if any(later is not earlier for (later, _), earlier in zip(entered[1:], outputs, strict=False)):
            raise UnsupportedError(
                f"{view.source.model_type} model: something stands between its blocks, so that they cannot be refitted one by one."
            )
        hidden.append(entered[0][0] if entered else torch.empty(0, 0, 0))
        calls.append(tuple(call for _, call in entered))
    return Calls(tuple(hidden), tuple(calls), tuple(batch["attention_mask"].bool() for batch in batches))


@contextmanager
def taps(module: nn.Module, wanted: Iterable[Tap]) -> Iterator[dict[Tap, list[Recorded]]]:
    """Record inputs and outputs of submodules while the context is open: one tensor a call for each tap.

    A tap whose path does not exist is left out.
    """
    recorded: dict[Tap, list[Recorded]] = {}
    handles: list[Any] = []
    methods: list[tuple[nn.Module, str]] = []
    try:
        for kind, path in dict.fromkeys(wanted):
            target = find(module, path) if path else module
            if target is None:
                continue
            into = recorded[kind, path] = []
            if not isinstance(target, nn.Module):
                above, _, name = path.rpartition(".")
                owner = find(module, above)
                setattr(owner, name, _recording(target, into))
                methods.append((owner, name))
            elif kind == "in":
                handles.append(target.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0])))
            else:
                handles.append(
                    target.register_forward_hook(
                        lambda _, __, output, into=into: into.append(output if isinstance(output, Tensor) else output[0])
                    )
                )
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
        for owner, name in methods:
            # Uncover the method of the class.
            delattr(owner, name)


def _recording(method: Any, into: list[Recorded]) -> Any:
    def record(residual: Recorded, units: Float[Tensor, "... heads width"], *rest: Any) -> Any:
        into.append(units.flatten(-2))
        return method(residual, units, *rest)

    return record


class _ReachedError(Exception):
    """Raised when all taps are recorded, so that the rest of the block need not run."""


def run_until(call: Call, block: nn.Module, hidden: States, wanted: Sequence[Tap]) -> dict[Tap, Recorded]:
    """Return the tensors at some taps of a block, which is run no further than the last of them."""
    (kind, path) = wanted[-1]
    target = find(block, path) if path else block
    assert isinstance(target, nn.Module)

    def stop(*_: object) -> None:
        raise _ReachedError

    with taps(block, wanted) as recorded:
        # Registered after the taps, so that it runs after them.
        handle = target.register_forward_pre_hook(stop) if kind == "in" else target.register_forward_hook(stop)
        try:
            call(block, hidden)
        except _ReachedError:
            pass
        finally:
            handle.remove()
    return {tap: values[0] for tap, values in recorded.items() if values}


def reader_paths(view: ModelView) -> list[str]:
    """Return the paths of the linear layers outside the blocks that read the last hidden state."""
    paths = []
    for name, axes in view.roles(blocks=False).items():
        reads = len(axes) == 2 and axes[0] is None and axes[1] is not None and axes[1].role == "hidden"
        path = name.removesuffix(".weight")
        if reads and Linear.at(view.model, path) is not None:
            paths.append(path)
    return paths
