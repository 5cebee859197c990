"""Refit of the weights of a slim model in closed form, so that what stays compensates for what was removed.

Sites are solved layer by layer from the bottom: each sees the pruned input and is fitted to the dense model's residual
stream, so errors do not accumulate. Every solution is a damped least-squares correction of the existing weights, from a
co-moment (`prunekit.stats.comoment`); there is no gradient training. The target of an output projection is the one of K-prune
(Park et al., ICLR 2024): the dense residual sum less the slim residual; the inputs of a sub-block are mapped back onto the
dense ones in the same way. Where blocks are removed, the last one kept below the gap is fitted to the output of the last one
missing. Where blocks, sub-blocks or dimensions are removed, norms get the scale and shift, dimension by dimension, with which
they come closest to the dense model's.

For many tokens, only the states that enter a block, slim and dense, are held in memory: each solution runs the dense block
again, batch by batch, for its own target. For few tokens, the targets of a block are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prunekit.arch.spec import HIDDEN
from prunekit.arch.view import ModelView, Reader, find
from prunekit.data import parallel
from prunekit.errors import StatisticsError, UnsupportedError
from prunekit.refit.readers import Stream, fold, outer_norms, scale, solve_norms, solve_readers
from prunekit.refit.records import Solution
from prunekit.stats.blocks import ROLES, Batches, Calls, Linear, Recorded, Role, Site, Tap, batch_first, record_calls, run_until, taps
from prunekit.stats.comoment import Comoment, ComomentSum, widened

# One for each batch, (batch, length).
TokenWeights = Sequence[Float[Tensor, "_ _"]]
Weights = Mapping[Site, TokenWeights]
#: Bytes that the targets of one block may take in memory; where they would take more, they are recomputed for each solution.
_HELD = 2**29


@dataclass(frozen=True)
class Damping:
    """Strength with which solutions are drawn to the existing weights, in units of the mean variance of the inputs.

    Attributes
    ----------
    projection : float
        Output projections, drawn to the weights that were kept.
    input : float
        The map from slim to dense inputs of a sub-block, or of the head, and from a norm's slim to its dense output,
        drawn to the identity.
    """

    projection: float = 0.1
    input: float = 0.1


@dataclass(frozen=True)
class Match:
    """The dense blocks that a slim layer represents.

    Attributes
    ----------
    attention : int
        Block whose attention it holds, and whose input it should see.
    output : int
        Block whose output it should give: its own, or the last block of the gap above.
    """

    attention: int
    output: int


def matches(kept: Sequence[int], layers: int, *, fill: bool = True) -> tuple[Match, ...]:
    """Return the dense blocks, of `layers` in all, that each of those kept represents.

    Without `fill` gaps are left to the layer above, for a readout that reads below them.
    """
    ends = [*kept[1:], layers][: len(kept)]
    return tuple(Match(own, after - 1 if fill else own) for own, after in zip(kept, ends, strict=True))


def refit(
    slim: ModelView,
    dense: ModelView,
    batches: Batches,
    *,
    matched: Sequence[Match] | None = None,
    weights: Weights | None = None,
    damping: Damping | None = None,
    calls: Calls | None = None,
    stream: Stream | None = None,
) -> tuple[Solution, ...]:
    """Refit every output projection of the slim model, and fold a correction into the layers that read its residual stream.

    Parameters
    ----------
    slim : ModelView
        Changed in place. It may have fewer heads and FFN neurons than the dense model, or none, and fewer blocks.
    dense : ModelView
    batches : sequence of dict
        Tokenised calibration rows.
    matched : sequence of Match, optional
        One for each layer of the slim model; default: the two have the same layers.
    weights : mapping, optional
        {site of the slim model: one (batch, length) tensor a batch}, the cost of an error of the residual sum behind the
        site at each token; None: all real tokens alike.
    damping : Damping, optional
    calls : Calls, optional
        Result of `record_calls` for the dense model and these batches, if it is already known.
    stream : Stream, optional
        Dimensions of the residual stream that are left; default: all.

    Returns
    -------
    tuple of Solution
        In the order of solving.

    Raises
    ------
    UnsupportedError
        If the two models do not correspond layer by layer, or something stands between the blocks.
    StatisticsError
        If the calibration rows are degenerate.
    """
    pairs = matches(range(dense.num_layers), dense.num_layers) if matched is None else tuple(matched)
    if len(pairs) != slim.num_layers:
        raise UnsupportedError(f"A refit needs to know what each of the slim model's {slim.num_layers} layers stands for.")
    if not batches:
        raise StatisticsError("There are no calibration rows; give some.")
    if not pairs:
        return ()
    work = _Refitting(slim, dense, pairs, damping or Damping(), stream or Stream())
    # All solve alike, each for its own copy of the slim model; this process's is the one that was given.
    solutions = list(parallel.spread(work, [_Share.of(share, batches, weights, calls) for share in parallel.shares(len(batches))]))
    return solutions[0]


class _Share(NamedTuple):
    """The batches of one process, with the costs of errors and, in the first, the calls of the dense model."""

    batches: Batches
    weights: Weights | None
    calls: Calls | None

    @classmethod
    def of(cls, share: Sequence[int], batches: Batches, weights: Weights | None, calls: Calls | None) -> _Share:
        """Return the share of batches of these numbers."""
        taken = None if weights is None else {site: [of_site[number] for number in share] for site, of_site in weights.items()}
        own = None if calls is None or share[0] else calls.of(share)
        return cls([batches[number] for number in share], taken, own)


@dataclass(frozen=True, eq=False)
class _Refitting:
    """The work on a share of the batches: co-moments are added up over all shares before they are solved."""

    slim: ModelView
    dense: ModelView
    pairs: Sequence[Match]
    damping: Damping
    stream: Stream

    def __call__(self, share: _Share) -> tuple[Solution, ...]:
        slim, dense, pairs, damping, stream = self.slim, self.dense, self.pairs, self.damping, self.stream
        batches = share.batches
        calls = share.calls or record_calls(dense, batches)
        if stream.kept is None and record_calls(slim, batches[:1]).hidden[0].shape != calls.hidden[0].shape:
            raise UnsupportedError("A refit of a model of another hidden width needs to know which dimensions are left.")
        with torch.no_grad():
            solutions: list[Solution] = []
            if stream.kept is not None:
                solutions += solve_norms(slim, dense, batches, outer_norms(slim), damping=damping.input, stream=stream)
            # The arguments of the blocks may depend on the heads, dimensions and blocks that are left.
            differs = stream.kept is not None or len(pairs) != dense.num_layers or slim.bias_columns != dense.bias_columns
            own_calls = record_calls(slim, batches) if differs else calls
            solver = _Solver(slim, dense, pairs, share.weights, damping, calls, own_calls, stream)
            del calls, own_calls, share
            if slim.spec.shared_blocks:
                solver.solve_shared()
            else:
                solver.solve_sequential()
            solutions += solver.solutions
            if stream.kept is not None or pairs[-1].output != pairs[-1].attention:
                solutions += solve_norms(slim, dense, batches, filter(None, [slim.spec.final_norm]), damping=damping.input, stream=stream)
                if not isinstance(slim.model, Reader):
                    solutions += solve_readers(slim, dense, batches, damping=damping.input, stream=stream)
        return tuple(solutions)


class _Solver:
    """Refit of the blocks: holds the states that enter the current block, slim and dense, and the solutions so far."""

    def __init__(
        self,
        slim: ModelView,
        dense: ModelView,
        pairs: Sequence[Match],
        weights: Weights | None,
        damping: Damping,
        dense_calls: Calls,
        slim_calls: Calls,
        stream: Stream,
    ) -> None:
        self.slim, self.dense, self.pairs, self.site_weights, self.damping, self.stream = slim, dense, pairs, weights, damping, stream
        self.dense_calls, self.slim_calls = dense_calls.calls, slim_calls.calls
        self.entering = slim_calls.hidden, dense_calls.hidden
        self.slim_states: list[Float[Tensor, "_ _ h"]] = []
        self.dense_states: list[Float[Tensor, "_ _ wide"]] = []
        self.dense_block = 0
        self.targets: list[dict[Tap, Recorded]] | None = None
        # Targets of each sub-block: the input, the residual sum and the output behind it.
        self.hold_targets = 6 * sum(hidden.numel() * hidden.element_size() for hidden in dense_calls.hidden) <= _HELD
        self.masks = [mask.float() for mask in dense_calls.masks]
        self.solutions: list[Solution] = []
        # The norm in front of attention, in families that have one; the other norms stand behind a residual sum.
        sums = {slim.spec.attention.sum, slim.spec.ffn.sum}
        names = [name.removesuffix(".weight") for name, axes in slim.spec.block.items() if axes == (HIDDEN,) and name.endswith(".weight")]
        self.gap = any(pair != Match(layer, layer) for layer, pair in enumerate(pairs))
        self.front_norm = next((name for name in names if name not in sums), "")

    def solve_sequential(self) -> None:
        """Solve the sites of each layer in turn, from the bottom up."""
        for layer in self._layers(again=False):
            pair = self.pairs[layer]
            if pair.output != pair.attention:
                self._copy_norm(layer, pair.output)
            for role in ROLES:
                site, layers = Site(layer, role), [layer]
                # The embeddings equal those of the dense model unless dimensions are removed: there is nothing to correct.
                if role == "ffn" or pair.attention or layer or self.stream.kept is not None:
                    if role == "heads":
                        self._solve_norm(site, "front", layers)
                    self._solve_input(site, layers)
                self._solve_projection(site, layers)
                self._solve_norm(site, "behind", layers)

    def solve_shared(self) -> None:
        """Solve each site of the shared weights once, from the pooled rows of all layers."""
        for role in ROLES if self.pairs else ():
            self._solve_input(Site(0, role), self._layers())
            self._solve_projection(Site(0, role), self._layers())
            self._solve_norm(Site(0, role), "behind", self._layers())

    def _layers(self, *, again: bool = True) -> Iterator[int]:
        """Yield each layer from the bottom up, with the states that enter it; they advance as the caller continues."""
        slim, dense = self.entering
        self.slim_states, self.dense_states, self.dense_block, self.targets = list(slim), list(dense), 0, None
        del slim, dense
        if not again:
            # Otherwise the inputs of the first block would be held beside those of the others.
            self.entering = (), ()
        for layer in range(len(self.pairs)):
            yield layer
            block = self.slim.blocks[0 if self.slim.spec.shared_blocks else layer]
            for batch, calls in enumerate(self.slim_calls):
                self.slim_states[batch] = calls[layer](block, self.slim_states[batch])

    def _target_tap(self, layer: int, role: Role, target: str) -> Tap:
        """Advance the dense states to the block of a target, and return the target's tap."""
        pair = self.pairs[layer]
        number = pair.output if role == "ffn" and target in ("sum", "behind") else pair.attention
        for below in range(self.dense_block, number):
            for batch in range(len(self.dense_states)):
                self.dense_states[batch] = self._dense_value(batch, ("out", ""))
            self.dense_block, self.targets = below + 1, None
        return self._target_taps()[role, target]

    def _target_taps(self) -> dict[tuple[Role, str], Tap]:
        """Return the taps of all targets in the dense model's current block."""
        view, places = self.dense, dict[tuple[Role, str], Tap]()
        for role in ROLES:
            site = Site(0 if view.spec.shared_blocks else self.dense_block, role)
            total, reads = site.sum_tap(view), site.part(view).reads
            places |= {(role, "sum"): total, (role, "behind"): ("out", total[1])}
            if reads:
                places[role, "read"] = "in", reads[0]
        if self.front_norm:
            places["heads", "front"] = "out", self.front_norm
        return places

    def _dense_value(self, batch: int, tap: Tap) -> Recorded:
        """Return the dense model's value at a tap of its current block on one batch, in the layout of the block."""
        block = self.dense.blocks[0 if self.dense.spec.shared_blocks else self.dense_block]
        call, state = self.dense_calls[batch][self.dense_block], self.dense_states[batch]
        if not self.hold_targets:
            return run_until(call, block, state, [tap])[tap]
        if self.targets is None:
            self.targets = [{} for _ in self.dense_states]
        if not self.targets[batch]:
            with taps(block, [*self._target_taps().values(), ("out", "")]) as recorded:
                call(block, state)
            self.targets[batch] = {place: values[0] for place, values in recorded.items() if values}
        return self.targets[batch][tap]

    def _copy_norm(self, layer: int, dense_layer: int) -> None:
        """Give a layer that represents a gap the norm of the block whose output it should give."""
        path = Site(layer, "ffn").part(self.slim).sum
        if path:
            norm: nn.Module = find(self.dense.blocks[dense_layer], path)
            state = {name: self.stream.narrow(value) for name, value in norm.state_dict().items()}
            find(self.slim.blocks[layer], path).load_state_dict(state)

    def _error_moment(
        self, site: Site, target: str, entering: Tap, compared: Tap, layers: Iterable[int], weights: TokenWeights
    ) -> Comoment:
        """Return the co-moment of the values at one tap of the slim block with the error at another."""
        total = ComomentSum()
        block = self.slim.blocks[site.block]
        for layer in layers:
            tap = self._target_tap(layer, site.role, target)
            for batch, chosen in enumerate(weight > 0 for weight in weights):
                dense_value = self._dense_value(batch, tap)
                values = run_until(self.slim_calls[batch][layer], block, self.slim_states[batch], [entering, compared])
                # Widened, since the error is a small difference of two large numbers.
                wanted, reached = widened(batch_first(self.dense, dense_value)), widened(batch_first(self.slim, values[compared]))
                if target == "read":
                    error = (wanted - self.stream.widen(reached, wanted.shape[-1]))[chosen]
                else:
                    error = (self.stream.narrow(wanted) - reached)[chosen]
                rows = batch_first(self.slim, values[entering])[chosen] if entering in values else error[:, :0]
                total.agree(rows, error)
                total.add(rows, error, weights[batch][chosen])
        return parallel.total(total, ComomentSum.of).finish()

    def _weights(self, site: Site) -> TokenWeights:
        if self.site_weights is None:
            return self.masks
        return [weights * mask for weights, mask in zip(self.site_weights[site], self.masks, strict=True)]

    def _solve_projection(self, site: Site, layers: Iterable[int]) -> None:
        """Correct an output projection by the error behind it."""
        if site.projection(self.slim) is None and _bias_left(self.slim, site) is None:
            return
        moment = self._error_moment(site, "sum", site.units_tap(self.slim), site.sum_tap(self.slim), layers, self._weights(site))
        if stand_in(self.slim, site, moment, self.damping.projection):
            self._append_solution(site, "output", moment, self.damping.projection, not moment.singular)

    def _solve_input(self, site: Site, layers: Iterable[int]) -> None:
        """Fold the best affine map from the slim to the dense input into all layers that read the residual stream."""
        reads = site.part(self.slim).reads
        readers = [reader for path in reads if (reader := Linear.at(self.slim.blocks[site.block], path)) is not None]
        if not reads or len(readers) < len(reads):
            return
        # Attention reads all tokens, regardless of the cost of their own error.
        weights = self._weights(site) if site.role == "ffn" else self.masks
        tap: Tap = ("in", reads[0])
        moment = self._error_moment(site, "read", tap, tap, layers, weights)
        biased = all(reader.bias is not None for reader in readers)
        turn, shift = moment.solve(self.damping.input, bias=biased)
        for reader, path in zip(readers, reads, strict=True):
            wide = None if self.stream.wide is None else Linear.at(self.stream.wide.blocks[site.block], path)
            fold(reader, turn, shift, through=None if wide is None else wide.weight)
        # The output of a norm always has one direction without variance.
        self._append_solution(site, "input", moment, self.damping.input, moment.rows > len(moment.xx))

    def _solve_norm(self, site: Site, position: str, layers: Iterable[int]) -> None:
        """Give the norm in front of attention, or behind a residual sum, the scale and shift of the dense model's output."""
        block = self.slim.blocks[site.block]
        path = self.front_norm if position == "front" else site.sum_tap(self.slim)[1]
        altered = self.stream.kept is not None or self.gap or site.projection(self.slim) is None
        if not altered or not path or find(block, f"{path}.weight") is None:
            return
        weights = self._weights(site) if position == "behind" else self.masks
        tap: Tap = ("out", path)
        moment = self._error_moment(site, position, tap, tap, layers, weights)
        self.solutions.append(scale(find(block, path), moment, self.damping.input, where=f"{path} of block {site.block}"))

    def _append_solution(self, site: Site, end: str, moment: Comoment, damping: float, determined: bool) -> None:
        name = "attention" if site.role == "heads" else "FFN"
        self.solutions.append(Solution(f"{end} of the {name} of block {site.block}", moment.rows, len(moment.xx), damping, determined))


def stand_in(view: ModelView, site: Site, moment: Comoment, damping: float) -> bool:
    """Correct a site's projection by the error behind it, or what is left of its bias where the sub-block is removed.

    Return whether there is a projection that was solved for.
    """
    projection = site.projection(view)
    if projection is None:
        bias = _bias_left(view, site)
        if bias is not None:
            bias.add_(moment.mean_y.to(bias))
        return False
    correct(projection, *moment.solve(damping, bias=projection.bias is not None))
    return True


def _bias_left(view: ModelView, site: Site) -> Float[Tensor, " h"] | None:
    """Return what is left of the bias of a removed sub-block."""
    bias: Float[Tensor, " h"] | None = getattr(find(view.blocks[site.block], site.part(view).removal[-1].at), "bias", None)
    return bias


def correct(layer: Linear, weight: Float[Tensor, "o k"], bias: Float[Tensor, " o"]) -> None:
    """Add to the weight and bias of a linear layer."""
    layer.weight.add_(weight.to(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(bias.to(layer.bias))
