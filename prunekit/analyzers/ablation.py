"""Layer ablation: the metric with fewer layers, and without single parts (Phang et al. 2021; Merchant et al. 2020; Sajjad et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.analyzers.base import Analyzer, Inputs, Need, Result, Subject, layer_names
from prunekit.analyzers.figures import Curves, Figure, Heatmap, Series
from prunekit.metrics import Metric
from prunekit.probes.elastic_net import Problem
from prunekit.probes.selection import ALPHAS, Split, best, smallest
from prunekit.stats.collected import Collected, Outputs
from prunekit.tasks import Task

#: Relative loss of the metric that still counts as none.
DELTA = 0.01


@dataclass(frozen=True)
class Ablation(Result):
    """Validation scores of the model's own head when parts of the model are gone; nothing is re-solved but where it says so.

    Attributes
    ----------
    metric : Metric
    rows : int
        Rows of validation.
    dense : float
        The whole model.
    kept : tuple of float
        With the first k blocks, k = 0..L, the head untouched.
    refitted : tuple of float
        With the first k blocks and a linear head fitted anew on what they give; NaN where that does not vary.
    layers, ffn, attention : tuple of float, or None
        Without one block, its FFN, its attention; None where the family cannot do without.
    enough, enough_refitted : int
        The fewest blocks that lose no more than 1% of the dense score.
    free : tuple of int
        Blocks, counted from 1, whose removal alone loses no more than that.
    """

    metric: Metric
    rows: int
    dense: float
    kept: tuple[float, ...]
    refitted: tuple[float, ...]
    layers: tuple[float, ...]
    ffn: tuple[float, ...] | None
    attention: tuple[float, ...] | None
    enough: int
    enough_refitted: int
    free: tuple[int, ...]

    def summary(self) -> tuple[str, ...]:
        """How many layers are enough, and which single ones can go."""
        total, worst = len(self.layers), int(np.argmin(self.layers)) if self.layers else 0
        said = self.metric.said
        untouched, refitted = self.kept[self.enough], self.refitted[self.enough_refitted]
        lines = [
            f"{_go(self.enough_refitted, total)} within 1% of {said(self.dense)} if the head is refitted ({said(refitted)} then), "
            f"{_go(self.enough, total)} with the head untouched{'' if self.enough == total else f' ({said(untouched)})'}"
        ]
        if self.layers:
            one = len(self.free) == 1
            free = f"layer{'' if one else 's'} {', '.join(map(str, self.free))}{'' if one else ', each,'} can" if self.free else "none can"
            lines.append(f"one layer alone: {free} go within 1%; layer {worst + 1} costs most ({said(self.layers[worst])} without it)")
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Score against layers kept, and a table of single parts."""
        layers = tuple(float(k) for k in range(len(self.kept)))
        name = self.metric.label
        curves = (Series("head refitted", layers, self.refitted), Series("head untouched", layers, self.kept))
        note = (
            f"What the model scores when it ends after so many layers: {self.enough_refitted} of {len(self.layers)} are enough with a head "
            f"that is fitted anew, {self.enough} with the head as it is."
        )
        found: list[Figure] = [
            Curves(
                "Keeping the first layers",
                curves,
                "layers kept (0: embeddings alone)",
                f"{name}, validation",
                note,
                reference=("dense", self.dense),
                whole_x=True,
                percent=self.metric.percent,
            )
        ]
        if self.layers:
            found.append(self._parts(name))
        return tuple(found)

    def _parts(self, name: str) -> Figure:
        parts = {"whole layer": self.layers, "FFN": self.ffn, "attention": self.attention}
        there = {part: values for part, values in parts.items() if values is not None}
        scale = 100.0 if self.metric.percent else 1.0
        lost = scale * (self.dense - np.array(list(there.values())))
        columns = layer_names(len(self.layers) + 1)[1:]
        part, layer = np.unravel_index(int(lost.argmax()), lost.shape)
        note = (
            "Each cell is what the score loses if this part alone is left out, nothing re-solved; "
            f"the {list(there)[part]} of layer {layer + 1} matters most."
        )
        unit = f"{name} lost, {'points' if self.metric.percent else 'absolute'}"
        high = max(float(lost.max()), 1e-9)
        digits = 1 if self.metric.percent else 2
        return Heatmap("Leaving out single parts", lost, tuple(there), columns, "", "layer", unit, note, 0.0, high, digits)


def _go(enough: int, total: int) -> str:
    if enough == total:
        return "no top layer can go"
    return f"layer {total} can go" if enough == total - 1 else f"layers {enough + 1}-{total} can go"


def run(inputs: Inputs) -> Ablation:
    """Score every ablation, and refit a head on each layer."""
    found, task, validation = inputs.ablations, inputs.task, inputs.model.validation
    assert found is not None
    assert validation is not None

    def scored(outputs: tuple[Outputs, ...] | None) -> tuple[float, ...] | None:
        return None if outputs is None else tuple(task.score(task.tuned(each, found.labels), found.labels) for each in outputs)

    kept, layers = scored(found.kept), scored(found.layers)
    assert kept is not None
    assert layers is not None
    dense = kept[-1]
    refitted = _refitted(inputs.model, validation, task)
    floor = dense - DELTA * abs(dense)
    return Ablation(
        task.metric,
        len(found.labels),
        dense,
        kept,
        refitted,
        layers,
        scored(found.ffn),
        scored(found.attention),
        _enough(kept, floor),
        _enough(refitted, floor),
        tuple(at + 1 for at, value in enumerate(layers) if value >= floor),
    )


def _enough(scores: tuple[float, ...], floor: float) -> int:
    """The fewest blocks at which score and smoothed score reach the floor; a first crossing is often luck. NaN never does."""
    known = [k for k, value in enumerate(scores) if not np.isnan(value)]
    at = smallest(known, [scores[k] for k in known], floor)
    return len(scores) - 1 if at is None else known[at]


def _refitted(model: Subject, validation: Collected, task: Task) -> tuple[float, ...]:
    train = Split(model.train.rows, model.train.labels, model.train.moments)
    held = Split(validation.rows, validation.labels, validation.moments)
    found = []
    for layer in range(model.layers):
        ids = np.arange(model.columns(layer).start, model.columns(layer).stop)
        if not model.alive[ids].any():
            found.append(float("nan"))
            continue
        part, other = train.columns(ids), held.columns(ids)
        found.append(best(part, other, task, [Problem(len(ids), alpha) for alpha in ALPHAS])[2])
        part.rows.close()
        other.rows.close()
    return tuple(found)


ANALYZER = Analyzer("ablation", "Layers left out", frozenset({Need.ROWS, Need.VALIDATION, Need.ABLATIONS}), run)
