"""The analyzer `neurons`: rankings of the neurons for the task, how far they agree, and how few neurons are enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunekit.analyzers.base import Analyzer, Inputs, Need, Result, layer_names, splits_of
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
"""Of the oracle's score, for which the fewest neurons are named."""
MOST = 0.1
"""Share of the neurons up to which sizes are tried."""
ENTERING = 200
"""Neurons after which the lasso path ends."""
ROWS = 10_000
"""Most rows that are counted for the mutual information."""


@dataclass(frozen=True, eq=False)
class Neurons(Result):
    """Rankings and what their first neurons score.

    Attributes
    ----------
    oracle : float
        Score of the probe on all neurons.
    metric : Metric
    width, hidden : int
        Neurons in all, and in a layer.
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
    first: dict[str, Ids]

    def summary(self) -> tuple[str, ...]:
        """The fewest neurons, by the best ranking and by the baselines; how far rankings agree."""
        lines = []
        if self.oracle <= 0:
            lines.append(
                f"all {self.width:,} neurons together score {self.metric.said(self.oracle)}: there is nothing that a few could hold"
            )
        for share in SHARES if self.oracle > 0 else ():
            known = {name: size for name, sizes in self.fewest.items() if (size := sizes[share]) is not None}
            whole = f"{share:.0%} of the score of all {self.width:,} neurons ({self.metric.value} {self.metric.said(self.oracle)})"
            if not known:
                lines.append(f"no ranking holds {whole} with a tenth of them")
                continue
            name = min(known, key=lambda each: known[each])
            rand = known.get("random")
            beside = "more than a tenth of them" if rand is None else f"{rand:,}"
            part = "" if known[name] == 1 else f" ({known[name] / self.width:.1%})"
            lines.append(f"{_counted(known[name])}{part} hold{'s' if known[name] == 1 else ''} {whole}, by {name}; at random: {beside}")
        off = self.agreement.tau[np.triu_indices(len(self.agreement.names), 1)]
        lines.append(f"Kendall's tau of two rankings is {np.nanmin(off):.2f} to {np.nanmax(off):.2f}, {np.nanmean(off):.2f} on average")
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Scores over the number of neurons, the fewest of them, where they are, and how far the rankings agree."""
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
        said = "1 is the same order, 0 is chance; below 0, in the other colour, what one puts first the other puts last."
        of = "Agreement of whole rankings"
        tau = Heatmap(of, self.agreement.tau, names, names, "ranking", "ranking", "Kendall's tau", said, low=-1.0)
        return curves, self._table(), *self._named(), self._layers(), overlap, tau

    @property
    def winner(self) -> str | None:
        """The ranking that holds the first of the shares with the fewest neurons; None where none does."""
        known = {name: size for name, sizes in self.fewest.items() if (size := sizes[SHARES[0]]) is not None}
        return min(known, key=lambda each: known[each]) if known else None

    def _chosen(self) -> tuple[str, float, float] | None:
        if self.winner is None:
            return None
        size = self.fewest[self.winner][SHARES[0]]
        assert size is not None
        return f"{_counted(size)}, {SHARES[0]:.0%}", float(size), dict(self.traces[self.winner])[size]

    def _named(self) -> tuple[Table, ...]:
        """The neurons of the smallest set that holds the first of the shares, layer by layer."""
        if self.winner is None:
            return ()
        ids = np.sort(self.first[self.winner][: self.fewest[self.winner][SHARES[0]]])
        names = layer_names(self.width // self.hidden)
        rows = tuple(
            (names[layer], str(len(dims)), ", ".join(map(str, dims)))
            for layer in np.unique(ids // self.hidden)
            for dims in [ids[ids // self.hidden == layer] % self.hidden]
        )
        title = f"The {_counted(len(ids))} of {self.winner} that hold{'s' if len(ids) == 1 else ''} {SHARES[0]:.0%}"
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


def run(inputs: Inputs) -> Neurons:
    """Rank the neurons of the model in several ways and probe the first of each."""
    train, validation = splits_of(inputs.model)
    task, width = inputs.task, train.rows.width
    _, oracle, reference = best(train, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
    orders = rank(train, oracle, task, inputs.seed)
    alive = len(orders["random"])
    sizes = sizes_to(min(alive, max(1, round(MOST * width))))
    traces, fewest = {}, {}
    for name, order in orders.items():
        ids = order[: sizes[-1]]
        trace = tuple(path(train.columns(ids), validation.columns(ids), task, sizes)[1])
        traces[name] = trace
        # Of a score that is no better than nothing there is no share to hold.
        fewest[name] = {share: _fewest(trace, share * reference) if reference > 0 else None for share in SHARES}
    ks = sorted({min(alive, k) for k in (10, 50, 200)})
    first = {name: order[: sizes[-1]] for name, order in orders.items()}
    agreement = compare_rankings(orders, ks)
    return Neurons(reference, task.metric, width, inputs.model.source.hidden, traces, fewest, agreement, first)


def rank(train: Split, oracle: Fit, task: Task, seed: int) -> dict[str, Ids]:
    """All rankings of the neurons that are alive, most important first; all order the same neurons."""
    width, outputs = train.rows.width, task.outputs
    alive = train.moments.alive(width)
    ids = np.flatnonzero(alive)
    if not len(ids):
        raise StatisticsError("No neuron varies: give rows that differ, and are not all read as the same tokens.")
    labels = width + np.arange(outputs)
    some = np.sort(np.random.default_rng(seed).permutation(len(train.rows))[:ROWS])
    with train.rows.take(some) as store:
        rows = store.matrix()
    magnitude = np.linalg.norm(oracle.coef, axis=0)
    found = {
        "elimination": ids[elimination_order(train.moments.take(np.concatenate([ids, labels])), len(ids))],
        "elastic-net": _completed(ranking(oracle.standard), alive),
        "lasso path": lasso_path(train.moments, outputs, most=ENTERING),
    }
    if outputs > 1:
        found["Probeless"] = descending(probeless(train.moments, outputs), alive)
    found |= {
        "mutual information": descending(mutual_information(rows, train.labels[some]), alive),
        "gradient x activation": descending(probe_gradient_activation(train.rows, train.labels, oracle.coef, oracle.intercept), alive),
        "magnitude": descending(magnitude, alive),
        "random": np.random.default_rng(seed).permutation(ids),
    }
    return found


def _counted(size: int) -> str:
    return "1 neuron" if size == 1 else f"{size:,} neurons"


def _completed(order: Ids, alive: NDArray[np.bool_]) -> Ids:
    """An order of some neurons as one of all that are alive: the others last, by id."""
    kept = order[alive[order]]
    return np.concatenate([kept, np.setdiff1d(np.flatnonzero(alive), kept)])


def _fewest(trace: tuple[tuple[int, float], ...], target: float) -> int | None:
    sizes = [size for size, _ in trace]
    at = smallest(sizes, [value for _, value in trace], target)
    return None if at is None else sizes[at]


ANALYZER = Analyzer("neurons", "Which neurons matter", frozenset({Need.ONE_LABEL, Need.ROWS, Need.VALIDATION, Need.MOMENTS}), run)
