"""The analyzer `dimensions`: reductions of the vector that a classifier reads (Matton and de Oliveira 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, Subject
from prunekit.analyzers.figures import Curves, Figure, Series, Table
from prunekit.metrics import Metric
from prunekit.probes.rankings import descending
from prunekit.probes.selection import Split
from prunekit.probes.subsets import Curve, pca_curve, single_dimensions, subset_curve
from prunekit.tasks import Task

Floats = NDArray[np.float64]

SHOWN = 10


@dataclass(frozen=True, eq=False)
class Vector:
    """Scores of one model's last layer.

    Attributes
    ----------
    full : float
        Score of the probe on the full vector.
    components, subset : ((count, score), ...)
        Probes on the first principal components, and on the dimensions that are best alone on train.
    variance : (m,) float64
        Share of the variance that the first components hold.
    single : (H,) float64
        Score of each dimension alone, on validation.
    order : (m,) int64
        Dimensions by what they score alone on train.
    """

    full: float
    components: Curve
    subset: Curve
    variance: Float64[Floats, " components"]
    single: Float64[Floats, " h"]
    order: Int64[NDArray[np.int64], " m"]


@final
@dataclass(frozen=True, eq=False)
class Dimensions(AnalyzerResult):
    """Scores of the last layer's vector, reduced to components or dimensions.

    Attributes
    ----------
    model : Vector
    base : Vector or None
    metric : Metric
    pooling : str
        Pooling that makes the vector of a text.
    """

    model: Vector
    base: Vector | None
    metric: Metric
    pooling: str

    def summary(self) -> tuple[str, ...]:
        """Summarise the best dimension alone and the components needed, of the model and of the base."""
        lines = [self._summary_line("", self.model)]
        if self.base is not None:
            lines.append(self._summary_line("the base: ", self.base))
        return tuple(lines)

    def _summary_line(self, prefix: str, vector: Vector) -> str:
        top = int(vector.order[0])
        needed = next(size for size, value in vector.components if value >= self._target(vector))
        alone = self.metric.formatted(float(vector.single[top]))
        needed_text = "1 principal component is" if needed == 1 else f"{needed} principal components are"
        combined = f"all together {self.metric.formatted(vector.full)}; {needed_text} within 1%"
        return f"{prefix}one dimension of {len(vector.single)} alone ({top}, chosen on train) scores {alone}, {combined}"

    def _target(self, vector: Vector) -> float:
        return min(vector.full - 0.01 * abs(vector.full), vector.components[-1][1])

    def figures(self) -> tuple[Figure, ...]:
        """Return the scores over components and dimensions, and the best dimensions alone."""
        series = [_series("principal components", self.model.components), _series("best dimensions", self.model.subset)]
        if self.base is not None:
            series += [
                _series("principal components, base", self.base.components),
                _series("best dimensions, base", self.base.subset),
            ]
        curves = Curves(
            f"How much of the last layer's vector is needed ({self.pooling})",
            tuple(series),
            "components or dimensions",
            self.metric.value,
            "A curve that is flat from the left means that the vector is redundant.",
            reference=("whole vector", self.model.full),
            log_x=True,
            percent=self.metric.percent,
        )
        ranked = [np.sort(vector.single)[::-1] for vector in (self.model, self.base) if vector is not None]
        alone = Curves(
            "Every dimension alone",
            tuple(
                Series(name, tuple(float(at + 1) for at in range(len(values))), tuple(map(float, values)))
                for name, values in zip(("this model", "the base"), ranked, strict=False)
            ),
            "dimensions, from the best to the worst on validation",
            self.metric.value,
            "Each dimension's score by itself. The left end flatters: it is the best of many on the rows that it is scored on.",
            reference=("whole vector", self.model.full),
            percent=self.metric.percent,
        )
        return curves, alone, self._table()

    def _table(self) -> Table:
        rows = tuple((str(int(dim)), self.metric.formatted(float(self.model.single[dim]))) for dim in self.model.order[:SHOWN])
        note = f"One dimension of the last layer read alone; the best scores {rows[0][1]}." if rows else "No dimension varies."
        return Table("The dimensions that are best alone on train", ("dimension", f"{self.metric.value}, validation"), rows, note=note)


def _series(name: str, curve: Curve) -> Series:
    return Series(name, tuple(float(size) for size, _ in curve), tuple(value for _, value in curve))


def run(inputs: Observations) -> Dimensions:
    """Score reductions of the last layer's vector, of the model and of the base."""
    base = None if inputs.base is None else _scores(inputs.base, inputs.task)
    return Dimensions(_scores(inputs.model, inputs.task), base, inputs.task.metric, inputs.model.train.pooling)


def _scores(subject: Subject, task: Task) -> Vector:
    columns = subject.columns(subject.layers - 1)
    assert subject.validation is not None
    # The moments of one layer are computed separately: those of all layers may not fit into memory.
    train, validation = (
        Split.of(collected.rows.columns(np.arange(columns.start, columns.stop)), collected.labels, task.outputs)
        for collected in (subject.train, subject.validation)
    )
    non_constant = train.moments.non_constant(train.rows.width)
    order = descending(single_dimensions(train.moments, train.rows, train.labels, task), non_constant)
    components, variance = pca_curve(train, validation, task)
    subset = subset_curve(train, validation, task, order)
    single = single_dimensions(train.moments, validation.rows, validation.labels, task)
    return Vector(subset[-1][1], components, subset, variance, single, order)


ANALYZER = Analyzer("dimensions", "How much of the vector is needed", frozenset({Need.ONE_LABEL, Need.ROWS, Need.VALIDATION}), run)
