"""A BERT whose heads can lose single dimensions of queries and keys, and of values: what `benchmarks/ranks.py` measures.

Each head is rewritten, exactly, so that its dimensions are ordered by singular values weighted by activations, and fewer of them have a
cost. All else is prunekit's own: sensitivities, the elimination of FFN neurons, what is given up where, and the refit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from prunekit.arch.view import ModelView
from prunekit.plan import Plan
from prunekit.pruning.allocation import Candidates, Curve, allocate, elimination
from prunekit.pruning.allocation import Path as Order
from prunekit.pruning.costs import Params
from prunekit.refit.refit import refit
from prunekit.stats.blocks import Site, record_calls, sites
from prunekit.stats.sensitivity import Sensitivity, sensitivity
from prunekit.transforms.apply import apply
from prunekit.transforms.cut import cut
from prunekit.transforms.surgery import remove

#: Query-key ranks that are tried.
RANKS = (0, 2, 4, 6, 8, 12, 16, 20, 24, 28)
#: Damping of the covariance, as in `prunekit.pruning.allocation.elimination`.
DAMPING = 1e-2


class RankedAttention(nn.Module):
    """BERT's self-attention, with numbers of query-key and of value dimensions of each head's own."""

    def __init__(self, dense: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = dense.query, dense.key, dense.value
        self.scale = dense.attention_head_size**-0.5
        self.qk = [dense.attention_head_size] * dense.num_attention_heads
        self.vo = list(self.qk)
        self.watch: Callable[..., None] | None = None

    def split(self, rows: Tensor, ranks: list[int]) -> Tensor:
        """(batch, heads, length, widest), with zeros behind each head's own dimensions."""
        widest = max(*self.qk, *self.vo)
        return torch.stack([pad(part, (0, widest - part.shape[-1])) for part in rows.split(ranks, -1)], 1)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: object) -> tuple[Tensor, None]:
        q, k = (self.split(layer(hidden_states), self.qk) for layer in (self.query, self.key))
        v = self.split(self.value(hidden_states), self.vo)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, scale=self.scale)
        if self.watch is not None:
            self.watch(q.detach(), k.detach(), v.detach(), mixed.detach(), attention_mask)
        return torch.cat([mixed[:, head, :, :rank] for head, rank in enumerate(self.vo)], -1), None

    def places(self, ranks: list[int]) -> list[list[int]]:
        """Positions of each head's dimensions among all."""
        return [list(range(first, last)) for first, last in pairwise(accumulate(ranks, initial=0))]


def ranked(model: nn.Module) -> ModelView:
    """A copy of a BERT whose heads can lose single dimensions."""
    view = ModelView.of(apply(model, Plan(source=ModelView.of(model).source)))
    for block in view.blocks:
        block.attention.self = RankedAttention(block.attention.self)
    return view


def attentions(view: ModelView) -> dict[Site, RankedAttention]:
    """The attention of every block that still has heads."""
    found = {site: view.blocks[site.block].attention.self for site in sites(view) if site.role == "heads"}
    return {site: module for site, module in found.items() if isinstance(module, RankedAttention)}


def valid(mask: Tensor | None, like: Tensor) -> Tensor:
    """(batch, length) bool: real tokens, by what attention may read."""
    if mask is None:
        return torch.ones(like.shape[0], like.shape[2], dtype=torch.bool)
    return mask[:, 0].any(1) if mask.dtype == torch.bool else (mask[:, 0] == 0).any(1)


class Grams:
    """Second moments of each head's queries, and of its keys about the mean of their row: softmax does not see a common shift."""

    def __init__(self) -> None:
        self.q: Tensor | float = 0.0
        self.k: Tensor | float = 0.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, mask: Tensor | None) -> None:
        real = valid(mask, q)
        among = real[:, None, :, None].to(k)
        k = k - (k * among).sum(2, keepdim=True) / among.sum(2, keepdim=True)
        self.q, self.k = (
            total + torch.einsum("nhi,nhj->hij", rows, rows).double()
            for total, rows in ((self.q, q.transpose(1, 2)[real]), (self.k, k.transpose(1, 2)[real]))
        )


