"""Outputs of the model's own head when parts of the model are removed and nothing is refitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from prunekit.arch.view import ModelView
from prunekit.data.batches import Batch, Encoded
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan
from prunekit.stats.blocks import Call, record_calls
from prunekit.stats.collected import Ablations, Outputs
from prunekit.transforms.apply import apply


def ablate(view: ModelView, encoded: Encoded, outputs: int, *, progress: Callable[[int, int], None] | None = None) -> Ablations:
    """Evaluate every row with the first k blocks, and without each block, FFN and attention.

    The blocks below a gap run once for all gaps above them.

    Parameters
    ----------
    view : ModelView
        Of a model with a head for the rows' task.
    encoded : Encoded
    outputs : int
        Width of the head.
    progress : callable, optional
        Called with (rows done, rows in all).

    Raises
    ------
    UnsupportedError
        If there are other operations between the blocks, so that they cannot be run one by one.
    """
    total = view.num_layers
    without: dict[str, Sequence[nn.Module] | None] = {role: _blocks_without(view, role) for role in ("ffn", "heads")}
    answers = {name: np.empty((steps, len(encoded.labels), outputs), dtype=np.float32) for name, steps in _sizes(total).items()}
    training = view.model.training
    view.model.eval()
    try:
        done = 0
        with torch.no_grad():
            for batch in encoded.batches():
                run = _Run(view, batch)
                for k in range(total + 1):
                    answers["kept"][k, batch.targets] = run.answer(run.states[k])
                for layer in range(total):
                    answers["layers"][layer, batch.targets] = run.answer(run.onwards(run.states[layer], layer + 1))
                    for role, blocks in without.items():
                        if blocks is not None:
                            state = run.calls[layer](blocks[layer % len(blocks)], run.states[layer])
                            answers[role][layer, batch.targets] = run.answer(run.onwards(state, layer + 1))
                done += len(batch.rows)
                if progress is not None:
                    progress(done, len(encoded))
    finally:
        view.model.train(training)
    cut = {role: None if blocks is None else tuple(answers[role]) for role, blocks in without.items()}
    return Ablations(encoded.labels, tuple(answers["kept"]), tuple(answers["layers"]), cut["ffn"], cut["heads"])


def _sizes(total: int) -> dict[str, int]:
    return {"kept": total + 1, "layers": total, "ffn": total, "heads": total}


def _blocks_without(view: ModelView, role: Literal["ffn", "heads"]) -> Sequence[nn.Module] | None:
    """Return all blocks without one of their sub-blocks; None for a family that does not support it."""
    try:
        view.check(role)
        plan = Plan(source=view.source, **{role: {block: () for block in range(view.num_layers)}})
        return list(ModelView.of(apply(view.model, plan)).blocks)
    except UnsupportedError:
        return None


class _Run:
    """One batch: the calls of the blocks, and the state before and after each."""

    def __init__(self, view: ModelView, batch: Batch) -> None:
        self._view, self._first = view, batch.first
        tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
        outputs: list[Any] = []
        handle = view.blocks[0].register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            recorded = record_calls(view, [tensors])
        finally:
            handle.remove()
        # Some blocks return a tuple, of which the first item is the state.
        self._rest: tuple[Any, ...] | None = outputs[0][1:] if isinstance(outputs[0], tuple) else None
        self._inputs = {name: tensors[name] for name in view.inputs if name in tensors}
        self.calls: tuple[Call, ...] = recorded.calls[0]
        self.states = [recorded.hidden[0]]
        for layer in range(view.num_layers):
            self.states.append(self.calls[layer](self._block(layer), self.states[-1]))

    def _block(self, layer: int) -> nn.Module:
        # With shared weights there is one block for all layers.
        return self._view.blocks[layer % len(self._view.blocks)]

    def onwards(self, state: Tensor, layer: int) -> Tensor:
        """Run the blocks from a layer to the top."""
        for above in range(layer, self._view.num_layers):
            state = self.calls[above](self._block(above), state)
        return state

    def answer(self, state: Tensor) -> Outputs:
        """Return the outputs of the head for a state in the place of the top block's output."""
        with _replaced_blocks(self._view, state if self._rest is None else (state, *self._rest)):
            logits: Tensor = self._view.model(**self._inputs, return_dict=True).logits
        if self._first is not None:
            first = torch.from_numpy(self._first)
            logits = logits[first[:, 0], first[:, 1]]
        return np.asarray(logits.float().numpy(), dtype=np.float32)


@contextmanager
def _replaced_blocks(view: ModelView, output: Any) -> Iterator[None]:
    """Let every block return this output without computing anything; the rest of the model runs as usual."""
    for block in view.blocks:
        block.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for block in view.blocks:
            # This restores the method of the class.
            del block.forward
