"""The analyzer `neurons`: rankings of the neurons for the task, their agreement, and the fewest neurons that are enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, layer_names, splits_of
from prunekit.analyzers.figures import Bars, Curves, Figure, Heatmap, Series, Table
from prunekit.errors import StatisticsError
from prunekit.metrics import Metric
from prunekit.probes.elastic_net import Fit, Problem
from prunekit.probes.elimination import elimination_order
from prunekit.probes.lasso import lasso_path
from prunekit.probes.rankings import (
    Agreement,
    compare_rankings,
    descending,
    mutual_information,
    probe_gradient_activation,
    probeless,
    ranking,
)
from prunekit.probes.selection import ALPHAS, Split, best, path, sizes_to, smallest
from prunekit.tasks import Task

Ids = NDArray[np.int64]

SHARES = (0.97, 0.99)
"""Shares of the oracle's score for which the fewest neurons are reported."""
MOST = 0.1
"""Largest share of the neurons that is tried."""
ENTERING = 200
"""Number of neurons at which the lasso path ends."""
ROWS = 10_000
"""Most rows from which the mutual information is estimated."""


@final
@dataclass(frozen=True, eq=False)
class NeuronRankings(AnalyzerResult):
    """Rankings and the scores of their first neurons.

    Attributes
    ----------
    oracle : float
        Score of the probe on all neurons.
    metric : Metric
    width, hidden : int
        Number of neurons in total, and in a layer.
    traces : {ranking: ((neurons, score), ...)}
        Probes on the first neurons of each ranking.
    fewest : {ranking: {share: neurons or None}}
        The smallest number that holds the share of the oracle's score; None where none up to a tenth of all does, or where the
        oracle scores 0 or less.
    agreement : Agreement
    first : {ranking: ids}
        The first neurons of each, as flat ids layer * hidden + dimension.
    """

    oracle: float
    metric: Metric
    width: int
    hidden: int
    traces: dict[str, tuple[tuple[int, float], ...]]
    fewest: dict[str, dict[float, int | None]]
    agreement: Agreement
    first: dict[str, Int64[Ids, " _"]]

    def summary(self) -> tuple[str, ...]:
        """Summarise the fewest neurons, by the best ranking and at random, and the agreement of the rankings."""
        lines = []
        if self.oracle <= 0:
            lines.append(
                f"all {self.width:,} neurons together score {self.metric.formatted(self.oracle)}: there is nothing that a few could hold"
            )
        for share in SHARES if self.oracle > 0 else ():
            fewest = {name: size for name, sizes in self.fewest.items() if (size := sizes[share]) is not None}
            target = f"{share:.0%} of the score of all {self.width:,} neurons ({self.metric.value} {self.metric.formatted(self.oracle)})"
            if not fewest:
                lines.append(f"no ranking holds {target} with a tenth of them")
                continue
            name = min(fewest, key=lambda candidate: fewest[candidate])
            random_size = fewest.get("random")
            at_random = "more than a tenth of them" if random_size is None else f"{random_size:,}"
            percent = "" if fewest[name] == 1 else f" ({fewest[name] / self.width:.1%})"
            lines.append(
                f"{_count_text(fewest[name])}{percent} hold{'s' if fewest[name] == 1 else ''} {target}, by {name}; at random: {at_random}"
            )
        taus = self.agreement.tau[np.triu_indices(len(self.agreement.names), 1)]
        lines.append(f"Kendall's tau of two rankings is {np.nanmin(taus):.2f} to {np.nanmax(taus):.2f}, {np.nanmean(taus):.2f} on average")
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Return the scores over the number of neurons, the fewest neurons, their layers, and the agreement of the rankings."""
        series = tuple(
            Series(name, tuple(float(size) for size, _ in trace), tuple(value for _, value in trace)) for name, trace in self.traces.items()
        )
        percent = self.metric.percent
        note = "Probes on the first neurons of each ranking, fitted on train and scored on validation; a ranking that is up early is good."
        curves = Curves(
            "How many neurons the task needs",
            series,
            "neurons read",
            self.metric.value,
            note,
            reference=("all neurons", self.oracle),
            chosen=self._chosen(),
            log_x=True,
            percent=percent,
        )
        names = self.agreement.names
        middle = len(self.agreement.sizes) // 2
        overlap = Heatmap(
            f"Overlap of the first {self.agreement.sizes[middle]} neurons",
            self.agreement.overlap[middle],
            names,
            names,
            "ranking",
            "ranking",
            "share in common",
            f"By chance two rankings would share {self.agreement.sizes[middle] / self.width:.1%}.",
        )
        tau_note = "1 is the same order, 0 is chance; below 0, in the other colour, what one puts first the other puts last."
        tau_title = "Agreement of whole rankings"
        tau = Heatmap(tau_title, self.agreement.tau, names, names, "ranking", "ranking", "Kendall's tau", tau_note, low=-1.0)
        return curves, self._table(), *self._winner_tables(), self._layers(), overlap, tau

    @property
    def winner(self) -> str | None:
        """The ranking that holds the first of the shares with the fewest neurons; None where none does."""
        fewest = {name: size for name, sizes in self.fewest.items() if (size := sizes[SHARES[0]]) is not None}
        return min(fewest, key=lambda candidate: fewest[candidate]) if fewest else None

    def _chosen(self) -> tuple[str, float, float] | None:
        if self.winner is None:
            return None
        size = self.fewest[self.winner][SHARES[0]]
        assert size is not None
        return f"{_count_text(size)}, {SHARES[0]:.0%}", float(size), dict(self.traces[self.winner])[size]

    def _winner_tables(self) -> tuple[Table, ...]:
        """Return the neurons of the smallest set that holds the first of the shares, layer by layer; no table where none does."""
        if self.winner is None:
            return ()
        ids = np.sort(self.first[self.winner][: self.fewest[self.winner][SHARES[0]]])
        names = layer_names(self.width // self.hidden)
        rows = tuple(
            (names[layer], str(len(dims)), ", ".join(map(str, dims)))
            for layer in np.unique(ids // self.hidden)
            for dims in [ids[ids // self.hidden == layer] % self.hidden]
        )
        title = f"The {_count_text(len(ids))} of {self.winner} that hold{'s' if len(ids) == 1 else ''} {SHARES[0]:.0%}"
        note = "Dimensions of a layer's vector, counted from 0. Other sets may do as well: neurons say much of what others say."
        return (Table(title, ("layer", "neurons", "which"), rows, -1, note),)

    def _table(self) -> Table:
        rows = tuple(
            (name, *(f"> {round(MOST * self.width):,}" if size is None else f"{size:,}" for size in sizes.values()))
            for name, sizes in self.fewest.items()
        )
        header = ("ranking", *(f"neurons for {share:.0%}" for share in SHARES))
        note = "Sizes are about a quarter apart; both the score and its smoothed curve must hold. The row in colour needs the fewest."
        return Table("Fewest neurons", header, rows, -1 if self.winner is None else list(self.fewest).index(self.winner), note)

    def _layers(self) -> Bars:
        count = self.width // self.hidden
        names = layer_names(count)
        shares = {name: np.bincount(ids // self.hidden, minlength=count) / len(ids) for name, ids in self.first.items()}
        size = len(next(iter(self.first.values())))
        values = tuple(tuple(float(value) for value in share) for share in shares.values())
        note = f"In which layers the first {size} neurons of each ranking are."
        return Bars("Where the neurons are", tuple(shares), names, values, "share of the first neurons", note, percent=True)


def run(inputs: Observations) -> NeuronRankings:
    """Rank the neurons of the model in several ways and probe the first of each."""
    train, validation = splits_of(inputs.model)
    task, width = inputs.task, train.rows.width
    _, oracle, reference = best(train, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
    orders = rank(train, oracle, task, inputs.seed)
    count = len(orders["random"])
    sizes = sizes_to(min(count, max(1, round(MOST * width))))
    traces, fewest = {}, {}
    for name, order in orders.items():
        ids = order[: sizes[-1]]
        trace = tuple(path(train.columns(ids), validation.columns(ids), task, sizes)[1])
        traces[name] = trace
        # A share of a score that is not positive is undefined.
        fewest[name] = {share: _fewest(trace, share * reference) if reference > 0 else None for share in SHARES}
    ks = sorted({min(count, k) for k in (10, 50, 200)})
    first = {name: order[: sizes[-1]] for name, order in orders.items()}
    agreement = compare_rankings(orders, ks)
    return NeuronRankings(reference, task.metric, width, inputs.model.source.hidden, traces, fewest, agreement, first)


def rank(train: Split, oracle: Fit, task: Task, seed: int) -> dict[str, Int64[Ids, " m"]]:
    """Rank the non-constant neurons in several ways, most important first; all rankings order the same neurons."""
    width, outputs = train.rows.width, task.outputs
    non_constant = train.moments.non_constant(width)
    ids = np.flatnonzero(non_constant)
    if not len(ids):
        raise StatisticsError("No neuron varies: give rows that differ, and are not all read as the same tokens.")
    labels = width + np.arange(outputs)
    sampled = np.sort(np.random.default_rng(seed).permutation(len(train.rows))[:ROWS])
    with train.rows.take(sampled) as store:
        rows = store.matrix()
    magnitude = np.linalg.norm(oracle.coef, axis=0)
    orders = {
        "elimination": ids[elimination_order(train.moments.take(np.concatenate([ids, labels])), len(ids))],
        "elastic-net": _with_others(ranking(oracle.standard), non_constant),
        "lasso path": lasso_path(train.moments, outputs, most=ENTERING),
    }
    if outputs > 1:
        orders["Probeless"] = descending(probeless(train.moments, outputs), non_constant)
    orders |= {
        "mutual information": descending(mutual_information(rows, train.labels[sampled]), non_constant),
        "gradient x activation": descending(
            probe_gradient_activation(train.rows, train.labels, oracle.coef, oracle.intercept), non_constant
        ),
        "magnitude": descending(magnitude, non_constant),
        "random": np.random.default_rng(seed).permutation(ids),
    }
    return orders


def _count_text(size: int) -> str:
    return "1 neuron" if size == 1 else f"{size:,} neurons"


def _with_others(order: Int64[Ids, " _"], non_constant: Bool[NDArray[np.bool_], " d"]) -> Int64[Ids, " m"]:
    """Extend an order of some neurons to all non-constant ones: the others last, by id."""
    kept = order[non_constant[order]]
    return np.concatenate([kept, np.setdiff1d(np.flatnonzero(non_constant), kept)])


def _fewest(trace: tuple[tuple[int, float], ...], target: float) -> int | None:
    sizes = [size for size, _ in trace]
    index = smallest(sizes, [value for _, value in trace], target)
    return None if index is None else sizes[index]


ANALYZER = Analyzer("neurons", "Which neurons matter", frozenset({Need.ONE_LABEL, Need.ROWS, Need.VALIDATION, Need.MOMENTS}), run)
