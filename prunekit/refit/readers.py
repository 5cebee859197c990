"""Refit of what stands outside the blocks: norms, and the layers that read the last state (pooler or head)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from prunekit.arch.spec import HIDDEN
from prunekit.arch.view import ModelView, find
from prunekit.data import parallel
from prunekit.refit.records import Solution
from prunekit.stats.blocks import Batches, Linear, Tap, reader_paths, taps
from prunekit.stats.comoment import Comoment, ComomentSum, widened


@dataclass(frozen=True, eq=False)
class Stream:
    """Dimensions of the dense residual stream that the slim one has.

    Attributes
    ----------
    kept : Tensor or None
        (h,) int64; None: all.
    wide : ModelView or None
        The slim model with all dimensions, for the weights with which its layers read the removed ones.
    """

    kept: Int64[Tensor, " h"] | None = None
    wide: ModelView | None = None

    def narrow(self, states: Float[Tensor, "*rows wide"]) -> Float[Tensor, "*rows h"]:
        """Return the slim dimensions of dense states, (..., h) of (..., H)."""
        return states if self.kept is None else states[..., self.kept]

    def widen(self, states: Float[Tensor, "*rows h"], width: int) -> Float[Tensor, "*rows wide"]:
        """Return slim states with zeros at the removed dimensions, (..., H) of (..., h)."""
        if self.kept is None:
            return states
        full = states.new_zeros(*states.shape[:-1], width)
        full[..., self.kept] = states
        return full


def solve_readers(slim: ModelView, dense: ModelView, batches: Batches, *, damping: float, stream: Stream | None = None) -> list[Solution]:
    """Fold the best affine map from the slim to the dense last state into its reader: the pooler, or the head.

    Raises
    ------
    UnsupportedError
        If the record does not describe the head.
    StatisticsError
        If the calibration rows are degenerate.
    """
    stream = stream or Stream()
    paths = reader_paths(slim)
    totals: dict[Tap, ComomentSum] = {("in", path): ComomentSum() for path in paths}
    with torch.no_grad():
        for batch in batches:
            tensors = {name: batch[name] for name in slim.inputs if name in batch}
            with taps(slim.model, totals) as slim_values, taps(dense.model, totals) as dense_values:
                slim.model(**tensors)
                dense.model(**tensors)
            for tap, total in totals.items():
                ((x,), (y,)) = slim_values[tap], dense_values[tap]
                x, y = widened(_rows(x, batch)), widened(_rows(y, batch))
                error = y - stream.widen(x, y.shape[-1])
                total.agree(x, error)
                total.add(x, error, torch.ones(len(x)))
        solutions = []
        for path, total in zip(paths, totals.values(), strict=True):
            reader, dense_reader = Linear.at(slim.model, path), Linear.at(dense.model, path)
            assert reader is not None
            assert dense_reader is not None
            moment = parallel.total(total, ComomentSum.of).finish()
            fold(reader, *moment.solve(damping, bias=reader.bias is not None), through=None if stream.kept is None else dense_reader.weight)
            solutions.append(Solution(f"input of {path}", moment.rows, len(moment.xx), damping, moment.rows > len(moment.xx)))
    return solutions


def _rows(states: Float[Tensor, "... h"], batch: Mapping[str, Shaped[Tensor, "b t"]]) -> Float[Tensor, "n h"]:
    return states[batch["attention_mask"].bool()] if states.ndim == 3 else states


def outer_norms(view: ModelView) -> list[str]:
    """Return the norms of the residual stream below the blocks, by path in the body."""
    names = (name.removesuffix(".weight") for name, axes in view.spec.outer.items() if axes == (HIDDEN,) and name.endswith(".weight"))
    return [name for name in names if name != view.spec.final_norm and find(view.body, f"{name}.weight") is not None]


def solve_norms(
    slim: ModelView, dense: ModelView, batches: Batches, paths: Iterable[str], *, damping: float, stream: Stream
) -> list[Solution]:
    """Refit scale and shift of norms outside the blocks, so that they reproduce the outputs of the dense model's."""
    solutions = []
    totals: dict[Tap, ComomentSum] = {("out", path): ComomentSum() for path in paths if find(slim.body, f"{path}.weight") is not None}
    with torch.no_grad():
        for batch in batches if totals else ():
            mask = batch["attention_mask"].bool()
            with taps(slim.body, totals) as slim_values, taps(dense.body, totals) as dense_values:
                slim.hidden_states(batch)
                dense.hidden_states(batch)
            for tap, total in totals.items():
                x, y = widened(slim_values[tap][0][mask]), widened(stream.narrow(dense_values[tap][0])[mask])
                total.agree(x, y - x)
                total.add(x, y - x, torch.ones(len(x)))
        for (_, path), total in totals.items():
            moment = parallel.total(total, ComomentSum.of).finish()
            solutions.append(scale(find(slim.body, path), moment, damping, where=path))
    return solutions


def scale(norm: nn.Module, moment: Comoment, damping: float, *, where: str) -> Solution:
    """Correct scale and shift of a norm by the error of its output, dimension by dimension."""
    parameters = dict(norm.named_parameters())
    weight, bias = parameters["weight"], parameters.get("bias")
    turn, shift = moment.solve_diagonal(damping, bias=bias is not None)
    # The output w z + b becomes (1 + turn)(w z + b) + shift.
    weight.mul_((1 + turn).to(weight))
    if bias is not None:
        bias.mul_((1 + turn).to(bias)).add_(shift.to(bias))
    return Solution(where, moment.rows, 1, damping, True)


def fold(layer: Linear, turn: Float[Tensor, "h x"], shift: Float[Tensor, " h"], through: Float[Tensor, "outputs h"] | None = None) -> None:
    """Make a linear layer read ``x + turn @ x + shift`` where it read x; without a bias, the shift must be zero.

    Where `turn` and `shift` give more dimensions than x has, `through` is the weight (out, H) with which all of them are read.
    """
    old = (layer.weight if through is None else through).double()
    # In double precision `old` is the weight itself: both are computed before it changes.
    turned, moved = old @ turn, old @ shift
    layer.weight.add_(turned.to(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(moved.to(layer.bias))