def ridged(gram: Tensor) -> Tensor:
    """A second moment that can be inverted."""
    return gram + 1e-6 * gram.diagonal().mean().clamp(min=1e-30) * torch.eye(len(gram), dtype=gram.dtype)


def balanced_qk(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of a head's queries and of its keys that keep all scores and order the dimensions by their share in them."""
    left, right = torch.linalg.cholesky(ridged(q)), torch.linalg.cholesky(ridged(k))
    u, s, vt = torch.linalg.svd(left.T @ right)
    return s.sqrt()[:, None] * torch.linalg.solve(left.T, u).T, s.sqrt()[:, None] * torch.linalg.solve(right.T, vt.T).T


def balanced_vo(covariance: Tensor, metric: Tensor) -> Tensor:
    """A map of a head's outputs that orders them by their share in the error of the residual sum; the sum of variances stays."""
    half = torch.linalg.cholesky(ridged(covariance))
    values, vectors = torch.linalg.eigh(half.T @ metric @ half)
    values, vectors = values.flip(0).clamp(min=1e-6 * float(values.max())), vectors.flip(1)
    # Outputs whitened by `half` have the cost values[i]; scaled to a standard deviation of values[i] ** (1 / 4).
    turn = values[:, None] ** 0.25 * torch.linalg.solve(half.T, vectors).T
    return turn * (covariance.trace() / (turn @ covariance @ turn.T).trace()).sqrt()


@torch.no_grad()
def rewrite(view: ModelView, site: Site, measured: Sensitivity, grams: Grams, order: str) -> Tensor:
    """Order the dimensions of all heads of a block, exactly; return the covariance of the new outputs."""
    module, output = view.blocks[site.block].attention.self, view.blocks[site.block].attention.output.dense
    covariance, metric = measured.covariance, measured.metric
    assert covariance is not None
    through = output.weight.double()
    turns = []
    for head, (qk, vo) in enumerate(zip(module.places(module.qk), module.places(module.vo), strict=True)):
        if qk:
            maps = balanced_qk(grams.q[head, : len(qk), : len(qk)], grams.k[head, : len(qk), : len(qk)])
            for layer, turn in zip((module.query, module.key), maps, strict=True):
                turn_rows(layer, qk, turn)
        own = through[:, vo].T @ (metric if order == "loss" else torch.eye(len(metric), dtype=metric.dtype)) @ through[:, vo]
        turn = balanced_vo(covariance[vo][:, vo], own)
        turn_rows(module.value, vo, turn)
        output.weight[:, vo] = (through[:, vo] @ torch.linalg.inv(turn)).to(output.weight)
        turns.append(turn)
    whole = torch.block_diag(*turns)
    return whole @ covariance @ whole.T


def turn_rows(layer: nn.Linear, rows: list[int], turn: Tensor) -> None:
    """Map some outputs of a linear layer."""
    layer.weight[rows] = (turn @ layer.weight[rows].double()).to(layer.weight)
    layer.bias[rows] = (turn @ layer.bias[rows].double()).to(layer.bias)


class Truncations:
    """Errors of the outputs of a block's heads at lower query-key ranks, in the metric of the loss."""

    def __init__(self, module: RankedAttention, metric: Tensor, through: Tensor) -> None:
        self.module, self.ranks, self.weights = module, [rank for rank in RANKS if rank < max(module.qk)], torch.empty(0)
        widest = max(*module.qk, *module.vo)
        roots = []
        for columns in module.places(module.vo):
            values, vectors = torch.linalg.eigh(through[:, columns].T @ metric @ through[:, columns])
            root = vectors * values.clamp(min=0).sqrt()
            roots.append(pad(root, (0, widest - len(columns), 0, widest - len(columns))))
        self.roots = torch.stack(roots).float()
        self.x: list[Any] = [0.0, 0.0, 0.0]
        self.y: list[list[Any]] = [[0.0, 0.0, 0.0] for _ in self.ranks]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, mask: Tensor | None) -> None:
        chosen = self.weights > 0
        weights = self.weights[chosen].float()[:, None]
        x = mixed.transpose(1, 2)[chosen].flatten(1)
        add(self.x, weights.sum(), (weights * x).sum(0), (weights * x).T @ x)
        for rank, sums in zip(self.ranks, self.y, strict=True):
            fewer = q.clone()
            fewer[..., rank:] = 0
            error = scaled_dot_product_attention(fewer, k, v, attn_mask=mask, scale=self.module.scale) - mixed
            y = torch.einsum("nhi,hij->nhj", error.transpose(1, 2)[chosen], self.roots).flatten(1)
            add(sums, (weights * y).sum(0), (weights * y.square()).sum(0), (weights * y).T @ x)

    def finish(self) -> list[dict[int, float]]:
        """The cost of each rank, by head."""
        total, mean = self.x[0], self.x[1] / self.x[0]
        xx = self.x[2] / total - torch.outer(mean, mean)
        xx = xx + DAMPING * xx.trace() / sum(self.module.vo) * torch.eye(len(xx), dtype=xx.dtype)
        costs: list[dict[int, float]] = [{rank: 0.0} for rank in self.module.qk]
        for rank, (first, second, yx) in reversed(list(zip(self.ranks, self.y, strict=True))):
            off = first / total
            yx = yx / total - torch.outer(off, mean)
            left = second / total - off.square() - (torch.linalg.solve(xx, yx.T).T * yx).sum(1)
            for head, cost in enumerate(left.reshape(len(costs), -1).sum(1).tolist()):
                if rank < self.module.qk[head]:
                    costs[head][rank] = max(cost, *costs[head].values())
        return costs


