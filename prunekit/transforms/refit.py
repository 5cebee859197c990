"""Solves the weights of a slim model anew, in closed form, so that what was removed is expressed by what stays.

Layer by layer from the bottom: each later site sees the pruned input and aims at the dense model's residual stream, so
errors do not pile up. Every solution is a damped least-squares correction of what is there, from a co-moment
(`prunekit.stats.comoment`); nothing is trained. The target of an output projection is the one of K-prune (Park et al.,
ICLR 2024): the dense residual sum less the slim residual; the inputs of a sub-block are mapped back onto the dense ones
in the same way. Where blocks are gone, the last one kept below the gap aims at the output of the last one missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunekit.arch.view import ModelView, Reader, find
from prunekit.errors import StatisticsError, UnsupportedError
from prunekit.stats.blocks import ROLES, Calls, Linear, Role, Site, Tap, batch_first, record_calls, run_until, taps
from prunekit.stats.comoment import Comoment, ComomentSum

Weights = Mapping[Site, Sequence[Tensor]]
Targets = dict[tuple[Role, str], Tensor]


@dataclass(frozen=True)
class Damping:
    """How strongly solutions are drawn to what is there, in units of the mean variance of the inputs.

    Attributes
    ----------
    projection : float
        Output projections, drawn to the weights that were kept.
    input : float
        The map from slim to dense inputs of a sub-block, or of the head, drawn to the identity.
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
) -> None:
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
        return
    calls = calls or record_calls(dense, batches)
    if record_calls(slim, batches[:1]).hidden[0].shape != calls.hidden[0].shape:
        raise UnsupportedError("A refit needs a slim model of the dense model's hidden width: it re-solves layers, heads and FFN neurons.")
    with torch.no_grad():
        work = _Refit(slim, dense, batches, pairs, weights, damping or Damping(), calls)
        if not slim.spec.shared_blocks:
            work.sequential()
        else:
            work.shared()
        if pairs and pairs[-1].output != pairs[-1].attention and not isinstance(slim.model, Reader):
            refit_readers(slim, dense, batches, damping=(damping or Damping()).input)


class _Refit:
    def __init__(
        self,
        slim: ModelView,
        dense: ModelView,
        batches: Sequence[Mapping[str, Tensor]],
        pairs: Sequence[Match],
        weights: Weights | None,
        damping: Damping,
        calls: Calls,
    ) -> None:
        self.slim, self.dense, self.pairs, self.given, self.damping = slim, dense, pairs, weights, damping
        self.dense_calls, self.slim_calls = calls, calls
        if slim.spec.equal_heads or len(pairs) != dense.num_layers:
            # What the model hands to its blocks may depend on which heads and blocks there are.
            self.slim_calls = record_calls(slim, batches)
        self.slim_states: list[Tensor] = []
        self.dense_states: list[Tensor] = []
        self.weigh = [mask.float() for mask in calls.masks]

    def sequential(self) -> None:
        for layer, targets in self._layers():
            pair = self.pairs[layer]
            if pair.output != pair.attention:
                self._take_norm(layer, pair.output)
            for role in ROLES:
                site = Site(layer, role)
                # The embeddings are those of the dense model: there is nothing to correct.
                if role == "ffn" or pair.attention or layer:
                    self._solve_input(site, [(layer, targets)])
                self._solve_projection(site, [(layer, targets)])

    def shared(self) -> None:
        """One set of weights serves all layers, so their rows are pooled and solved together."""
        for role in ROLES if self.pairs else ():
            self._solve_input(Site(0, role), self._layers())
            self._solve_projection(Site(0, role), self._layers())

    def _layers(self) -> Iterator[tuple[int, list[Targets]]]:
        """Each layer with what the dense model has there on every batch; states advance as the caller goes on."""
        self.slim_states, self.dense_states = list(self.slim_calls.hidden), list(self.dense_calls.hidden)
        start = 0
        for layer, pair in enumerate(self.pairs):
            yield layer, [self._dense(batch, start, pair) for batch in range(len(self.weigh))]
            start = pair.output + 1
            block = self.slim.blocks[0 if self.slim.spec.shared_blocks else layer]
            for batch, calls in enumerate(self.slim_calls.calls):
                self.slim_states[batch] = calls[layer](block, self.slim_states[batch])

    def _dense(self, batch: int, start: int, pair: Match) -> Targets:
        """Residual sums and sub-block inputs of the dense model on one batch; advances its state from block `start`."""
        view, targets = self.dense, Targets()
        for number in range(start, pair.output + 1):
            stored = 0 if view.spec.shared_blocks else number
            wanted: dict[tuple[Role, str], Tap] = {}
            if number == pair.attention:
                wanted["heads", "sum"] = Site(stored, "heads").sum_tap(view)
                for role in ROLES:
                    reads = Site(stored, role).part(view).reads
                    if reads:
                        wanted[role, "read"] = ("in", reads[0])
            if number == pair.output:
                wanted["ffn", "sum"] = Site(stored, "ffn").sum_tap(view)
            with taps(view.blocks[stored], wanted.values()) as found:
                self.dense_states[batch] = self.dense_calls.calls[batch][number](view.blocks[stored], self.dense_states[batch])
            targets.update({what: batch_first(view, found[tap][0]) for what, tap in wanted.items() if tap in found})
        return targets

    def _take_norm(self, layer: int, dense_layer: int) -> None:
        """Where a layer stands for a gap, its output passes the norm of the block whose output it should give."""
        path = Site(layer, "ffn").part(self.slim).sum
        if path:
            ours, theirs = find(self.slim.blocks[layer], path), find(self.dense.blocks[dense_layer], path)
            ours.load_state_dict(theirs.state_dict())

    def _missing(
        self, site: Site, what: str, entering: Tap, aimed: Tap, layers: Iterable[tuple[int, list[Targets]]], weights: Sequence[Tensor]
    ) -> Comoment:
        """Co-moment of what enters at one tap of the slim block with what is missing at another."""
        total = ComomentSum()
        block = self.slim.blocks[site.block]
        for layer, targets in layers:
            for batch, target in enumerate(targets):
                found = run_until(self.slim_calls.calls[batch][layer], block, self.slim_states[batch], [entering, aimed])
                chosen = weights[batch] > 0
                missing = (target[site.role, what] - batch_first(self.slim, found[aimed]))[chosen]
                rows = batch_first(self.slim, found[entering])[chosen] if entering in found else missing[:, :0]
                total.add(rows, missing, weights[batch][chosen])
        return total.finish()

    def _weights(self, site: Site) -> Sequence[Tensor]:
        if self.given is None:
            return self.weigh
        return [given * mask for given, mask in zip(self.given[site], self.weigh, strict=True)]

    def _solve_projection(self, site: Site, layers: Iterable[tuple[int, list[Targets]]]) -> None:
        """Correct an output projection by what is missing behind it; of a sub-block that is gone, what is left of its bias."""
        part, block = site.part(self.slim), self.slim.blocks[site.block]
        projection = site.projection(self.slim)
        bias: Tensor | None = getattr(find(block, part.removal[-1].at), "bias", None) if projection is None else projection.bias
        if projection is None and bias is None:
            return
        moment = self._missing(site, "sum", site.units_tap(self.slim), site.sum_tap(self.slim), layers, self._weights(site))
        if projection is None:
            assert bias is not None
            bias.add_(moment.mean_y.to(bias))
            return
        correct(projection, *moment.solve(self.damping.projection, bias=bias is not None))

    def _solve_input(self, site: Site, layers: Iterable[tuple[int, list[Targets]]]) -> None:
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
        for reader in readers:
            fold(reader, turn, shift)


