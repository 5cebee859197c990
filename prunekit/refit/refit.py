"""Solves the weights of a slim model anew, in closed form, so that what was removed is expressed by what stays.

Layer by layer from the bottom: each later site sees the pruned input and aims at the dense model's residual stream, so
errors do not pile up. Every solution is a damped least-squares correction of what is there, from a co-moment
(`prunekit.stats.comoment`); nothing is trained. The target of an output projection is the one of K-prune (Park et al.,
ICLR 2024): the dense residual sum less the slim residual; the inputs of a sub-block are mapped back onto the dense ones
in the same way. Where blocks are gone, the last one kept below the gap aims at the output of the last one missing. Where
blocks, sub-blocks or dimensions are gone, norms are given the scale and shift, dimension by dimension, with which they come
closest to the dense model's.

Of many tokens, nothing is held but the states in which they enter a block, slim and dense: each solution runs the dense block
again, batch by batch, for the one target that it needs. Of few, the targets of a block are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunekit.arch.spec import HIDDEN
from prunekit.arch.view import ModelView, Reader, find
from prunekit.errors import StatisticsError, UnsupportedError
from prunekit.refit.readers import Stream, fold, outer_norms, scale, solve_norms, solve_readers
from prunekit.refit.solution import Solution
from prunekit.stats.blocks import ROLES, Calls, Linear, Role, Site, Tap, batch_first, record_calls, run_until, taps
from prunekit.stats.comoment import Comoment, ComomentSum, widened

Weights = Mapping[Site, Sequence[Tensor]]
#: Bytes that the targets of one block may take in memory; where they would take more, they are made again for each solution.
_HELD = 2**29


@dataclass(frozen=True)
class Damping:
    """How strongly solutions are drawn to what is there, in units of the mean variance of the inputs.

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
    """Which dense blocks a slim layer stands for.

    Attributes
    ----------
    attention : int
        Whose attention it holds, and whose input it should see.
    output : int
        Whose output it should give: its own, or that of the last block of the gap above.
    """

    attention: int
    output: int


def matches(kept: Sequence[int], layers: int, *, fill: bool = True) -> tuple[Match, ...]:
    """What each of the dense blocks kept, of `layers` in all, stands for.

    Without `fill` gaps are left to the layer above, for the sake of a readout that reads below them.
    """
    ends = [*kept[1:], layers][: len(kept)]
    return tuple(Match(own, after - 1 if fill else own) for own, after in zip(kept, ends, strict=True))