def add(sums: list[Any], *values: Tensor) -> None:
    """Add to sums in double precision."""
    sums[:] = [total + value.double() for total, value in zip(sums, values, strict=True)]


@dataclass(frozen=True)
class Move:
    """Columns of the output projection that go, and heads that get another query-key rank."""

    columns: tuple[int, ...]
    ranks: dict[int, int]


@dataclass(frozen=True)
class Moves(Curve):
    """The cost of moves, and what they free together."""

    totals: tuple[float, ...] = ()
    moves: tuple[Move, ...] = field(default=(), compare=False)

    def freed(self, gone: int) -> float:
        return self.totals[gone - 1] if gone else 0.0


class Elimination:
    """Greedy elimination among the heads of one block and their dimensions: the least cost for a parameter first."""

    def __init__(self, module: RankedAttention, site: Candidates, ranks: list[dict[int, float]]) -> None:
        values, vectors = np.linalg.eigh(site.metric)
        self.weight = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T @ site.projection
        strength = DAMPING * np.trace(site.covariance) / len(site.covariance)
        self.inverse = np.linalg.inv(site.covariance + strength * np.eye(len(site.covariance)))
        self.columns, self.qk, self.costs = dict(enumerate(module.places(module.vo))), list(module.qk), ranks
        hidden = len(site.projection)
        # A row of query and key each, with biases; a row of the value with its bias, and a column of the output.
        self.price_qk, self.price_vo = 2 * hidden + 2, 2 * hidden + 1

    def group(self, columns: Sequence[int]) -> float:
        part = self.weight[:, columns]
        return float((part @ np.linalg.inv(self.inverse[np.ix_(columns, columns)]) * part).sum())

    def candidates(self, how: str) -> Iterator[tuple[float, float, Move]]:
        """Cost, price and move."""
        for head, columns in self.columns.items():
            price = self.price_vo * len(columns) + self.price_qk * self.qk[head]
            yield self.group(columns) - self.costs[head][self.qk[head]], price, Move(tuple(columns), {head: 0})
        if how == "heads":
            return
        single = np.square(self.weight).sum(0) / np.maximum(np.diag(self.inverse), 1e-300)
        cheapest = {head: min(columns, key=lambda at: single[at]) for head, columns in self.columns.items() if len(columns) > 1}
        if how == "common":
            if len(cheapest) == len(self.columns):
                yield self.group(list(cheapest.values())), self.price_vo * len(cheapest), Move(tuple(cheapest.values()), {})
            yield from self.lower(list(self.columns))
            return
        if how != "qk":
            yield from ((single[column], self.price_vo, Move((column,), {})) for column in cheapest.values())
        if how != "vo":
            for head in self.columns:
                yield from self.lower([head])

    def lower(self, heads: list[int]) -> Iterator[tuple[float, float, Move]]:
        """Lower query-key ranks, the same for some heads of equal rank."""
        now = self.qk[heads[0]]
        for rank in (rank for rank in RANKS if rank < now):
            cost = sum(self.costs[head][rank] - self.costs[head][now] for head in heads)
            yield cost, self.price_qk * (now - rank) * len(heads), Move((), dict.fromkeys(heads, rank))

    def path(self, how: str) -> Moves:
        cost, freed, moves = [0.0], [0.0], []
        while self.columns:
            paid, price, move = min(self.candidates(how), key=lambda found: found[0] / found[1])
            cost.append(cost[-1] + paid)
            freed.append(freed[-1] + price)
            moves.append(move)
            if move.columns:
                gone = list(move.columns)
                block, crossing = np.linalg.inv(self.inverse[np.ix_(gone, gone)]), self.inverse[gone]
                self.weight -= self.weight[:, gone] @ block @ crossing
                self.inverse -= crossing.T @ block @ crossing
                left = {head: [column for column in columns if column not in gone] for head, columns in self.columns.items()}
                self.columns = {head: columns for head, columns in left.items() if columns}
            for head, rank in move.ranks.items():
                self.qk[head] = rank
        return Moves(tuple(cost[1:]), self.price_vo, tuple(range(len(cost))), totals=tuple(freed[1:]), moves=tuple(moves))


