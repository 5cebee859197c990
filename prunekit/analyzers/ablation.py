"""Layer ablation: the metric with fewer layers, and without single parts (Phang et al. 2021; Merchant et al. 2020; Sajjad et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, Subject, layer_names
from prunekit.analyzers.figures import Curves, Figure, Heatmap, Series
from prunekit.metrics import Metric
from prunekit.probes.elastic_net import Problem
from prunekit.probes.selection import ALPHAS, Split, best, smallest
from prunekit.stats.collected import Collected, Outputs
from prunekit.tasks import Task

#: Largest relative loss of the metric that counts as none.
DELTA = 0.01


@final
@dataclass(frozen=True)
class Ablation(AnalyzerResult):
    """Validation scores of the model's own head when parts of the model are removed; nothing is refitted unless stated.

    Attributes
    ----------
    metric : Metric
    rows : int
        Rows of the validation split.
    dense : float
        Score of the full model.
    kept : tuple of float
        With the first k blocks, k = 0..L, the head untouched.
    refitted : tuple of float
        With the first k blocks and a linear head refitted on their output; NaN where the output is constant.
    layers, ffn, attention : tuple of float, or None
        Without one block, its FFN, its attention; None where the family does not support it.
    enough, enough_refitted : int
        The fewest blocks that lose at most 1% of the dense score.
    free : tuple of int
        Blocks, counted from 1, whose removal alone loses at most 1% of the dense score.
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
        """Summarise how many layers are enough, and which single ones can be removed."""
        total, costliest = len(self.layers), int(np.argmin(self.layers)) if self.layers else 0
        show = self.metric.formatted
        untouched, refitted = self.kept[self.enough], self.refitted[self.enough_refitted]
        lines = [
            f"{_removable(self.enough_refitted, total)} within 1% of {show(self.dense)} if the head is refitted ({show(refitted)} then), "
            f"{_removable(self.enough, total)} with the head untouched{'' if self.enough == total else f' ({show(untouched)})'}"
        ]
        if self.layers:
            single = len(self.free) == 1
            free = (
                f"layer{'' if single else 's'} {', '.join(map(str, self.free))}{'' if single else ', each,'} can"
                if self.free
                else "none can"
            )
            lines.append(
                f"one layer alone: {free} go within 1%; layer {costliest + 1} costs most ({show(self.layers[costliest])} without it)"
            )
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Return the score against the layers kept, and the losses of single parts."""
        layers = tuple(float(k) for k in range(len(self.kept)))
        name = self.metric.label
        curves = (Series("head refitted", layers, self.refitted), Series("head untouched", layers, self.kept))
        note = (
            f"What the model scores when it ends after so many layers: {self.enough_refitted} of {len(self.layers)} are enough with a head "
            f"that is fitted anew, {self.enough} with the head as it is."
        )
        figures: list[Figure] = [
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
            figures.append(self._parts_figure(name))
        return tuple(figures)

    def _parts_figure(self, name: str) -> Figure:
        parts = {"whole layer": self.layers, "FFN": self.ffn, "attention": self.attention}
        available = {part: values for part, values in parts.items() if values is not None}
        scale = 100.0 if self.metric.percent else 1.0
        lost = scale * (self.dense - np.array(list(available.values())))
        columns = layer_names(len(self.layers) + 1)[1:]
        part, layer = np.unravel_index(int(lost.argmax()), lost.shape)
        note = (
            "Each cell is what the score loses if this part alone is left out, nothing refitted; "
            f"the {list(available)[part]} of layer {layer + 1} matters most."
        )
        unit = f"{name} lost, {'points' if self.metric.percent else 'absolute'}"
        high = max(float(lost.max()), 1e-9)
        digits = 1 if self.metric.percent else 2
        return Heatmap("Leaving out single parts", lost, tuple(available), columns, "", "layer", unit, note, 0.0, high, digits)


def _removable(enough: int, total: int) -> str:
    if enough == total:
        return "no top layer can go"
    return f"layer {total} can go" if enough == total - 1 else f"layers {enough + 1}-{total} can go"


def run(inputs: Observations) -> Ablation:
    """Score every ablation, and refit a head on each layer."""
    ablations, task, validation = inputs.ablations, inputs.task, inputs.model.validation
    assert ablations is not None
    assert validation is not None

    def scored(outputs: tuple[Outputs, ...] | None) -> tuple[float, ...] | None:
        return None if outputs is None else tuple(task.score(task.tuned(output, ablations.labels), ablations.labels) for output in outputs)

    kept, layers = scored(ablations.kept), scored(ablations.layers)
    assert kept is not None
    assert layers is not None
    dense = kept[-1]
    refitted = _refitted_scores(inputs.model, validation, task, len(ablations.labels))
    floor = dense - DELTA * abs(dense)
    return Ablation(
        task.metric,
        len(ablations.labels),
        dense,
        kept,
        refitted,
        layers,
        scored(ablations.ffn),
        scored(ablations.attention),
        _enough(kept, floor),
        _enough(refitted, floor),
        tuple(at + 1 for at, value in enumerate(layers) if value >= floor),
    )


def _enough(scores: tuple[float, ...], floor: float) -> int:
    """Return the fewest blocks at which the score and the smoothed score reach the floor; NaN never does.

    The first crossing alone is often chance.
    """
    known = [k for k, value in enumerate(scores) if not np.isnan(value)]
    at = smallest(known, [scores[k] for k in known], floor)
    return len(scores) - 1 if at is None else known[at]


def _refitted_scores(model: Subject, validation: Collected, task: Task, rows: int) -> tuple[float, ...]:
    """Return the scores of refitted heads, one a layer, on the rows that the model's own head answered, the first of validation."""
    scores = []
    for layer in range(model.layers):
        ids = np.arange(model.columns(layer).start, model.columns(layer).stop)
        if not model.non_constant[ids].any():
            scores.append(float("nan"))
            continue
        # The moments of a layer are computed by themselves: those of all layers may not fit into memory.
        with validation.rows.columns(ids) as part:
            held_out = Split.of(part.take(np.arange(rows)), validation.labels[:rows], task.outputs)
        train = Split.of(model.train.rows.columns(ids), model.train.labels, task.outputs)
        scores.append(best(train, held_out, task, [Problem(len(ids), alpha) for alpha in ALPHAS])[2])
        train.rows.close()
        held_out.rows.close()
    return tuple(scores)


ANALYZER = Analyzer("ablation", "Layers left out", frozenset({Need.ROWS, Need.VALIDATION, Need.ABLATIONS}), run)
