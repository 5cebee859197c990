"""The analyzer `probes`: probes of each layer for the task and a control task, and the lowest layer that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, Subject, layer_names, splits_of
from prunekit.analyzers.figures import Curves, Figure, Series, Table
from prunekit.metrics import Metric
from prunekit.probes.control import control_labels
from prunekit.probes.layerwise import LayerScores, layer_scores
from prunekit.probes.selection import Split
from prunekit.stats.collected import BothLabels

DELTAS = (0.01, 0.02, 0.03)
"""Relative losses of the oracle's score for which the lowest layer is named, as in Dalvi et al. (2020)."""


@final
@dataclass(frozen=True, eq=False)
class Knowledge(AnalyzerResult):
    """Scores of probes, layer by layer.

    Attributes
    ----------
    model : LayerScores
    base : LayerScores or None
        Scores of the model that it is compared with.
    metric : Metric
    enough : {delta: layer}
        The lowest layer that, with all below it, scores within delta of all layers together.
    types : {"words", "rows"}
        Items that have labels of their own in the control task.
    """

    model: LayerScores
    base: LayerScores | None
    metric: Metric
    enough: dict[float, int]
    types: str

    def summary(self) -> tuple[str, ...]:
        """Summarise the lowest layer that is enough, the best single layer, selectivity, and the base."""
        names = layer_names(len(self.model.alone))
        lines = [self._enough()]
        top = int(np.argmax(self.model.alone))
        best = self.metric.formatted(self.model.alone[top])
        lines.append(f"the best single layer is {names[top]}: {best}; no neuron at all: {self.metric.formatted(self.model.chance)}")
        if self.model.selectivity is not None:
            most = int(np.argmax(self.model.selectivity))
            highest = self.metric.formatted(self.model.selectivity[most])
            lines.append(
                f"selectivity is highest at layer {names[most]}: {highest} above the control task"
                + (", whose labels no held-out row can know" if self.types == "rows" else " of random labels by word")
            )
        if self.base is not None:
            gain = np.subtract(self.model.alone, self.base.alone) if len(self.base.alone) == len(self.model.alone) else np.empty(0)
            where = f", most at layer {names[int(gain.argmax())]} (+{self.metric.formatted(float(gain.max()))})" if gain.size else ""
            lines.append(f"all layers of the base: {self.metric.formatted(self.base.oracle)}{where}")
        return tuple(lines)

    def _enough(self) -> str:
        last = len(self.model.alone) - 1
        # Layers that hold a share also hold any smaller share.
        shares: dict[int, str] = {}
        for delta, layer in sorted(self.enough.items()):
            shares.setdefault(layer, f"{1 - delta:.0%}")
        named = {0: "the embeddings alone hold", last: f"only all {last} layers hold", 1: "layer 1 holds"}
        parts = [f"{named.get(layer, f'the first {layer} layers hold')} {share}" for layer, share in shares.items()]
        score = f"of the score of all together ({self.metric.value} {self.metric.formatted(self.model.oracle)})"
        return ", ".join([f"{parts[0]} {score}", *parts[1:]])

    def figures(self) -> tuple[Figure, ...]:
        """Return the scores over layers, as curves and as a table."""
        series = [_series("layers 0 to this one", self.model.upto), _series("this layer alone", self.model.alone)]
        if self.model.control is not None:
            series.append(_series("control task", self.model.control))
        if self.base is not None:
            series.append(_series("base, layer alone", self.base.alone))
        first = self.enough[DELTAS[0]]
        item = "a word" if self.types == "words" else "a row"
        note = "Linear probes, scored on validation."
        if self.model.control is not None:
            note += f" The control task has a random label for {item}: what a probe scores there, it learned by heart."
        curves = Curves(
            "What each layer knows of the task",
            tuple(series),
            "layer (0: embeddings)",
            self.metric.value,
            note,
            reference=("no neuron", self.model.chance),
            chosen=(f"within {DELTAS[0]:.0%}", float(first), self.model.upto[first]),
            whole_x=True,
            percent=self.metric.percent,
        )
        return curves, self._table(first)

    def _table(self, strong: int) -> Table:
        model = self.model
        header, columns = ["layer", "alone", "0 to this one"], [model.alone, model.upto]
        if model.control is not None and model.selectivity is not None:
            header += ["control", "selectivity"]
            columns += [model.control, model.selectivity]
        if self.base is not None and len(self.base.alone) == len(model.alone):
            header.append("base, alone")
            columns.append(self.base.alone)
        rows = tuple(
            (name, *(self.metric.formatted(column[at]) for column in columns)) for at, name in enumerate(layer_names(len(model.alone)))
        )
        note = (
            "A layer alone, and all layers up to it; where control labels are learned as well as the real ones, the probe learns by heart. "
            f"The row in colour, layer {strong}, is the lowest that is enough."
        )
        return Table(f"{self.metric.value}, validation", tuple(header), rows, strong, note)


def _series(name: str, values: tuple[float, ...]) -> Series:
    return Series(name, tuple(float(at) for at in range(len(values))), values)


def run(inputs: Observations) -> Knowledge:
    """Probe every layer of the model, and of the base."""
    model = _probe(inputs, inputs.model)
    # The co-moment of a larger base may not fit, and then the model alone is probed.
    base = None if inputs.base is None or not inputs.base.fits else _probe(inputs, inputs.base)
    enough = {delta: model.minimal(delta) for delta in DELTAS}
    return Knowledge(model, base, inputs.task.metric, enough, "rows" if inputs.types is None else "words")


def _probe(inputs: Observations, subject: Subject) -> LayerScores:
    train, validation = splits_of(subject)
    return layer_scores(train, validation, inputs.task, subject.source.hidden, control=_control_task(inputs, train, validation))


def _control_task(inputs: Observations, train: Split, validation: Split) -> BothLabels | None:
    """Return random labels of train and validation; None where those of train came out all the same, of which nothing can be learned."""
    types = inputs.types
    if types is None or len(types[0]) != len(train.labels) or len(types[1]) != len(validation.labels):
        # Each text is its own type; the tokenizers of the base and of the model may keep different words.
        types = np.arange(len(train.labels)), len(train.labels) + np.arange(len(validation.labels))
    train_labels, validation_labels = control_labels(train.labels, *types, seed=inputs.seed)
    return None if len(np.unique(train_labels, axis=0)) < 2 else (train_labels, validation_labels)


ANALYZER = Analyzer("probes", "What each layer knows", frozenset({Need.ROWS, Need.VALIDATION, Need.MOMENTS}), run)
