"""The analyzer `probes`: what each layer knows of the task, beside a control task, and the lowest layer that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.analyzers.base import Analyzer, Inputs, Need, Result, Subject, layer_names, splits_of
from prunekit.analyzers.figures import Curves, Figure, Series, Table
from prunekit.metrics import Metric
from prunekit.probes.control import control_labels
from prunekit.probes.layerwise import LayerScores, layer_scores
from prunekit.probes.selection import Split

DELTAS = (0.01, 0.02, 0.03)
"""Relative losses of the oracle's score for which the lowest layer is named, as in Dalvi et al. (2020)."""


@dataclass(frozen=True, eq=False)
class Knowledge(Result):
    """Scores of probes, layer by layer.

    Attributes
    ----------
    model : LayerScores
    base : LayerScores or None
        Of the model that it is compared with.
    metric : Metric
    enough : {delta: layer}
        The lowest layer that, with all below it, scores within delta of all layers together.
    types : {"words", "rows"}
        What has a label of its own in the control task.
    """

    model: LayerScores
    base: LayerScores | None
    metric: Metric
    enough: dict[float, int]
    types: str

    def summary(self) -> tuple[str, ...]:
        """The lowest layer that is enough, the best single layer, selectivity, and the base."""
        names = layer_names(len(self.model.alone))
        lines = [self._enough()]
        top = int(np.argmax(self.model.alone))
        best = self.metric.said(self.model.alone[top])
        lines.append(f"the best single layer is {names[top]}: {best}; no neuron at all: {self.metric.said(self.model.chance)}")
        if self.model.selectivity is not None:
            most = int(np.argmax(self.model.selectivity))
            lines.append(
                f"selectivity is highest at layer {names[most]}: {self.metric.said(self.model.selectivity[most])} above the control task"
                + (", whose labels no held-out row can know" if self.types == "rows" else " of random labels by word")
            )
        if self.base is not None:
            gain = np.subtract(self.model.alone, self.base.alone) if len(self.base.alone) == len(self.model.alone) else np.empty(0)
            where = f", most at layer {names[int(gain.argmax())]} (+{self.metric.said(float(gain.max()))})" if gain.size else ""
            lines.append(f"all layers of the base: {self.metric.said(self.base.oracle)}{where}")
        return tuple(lines)

    def _enough(self) -> str:
        last = len(self.model.alone) - 1
        # Layers that hold a share hold any smaller one.
        shares: dict[int, str] = {}
        for delta, layer in sorted(self.enough.items()):
            shares.setdefault(layer, f"{1 - delta:.0%}")
        named = {0: "the embeddings alone hold", last: f"only all {last} layers hold", 1: "layer 1 holds"}
        parts = [f"{named.get(layer, f'the first {layer} layers hold')} {share}" for layer, share in shares.items()]
        score = f"of the score of all together ({self.metric.value} {self.metric.said(self.model.oracle)})"
        return ", ".join([f"{parts[0]} {score}", *parts[1:]])

    def figures(self) -> tuple[Figure, ...]:
        """Scores over layers, and the same as a table."""
        series = [_series("layers 0 to this one", self.model.upto), _series("this layer alone", self.model.alone)]
        if self.model.control is not None:
            series.append(_series("control task", self.model.control))
        if self.base is not None:
            series.append(_series("base, layer alone", self.base.alone))
        first = self.enough[DELTAS[0]]
        what = "a word" if self.types == "words" else "a row"
        note = (
            "Linear probes, scored on validation. "
            f"The control task has a random label for {what}: what a probe scores there, it learned by heart."
        )
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
        found = self.model
        header, columns = ["layer", "alone", "0 to this one"], [found.alone, found.upto]
        if found.control is not None and found.selectivity is not None:
            header += ["control", "selectivity"]
            columns += [found.control, found.selectivity]
        if self.base is not None and len(self.base.alone) == len(found.alone):
            header.append("base, alone")
            columns.append(self.base.alone)
        rows = tuple((name, *(self.metric.said(column[at]) for column in columns)) for at, name in enumerate(layer_names(len(found.alone))))
        note = (
            "A layer alone, and all layers up to it; where control labels are learned as well as the real ones, the probe learns by heart. "
            f"The row in colour, layer {strong}, is the lowest that is enough."
        )
        return Table(f"{self.metric.value}, validation", tuple(header), rows, strong, note)


def _series(name: str, values: tuple[float, ...]) -> Series:
    return Series(name, tuple(float(at) for at in range(len(values))), values)


def run(inputs: Inputs) -> Knowledge:
    """Probe every layer of the model, and of the base."""
    found = _probe(inputs, inputs.model)
    base = None if inputs.base is None else _probe(inputs, inputs.base)
    enough = {delta: found.minimal(delta) for delta in DELTAS}
    return Knowledge(found, base, inputs.task.metric, enough, "rows" if inputs.types is None else "words")


def _probe(inputs: Inputs, subject: Subject) -> LayerScores:
    train, validation = splits_of(subject)
    return layer_scores(train, validation, inputs.task, subject.source.hidden, control=_control(inputs, train, validation))


def _control(inputs: Inputs, train: Split, validation: Split) -> tuple[NDArray[Any], NDArray[Any]]:
    known = inputs.types
    if known is None or len(known[0]) != len(train.labels) or len(known[1]) != len(validation.labels):
        # A text is a type of its own; the base's tokenizer may keep other words than the model's.
        known = np.arange(len(train.labels)), len(train.labels) + np.arange(len(validation.labels))
    first, second = control_labels(train.labels, *known, seed=inputs.seed)
    return first, second


ANALYZER = Analyzer("probes", "What each layer knows", frozenset({Need.ROWS, Need.VALIDATION, Need.MOMENTS}), run)
