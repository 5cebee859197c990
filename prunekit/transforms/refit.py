"""Solves the weights of a slim model anew, in closed form, so that what was removed is expressed by what stays.

Layer by layer from the bottom: each later site sees the pruned input and aims at the dense model's residual stream, so
errors do not pile up. Every solution is damped least squares from a co-moment (`prunekit.stats.comoment`); nothing is
trained. The target of an output projection is the one of K-prune (Park et al., ICLR 2024): the dense residual sum less
the slim residual; the inputs of a sub-block are mapped back onto the dense ones in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunekit.arch.view import ModelView, find
from prunekit.errors import UnsupportedError
from prunekit.stats.blocks import Call, Calls, Site, record_calls, sum_tap, taps
from prunekit.stats.comoment import Comoment, ComomentSum

Weights = Mapping[Site, Sequence[Tensor]]


@dataclass(frozen=True)
class Damping:
    """How strongly solutions are drawn to what is there, in units of the mean variance of the inputs.

    Attributes
    ----------
    projection : float
        Output projections, drawn to the weights that were kept.
    input : float
        The map from slim to dense inputs of a sub-block, drawn to the identity.
    """

    projection: float = 1e-2
    input: float = 1e-2


class _Reached(Exception):
    """Everything asked for has been seen; the rest of the block need not run."""


def refit(
    slim: ModelView,
    dense: ModelView,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    weights: Weights | None = None,
    damping: Damping | None = None,
) -> None:
    """Solve every output projection of the slim model anew, and fold a correction into what reads its residual stream.

    Parameters
    ----------
    slim : ModelView
        Changed in place. It has the dense model's blocks and hidden width; their heads and FFN neurons may be fewer, or gone.
    dense : ModelView
    batches : sequence of dict
        Tokenised calibration rows.
    weights : mapping, optional
        {site: one (batch, length) tensor a batch}, what an error of the residual sum behind the site costs at each
        token; None: all real tokens alike.
    damping : Damping, optional

    Raises
    ------
    UnsupportedError
        If the two models do not correspond block by block.
    StatisticsError
        If the calibration rows are degenerate.
    """
    if len(slim.blocks) != len(dense.blocks) or slim.hidden_size != dense.hidden_size:
        raise UnsupportedError(
            "A refit needs a slim model with the dense model's blocks and hidden width; remove their units, not the blocks themselves."
        )
    calls = record_calls(dense, batches)
    work = _Refit(slim, dense, calls, weights, damping or Damping())
    with torch.inference_mode(False), torch.no_grad():
        if slim.spec.shared_blocks:
            work.shared()
        else:
            work.sequential()


class _Refit:
    def __init__(self, slim: ModelView, dense: ModelView, calls: Calls, weights: Weights | None, damping: Damping) -> None:
        self.slim, self.dense, self.calls, self.damping, self.given = slim, dense, calls, damping, weights
        self.slim_states = [state.clone() for state in calls.hidden]
        self.dense_states = [state.clone() for state in calls.hidden]

    def weights(self, site: Site, batch: int) -> Tensor:
        mask = self.calls.masks[batch]
        return mask.float() if self.given is None else self.given[site][batch] * mask

    def sequential(self) -> None:
        for block in range(len(self.slim.blocks)):
            targets = [self._dense(block, batch) for batch in range(len(self.calls.masks))]
            for role in ("heads", "ffn"):
                site = Site(block, role)
                if block or role == "ffn":
                    self._solve_input(site, targets)
                self._solve_projection([(site, self._rows(site, targets))])
            for batch, call in self._each(block):
                self.slim_states[batch] = call(self.slim.blocks[block], self.slim_states[batch])

    def shared(self) -> None:
        """One set of weights serves all applications of the block, so their rows are pooled and solved together."""
        for role in ("heads", "ffn"):
            site = Site(0, role)
            self.slim_states, self.dense_states = ([state.clone() for state in self.calls.hidden] for _ in range(2))
            self._solve_projection([(site, self._shared_rows(site))])

    def _shared_rows(self, site: Site) -> Iterator[tuple[int, dict[tuple[str, str], Tensor], Tensor]]:
        for depth in range(len(self.calls.calls[0])):
            targets = [self._dense(depth, batch) for batch in range(len(self.calls.masks))]
            yield from self._rows(site, targets, depth)
            for batch, call in self._each(depth):
                self.slim_states[batch] = call(self.slim.blocks[0], self.slim_states[batch])

    def _each(self, depth: int) -> Iterator[tuple[int, Call]]:
        for batch, calls in enumerate(self.calls.calls):
            yield batch, calls[depth]

    def _dense(self, depth: int, batch: int) -> dict[tuple[str, str], Tensor]:
        """Residual sums and sub-block inputs of the dense block on one batch; advances the dense state."""
        block = depth if not self.dense.spec.shared_blocks else 0
        both = [Site(block, "heads"), Site(block, "ffn")]
        sums = {sum_tap(self.dense, site) for site in both}
        reads = {site.part(self.dense).reads[0] for site in both if site.part(self.dense).reads}
        inputs = [path for kind, path in sums if kind == "in"] + sorted(reads)
        with taps(self.dense.blocks[block], inputs, [path for kind, path in sums if kind == "out"]) as found:
            self.dense_states[batch] = self.calls.calls[batch][depth](self.dense.blocks[block], self.dense_states[batch])
        return {key: values[0] for key, values in found.items()}

    def _run(
        self, site: Site, batch: int, depth: int, inputs: list[str], outputs: list[str], last: tuple[str, str]
    ) -> dict[tuple[str, str], Tensor]:
        """Taps of the slim block on one batch; the block stops where the last one is reached."""
        block = self.slim.blocks[site.block]
        with taps(block, inputs, outputs) as found, _stop_at(block, last):
            try:
                self.calls.calls[batch][depth](block, self.slim_states[batch])
            except _Reached:
                pass
        return {key: values[0] for key, values in found.items() if values}

    def _rows(
        self, site: Site, targets: list[dict[tuple[str, str], Tensor]], depth: int | None = None
    ) -> Iterator[tuple[int, dict[tuple[str, str], Tensor], Tensor]]:
        """(batch, slim taps, what is missing from the residual sum) for every batch."""
        key, dense_key = sum_tap(self.slim, site), sum_tap(self.dense, site)
        output = site.part(self.slim).output
        kind, path = key
        inputs, outputs = ([path], [output]) if kind == "in" else ([], [path, output])
        for batch, target in enumerate(targets):
            found = self._run(site, batch, site.block if depth is None else depth, [output, *inputs], outputs, key)
            yield batch, found, target[dense_key] - found[key]

    def _solve_projection(self, work: list[tuple[Site, Iterator[tuple[int, dict[tuple[str, str], Tensor], Tensor]]]]) -> None:
        for site, rows in work:
            part, block = site.part(self.slim), self.slim.blocks[site.block]
            module = site.projection(self.slim)
            total = ComomentSum()
            for batch, found, missing in rows:
                weights = self.weights(site, batch)
                chosen = weights > 0
                if module is not None:
                    entering, given = found["in", part.output][chosen], found["out", part.output][chosen] + missing[chosen]
                else:
                    given = missing[chosen]
                    entering = given[:, :0]
                total.add(entering, given, weights[chosen])
            moment = total.finish()
            if module is None:
                bias = removed_bias(block, part.removal[-1].at)
                if bias is not None:
                    bias += moment.mean_y.to(bias)
                continue
            solve_linear(module, moment, self.damping.projection)

    def _solve_input(self, site: Site, targets: list[dict[tuple[str, str], Tensor]]) -> None:
        """Fold into everything that reads the residual stream the best affine map from the slim to the dense input."""
        reads = site.part(self.slim).reads
        block = self.slim.blocks[site.block]
        if not reads or not isinstance(find(block, reads[0]), nn.Module) or site.projection(self.slim) is None:
            return
        total = ComomentSum()
        for batch, target in enumerate(targets):
            weights = self.weights(site, batch) if site.role == "ffn" else self.calls.masks[batch].float()
            chosen = weights > 0
            found = self._run(site, batch, site.block, [reads[0]], [], ("in", reads[0]))
            total.add(found["in", reads[0]][chosen], target["in", reads[0]][chosen], weights[chosen])
        moment = total.finish()
        modules = [find(block, path) for path in reads]
        biased = all(getattr(module, "bias", None) is not None for module in modules)
        turn, shift = moment.solve(torch.eye(len(moment.mean_x), dtype=torch.float64), self.damping.input, bias=biased)
        for module in modules:
            fold_input(module, turn, shift)


class _stop_at:  # noqa: N801 - a context manager, used like a function
    def __init__(self, block: nn.Module, tap: tuple[str, str]) -> None:
        kind, path = tap
        target = find(block, path) if path else block
        assert isinstance(target, nn.Module)
        self.handle = target.register_forward_pre_hook(self._stop) if kind == "in" else target.register_forward_hook(self._stop)

    @staticmethod
    def _stop(*_: object) -> None:
        raise _Reached

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def removed_bias(block: nn.Module, at: str) -> Tensor | None:
    """The bias that is left of a sub-block that was taken out; None if it never had one."""
    stub = find(block, at)
    bias = getattr(stub, "bias", None)
    return bias if isinstance(bias, Tensor) else None


def linear_weight(module: nn.Module) -> Tensor:
    """A linear layer's weight as (out, in), a view of the parameter."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight


def solve_linear(module: nn.Module, moment: Comoment, damping: float) -> None:
    """Give a linear layer its damped least-squares weight, and bias if it has one."""
    weight, own = linear_weight(module), getattr(module, "bias", None)
    solved, bias = moment.solve(weight, damping, bias=own is not None)
    weight.copy_(solved.to(weight))
    if own is not None:
        own.copy_(bias.to(own))


def fold_input(module: nn.Module, turn: Tensor, shift: Tensor) -> None:
    """Make a linear layer read ``turn @ x + shift`` where it read x; without a bias, the shift must be zero."""
    weight, own = linear_weight(module), getattr(module, "bias", None)
    old = weight.double()
    weight.copy_((old @ turn.to(old)).to(weight))
    if own is not None:
        own += (old @ shift.to(old)).to(own)