def refit(
    slim: ModelView,
    dense: ModelView,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    matched: Sequence[Match] | None = None,
    weights: Weights | None = None,
    damping: Damping | None = None,
    calls: Calls | None = None,
    stream: Stream | None = None,
) -> tuple[Solution, ...]:
    """Solve every output projection of the slim model anew, and fold a correction into what reads its residual stream.

    Parameters
    ----------
    slim : ModelView
        Changed in place. Its heads and FFN neurons may be fewer than the dense model's, or gone, and blocks may be missing.
    dense : ModelView
    batches : sequence of dict
        Tokenised calibration rows.
    matched : sequence of Match, optional
        One for each layer of the slim model; default: the two have the same layers.
    weights : mapping, optional
        {site of the slim model: one (batch, length) tensor a batch}, what an error of the residual sum behind the site
        costs at each token; None: all real tokens alike.
    damping : Damping, optional
    calls : Calls, optional
        What `record_calls` gives for the dense model and these batches, where it is known already.
    stream : Stream, optional
        Which dimensions of the residual stream are left; default: all.

    Returns
    -------
    tuple of Solution
        In the order in which they were made.

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
    damping, stream = damping or Damping(), stream or Stream()
    calls = calls or record_calls(dense, batches)
    if stream.kept is None and record_calls(slim, batches[:1]).hidden[0].shape != calls.hidden[0].shape:
        raise UnsupportedError("A refit of a model of another hidden width needs to know which dimensions are left.")
    with torch.no_grad():
        found: list[Solution] = []
        if stream.kept is not None:
            found += solve_norms(slim, dense, batches, outer_norms(slim), damping=damping.input, stream=stream)
        # What the model hands to its blocks may depend on which heads, dimensions and blocks there are.
        own = stream.kept is not None or len(pairs) != dense.num_layers or slim.bias_columns != dense.bias_columns
        work = _Refit(slim, dense, pairs, weights, damping, calls, record_calls(slim, batches) if own else calls, stream)
        del calls
        if slim.spec.shared_blocks:
            work.shared()
        else:
            work.sequential()
        found += work.solutions
        if stream.kept is not None or pairs[-1].output != pairs[-1].attention:
            found += solve_norms(slim, dense, batches, filter(None, [slim.spec.final_norm]), damping=damping.input, stream=stream)
            if not isinstance(slim.model, Reader):
                found += solve_readers(slim, dense, batches, damping=damping.input, stream=stream)
    return tuple(found)


class _Refit:
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
        self.slim, self.dense, self.pairs, self.given, self.damping, self.stream = slim, dense, pairs, weights, damping, stream
        self.dense_calls, self.slim_calls = dense_calls.calls, slim_calls.calls
        self.entering = slim_calls.hidden, dense_calls.hidden
        self.slim_states: list[Tensor] = []
        self.dense_states: list[Tensor] = []
        self.dense_block = 0
        self.targets: list[dict[Tap, Tensor]] | None = None
        # Of each sub-block the input, the residual sum and what stands behind it.
        self.hold = 6 * sum(hidden.numel() * hidden.element_size() for hidden in dense_calls.hidden) <= _HELD
        self.weigh = [mask.float() for mask in dense_calls.masks]
        self.solutions: list[Solution] = []
        # In families that normalise what attention reads; the other norms stand behind a residual sum.
        sums = {slim.spec.attention.sum, slim.spec.ffn.sum}
        names = [name.removesuffix(".weight") for name, axes in slim.spec.block.items() if axes == (HIDDEN,) and name.endswith(".weight")]
        self.gap = any(pair != Match(layer, layer) for layer, pair in enumerate(pairs))
        self.front = next((name for name in names if name not in sums), "")

    def sequential(self) -> None:
        for layer in self._layers(again=False):
            pair = self.pairs[layer]
            if pair.output != pair.attention:
                self._take_norm(layer, pair.output)
            for role in ROLES:
                site, here = Site(layer, role), [layer]
                # The embeddings are those of the dense model, unless dimensions are gone: there is nothing to correct.
                if role == "ffn" or pair.attention or layer or self.stream.kept is not None:
                    if role == "heads":
                        self._solve_norm(site, "front", here)
                    self._solve_input(site, here)
                self._solve_projection(site, here)
                self._solve_norm(site, "behind", here)

    def shared(self) -> None:
        """One set of weights serves all layers, so their rows are pooled and solved together."""
        for role in ROLES if self.pairs else ():
            self._solve_input(Site(0, role), self._layers())
            self._solve_projection(Site(0, role), self._layers())
            self._solve_norm(Site(0, role), "behind", self._layers())

    def _layers(self, *, again: bool = True) -> Iterator[int]:
        """Each layer from the bottom up, the states being those that enter it; they advance as the caller goes on."""
        slim, dense = self.entering
        self.slim_states, self.dense_states, self.dense_block, self.targets = list(slim), list(dense), 0, None
        del slim, dense
        if not again:
            # Else what entered the first block would be held beside what enters the others.
            self.entering = (), ()
        for layer in range(len(self.pairs)):
            yield layer
            block = self.slim.blocks[0 if self.slim.spec.shared_blocks else layer]
            for batch, calls in enumerate(self.slim_calls):
                self.slim_states[batch] = calls[layer](block, self.slim_states[batch])

    def _aim(self, layer: int, role: Role, what: str) -> Tap:
        """Where the dense model has a target; its states advance to the block that has it."""
        pair = self.pairs[layer]
        number = pair.output if role == "ffn" and what in ("sum", "behind") else pair.attention
        for below in range(self.dense_block, number):
            for batch in range(len(self.dense_states)):
                self.dense_states[batch] = self._dense(batch, ("out", ""))
            self.dense_block, self.targets = below + 1, None
        return self._places()[role, what]

    def _places(self) -> dict[tuple[Role, str], Tap]:
        """All targets in the dense model's present block."""
        view, found = self.dense, dict[tuple[Role, str], Tap]()
        for role in ROLES:
            site = Site(0 if view.spec.shared_blocks else self.dense_block, role)
            total, reads = site.sum_tap(view), site.part(view).reads
            found |= {(role, "sum"): total, (role, "behind"): ("out", total[1])}
            if reads:
                found[role, "read"] = "in", reads[0]
        if self.front:
            found["heads", "front"] = "out", self.front
        return found

    def _dense(self, batch: int, tap: Tap) -> Tensor:
        """What the dense model has at a place of its present block on one batch, as the block lays it out."""
        block = self.dense.blocks[0 if self.dense.spec.shared_blocks else self.dense_block]
        call, state = self.dense_calls[batch][self.dense_block], self.dense_states[batch]
        if not self.hold:
            return run_until(call, block, state, [tap])[tap]
        if self.targets is None:
            self.targets = [{} for _ in self.dense_states]
        if not self.targets[batch]:
            with taps(block, [*self._places().values(), ("out", "")]) as found:
                call(block, state)
            self.targets[batch] = {place: values[0] for place, values in found.items() if values}
        return self.targets[batch][tap]

    def _take_norm(self, layer: int, dense_layer: int) -> None:
        """Where a layer stands for a gap, its output passes the norm of the block whose output it should give."""
        path = Site(layer, "ffn").part(self.slim).sum
        if path:
            norm: nn.Module = find(self.dense.blocks[dense_layer], path)
            kept = {name: self.stream.narrow(value) for name, value in norm.state_dict().items()}
            find(self.slim.blocks[layer], path).load_state_dict(kept)

    def _missing(self, site: Site, what: str, entering: Tap, aimed: Tap, layers: Iterable[int], weights: Sequence[Tensor]) -> Comoment:
        """Co-moment of what enters at one tap of the slim block with what is missing at another."""
        total = ComomentSum()
        block = self.slim.blocks[site.block]
        for layer in layers:
            tap = self._aim(layer, site.role, what)
            for batch, chosen in enumerate(weight > 0 for weight in weights):
                target = self._dense(batch, tap)
                found = run_until(self.slim_calls[batch][layer], block, self.slim_states[batch], [entering, aimed])
                # A small difference of two large numbers.
                aim, reached = widened(batch_first(self.dense, target)), widened(batch_first(self.slim, found[aimed]))
                if what == "read":
                    missing = (aim - self.stream.widen(reached, aim.shape[-1]))[chosen]
                else:
                    missing = (self.stream.narrow(aim) - reached)[chosen]
                rows = batch_first(self.slim, found[entering])[chosen] if entering in found else missing[:, :0]
                total.add(rows, missing, weights[batch][chosen])
        return total.finish()

    def _weights(self, site: Site) -> Sequence[Tensor]:
        if self.given is None:
            return self.weigh
        return [given * mask for given, mask in zip(self.given[site], self.weigh, strict=True)]

    def _solve_projection(self, site: Site, layers: Iterable[int]) -> None:
        """Correct an output projection by what is missing behind it."""
        if site.projection(self.slim) is None and _bias_left(self.slim, site) is None:
            return
        moment = self._missing(site, "sum", site.units_tap(self.slim), site.sum_tap(self.slim), layers, self._weights(site))
        if stand_in(self.slim, site, moment, self.damping.projection):
            self._note(site, "output", moment, self.damping.projection, not moment.singular)

    def _solve_input(self, site: Site, layers: Iterable[int]) -> None:
        """Fold into everything that reads the residual stream the best affine map from the slim to the dense input."""
        reads = site.part(self.slim).reads
        readers = [reader for path in reads if (reader := Linear.at(self.slim.blocks[site.block], path)) is not None]
        if not reads or len(readers) < len(reads):
            return
        # All tokens are read by attention, whatever their own error costs.
        weights = self._weights(site) if site.role == "ffn" else self.weigh
        tap: Tap = ("in", reads[0])
        moment = self._missing(site, "read", tap, tap, layers, weights)
        biased = all(reader.bias is not None for reader in readers)
        turn, shift = moment.solve(self.damping.input, bias=biased)
        for reader, path in zip(readers, reads, strict=True):
            whole = None if self.stream.wide is None else Linear.at(self.stream.wide.blocks[site.block], path)
            fold(reader, turn, shift, through=None if whole is None else whole.weight)
        # What a norm gives has one direction without variance, always.
        self._note(site, "input", moment, self.damping.input, moment.rows > len(moment.xx))

    def _solve_norm(self, site: Site, which: str, layers: Iterable[int]) -> None:
        """Give the norm in front of attention, or behind a residual sum, the scale and shift of the dense model's output."""
        block = self.slim.blocks[site.block]
        path = self.front if which == "front" else site.sum_tap(self.slim)[1]
        gone = self.stream.kept is not None or self.gap or site.projection(self.slim) is None
        if not gone or not path or find(block, f"{path}.weight") is None:
            return
        weights = self._weights(site) if which == "behind" else self.weigh
        tap: Tap = ("out", path)
        moment = self._missing(site, which, tap, tap, layers, weights)
        self.solutions.append(scale(find(block, path), moment, self.damping.input, where=f"{path} of block {site.block}"))

    def _note(self, site: Site, end: str, moment: Comoment, damping: float, determined: bool) -> None:
        name = "attention" if site.role == "heads" else "FFN"
        self.solutions.append(Solution(f"{end} of the {name} of block {site.block}", moment.rows, len(moment.xx), damping, determined))


def stand_in(view: ModelView, site: Site, moment: Comoment, damping: float) -> bool:
    """Add to a site's projection what comes closest to what is missing behind it; to what is left of its bias where the sub-block is gone.

    Returns whether there is a projection that was solved for.
    """
    projection = site.projection(view)
    if projection is None:
        bias = _bias_left(view, site)
        if bias is not None:
            bias.add_(moment.mean_y.to(bias))
        return False
    correct(projection, *moment.solve(damping, bias=projection.bias is not None))
    return True


def _bias_left(view: ModelView, site: Site) -> Tensor | None:
    """What stays of the bias of a sub-block that is gone."""
    found: Tensor | None = getattr(find(view.blocks[site.block], site.part(view).removal[-1].at), "bias", None)
    return found


def correct(layer: Linear, weight: Tensor, bias: Tensor) -> None:
    """Add to a linear layer."""
    layer.weight.add_(weight.to(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(bias.to(layer.bias))