def refit_readers(slim: ModelView, dense: ModelView, batches: Sequence[Mapping[str, Tensor]], *, damping: float) -> None:
    """Fold the best affine map from the slim to the dense last state into what reads it: the pooler, or the head.

    Raises
    ------
    UnsupportedError
        If the record does not describe the head.
    StatisticsError
        If the calibration rows are degenerate.
    """
    paths = _reader_paths(slim)
    wanted: list[Tap] = [("in", path) for path in paths]
    totals = {tap: ComomentSum() for tap in wanted}
    with torch.no_grad():
        for batch in batches:
            tensors = {name: batch[name] for name in slim.inputs if name in batch}
            with taps(slim.model, wanted) as ours, taps(dense.model, wanted) as theirs:
                slim.model(**tensors)
                dense.model(**tensors)
            for tap, total in totals.items():
                ((x,), (y,)) = ours[tap], theirs[tap]
                if x.ndim == 3:
                    mask = batch["attention_mask"].bool()
                    x, y = x[mask], y[mask]
                total.add(x, y - x, torch.ones(len(x)))
        for path, total in zip(paths, totals.values(), strict=True):
            reader = Linear.at(slim.model, path)
            assert reader is not None
            fold(reader, *total.finish().solve(damping, bias=reader.bias is not None))


def _reader_paths(view: ModelView) -> list[str]:
    """Linear layers outside the blocks that read the last hidden state."""
    prefix = "" if view.body is view.model else f"{view.model.base_model_prefix}."
    blocks = f"{prefix}{view.spec.blocks}."
    found = []
    for name, axes in view.roles().items():
        reads = len(axes) == 2 and axes[0] is None and axes[1] is not None and axes[1].role == "hidden"
        path = name.removesuffix(".weight")
        if reads and not name.startswith(blocks) and Linear.at(view.model, path) is not None:
            found.append(path)
    return found


def correct(layer: Linear, weight: Tensor, bias: Tensor) -> None:
    """Add to a linear layer."""
    layer.weight.add_(weight.to(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(bias.to(layer.bias))


def fold(layer: Linear, turn: Tensor, shift: Tensor) -> None:
    """Make a linear layer read ``x + turn @ x + shift`` where it read x; without a bias, the shift must be zero."""
    old = layer.weight.double()
    layer.weight.copy_((old + old @ turn).to(layer.weight))
    if layer.bias is not None:
        layer.bias.add_((old @ shift).to(layer.bias))