@torch.no_grad()
def narrow(view: ModelView, site: Site, moves: Sequence[Move]) -> None:
    """Carry out moves: slice the projections of a block, and drop heads that have no outputs left."""
    block = view.blocks[site.block]
    module, output = block.attention.self, block.attention.output.dense
    gone, ranks = {column for move in moves for column in move.columns}, dict(enumerate(module.qk))
    for move in moves:
        ranks.update(move.ranks)
    vo = [[column for column in columns if column not in gone] for columns in module.places(module.vo)]
    qk = [columns[: ranks[head]] for head, columns in enumerate(module.places(module.qk))]
    staying = [head for head, columns in enumerate(vo) if columns]
    if not staying:
        remove(block, view.spec.attention)
        return
    rows = {name: [at for head in staying for at in columns[head]] for name, columns in (("qk", qk), ("vo", vo))}
    for name, kept in (("query", "qk"), ("key", "qk"), ("value", "vo")):
        layer = getattr(module, name)
        setattr(module, name, linear(layer.weight[rows[kept]], layer.bias[rows[kept]]))
    block.attention.output.dense = linear(output.weight[:, rows["vo"]], output.bias)
    module.qk, module.vo = ([len(columns[head]) for head in staying] for columns in (qk, vo))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with these weights; it may have no rows."""
    layer = nn.Linear(1, 1)
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    layer.out_features, layer.in_features = weight.shape
    return layer


@dataclass(frozen=True)
class Measured:
    """What decides in one state of a model: sensitivities, moments of queries and keys, and what has been computed from them."""

    found: dict[Site, Sensitivity]
    grams: dict[Site, Grams]
    orders: dict[Site, Order] = field(default_factory=dict)
    ranks: dict[str, dict[Site, list[dict[int, float]]]] = field(default_factory=dict)

    @classmethod
    def of(cls, view: ModelView, batches: list[dict[str, Tensor]], seed: int) -> Measured:
        grams = {site: Grams() for site in attentions(view)}
        for site, module in attentions(view).items():
            module.watch = grams[site]
        found = sensitivity(view, batches, seed=seed, units=True)
        for module in attentions(view).values():
            module.watch = None
        return cls(found, grams)


class Start:
    """A dense model and its calibration rows, measured once for all variants."""

    def __init__(self, model: nn.Module, batches: list[dict[str, Tensor]], seed: int) -> None:
        self.dense, self.batches, self.seed = ModelView.of(model), batches, seed
        self.calls, self.measured = record_calls(self.dense, batches), Measured.of(ranked(model), batches, seed + 1)


class Chain:
    """A model that is pruned step by step to smaller and smaller shares of its layers' parameters."""

    def __init__(self, start: Start, how: str, order: str) -> None:
        self.start, self.how, self.order, self.view, self.steps = start, how, order, ranked(start.dense.model), 0
        self.full = Params().of(self.view)

    def costs_of_ranks(self, found: dict[Site, Sensitivity]) -> dict[Site, list[dict[int, float]]]:
        """The costs of lower query-key ranks, measured on every second batch."""
        watching = {}
        for site, module in attentions(self.view).items():
            projection = site.projection(self.view)
            assert projection is not None
            watching[site] = module.watch = Truncations(module, found[site].metric, projection.weight.double())
        with torch.inference_mode():
            for at, batch in list(enumerate(self.start.batches))[::2]:
                for site, watch in watching.items():
                    watch.weights = found[site].weights[at]
                self.view.hidden_states(batch)
        for module in attentions(self.view).values():
            module.watch = None
        return {site: watch.finish() for site, watch in watching.items()}

    def step(self, share: float) -> None:
        """Prune to a share and refit."""
        measured = Measured.of(self.view, self.start.batches, self.start.seed + self.steps + 1) if self.steps else self.start.measured
        self.steps += 1
        covariances = {site: sums.covariance for site, sums in measured.found.items() if sums.covariance is not None}
        if self.how != "heads":
            for site in attentions(self.view):
                covariances[site] = rewrite(self.view, site, measured.found[site], measured.grams[site], self.order)
        if self.how not in ("heads", "vo") and self.order not in measured.ranks:
            measured.ranks[self.order] = self.costs_of_ranks(measured.found)
        curves: dict[Site, Curve] = {}
        for site, covariance in covariances.items():
            projection = site.projection(self.view)
            assert projection is not None
            units, price = len(covariance), 2 * len(projection.weight) + 1.0
            weight, metric = projection.weight.detach().double().numpy(), measured.found[site].metric.numpy()
            here = Candidates(covariance.numpy(), weight, metric, units, price)
            if site.role == "heads":
                module = attentions(self.view)[site]
                free = [dict.fromkeys([*RANKS, rank], 0.0) for rank in module.qk]
                curves[site] = Elimination(module, here, measured.ranks.get(self.order, {}).get(site, free)).path(self.how)
            else:
                if site not in measured.orders:
                    measured.orders[site] = elimination(here)
                curves[site] = Curve(measured.orders[site].cost, price, tuple(range(units + 1)))
        removed = allocate(curves, Params().of(self.view) - share * self.full)
        for site, gone in removed.items():
            if site.role == "ffn":
                order = measured.orders[site].order
                leaving, units = set(order[:gone]), len(order)
                cut(self.view, site, [unit for unit in range(units) if unit not in leaving], units)
            else:
                narrow(self.view, site, curves[site].moves[:gone])
        weights = {site: sums.weights for site, sums in measured.found.items()}
        refit(self.view, self.start.dense, self.start.batches, weights=weights, calls=self.start.calls)

    def shape(self) -> dict[str, list[Any]]:
        """Ranks of the heads that stay, and FFN neurons, by block."""
        here = {site.block: module for site, module in attentions(self.view).items()}
        blocks = range(self.view.num_layers)
        ffn = [site.projection(self.view) for site in sites(self.view) if site.role == "ffn"]
        return {
            "qk": [here[block].qk if block in here else [] for block in blocks],
            "vo": [here[block].vo if block in here else [] for block in blocks],
            "ffn": [0 if projection is None else projection.weight.shape[1] for projection in ffn],
        }
