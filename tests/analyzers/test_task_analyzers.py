"""The analyzers of what a model knows of its task, run on rows that are made."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from prunekit.analyzers import dimensionality, layer_probes, neurons
from prunekit.analyzers.ablation import _enough
from prunekit.analyzers.base import Analyzer, Observations, Subject
from prunekit.analyzers.figures import Curves, Heatmap, Table
from prunekit.errors import StatisticsError
from prunekit.metrics import Metric
from prunekit.plan import Source
from prunekit.report.plots import draw
from prunekit.stats.collected import Collected
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task, TaskKind

LAYERS, HIDDEN = 2, 12
CLASSES = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("a", "b", "c"))
VALUES = Task(TaskKind.REGRESSION, Metric.PEARSON)
ALL = (layer_probes.ANALYZER, neurons.ANALYZER, dimensionality.ANALYZER)


def collected(task: Task, n: int, seed: int) -> Collected:
    """Layer 0 is constant, layer 1 says the label in neuron 3 of 12, layer 2 in two neurons together; one is dead, two are equal."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=n)
    x = generator.normal(size=(n, LAYERS + 1, HIDDEN))
    x[:, 0] = 2.0
    x[:, 1, 3] += 2.0 * labels
    x[:, 2, 1] += 2.0 * labels
    x[:, 2, 5] = x[:, 2, 1] - 1.5 * labels
    x[:, 2, 7], x[:, 2, 8] = -1.0, x[:, 2, 1]
    return Collected.of(RowStore.of(x.reshape(n, -1)), labels if task.outputs > 1 else labels * 1.0, task.outputs, pooling="cls")


def inputs(task: Task, n: int = 400, types: bool = False) -> Observations:
    source = Source.model_construct(layers=LAYERS, hidden=HIDDEN)
    model = Subject("tuned", source, collected(task, n, 0), collected(task, n // 2, 1))
    base = Subject("base", source, collected(task, n, 2), collected(task, n // 2, 3))
    kinds = tuple(np.random.default_rng(at).integers(9, size=size) for at, size in enumerate((n, n // 2)))
    return Observations(task, model, base, types=kinds if types else None)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [CLASSES, VALUES], ids=["classes", "values"])
@pytest.mark.parametrize("analyzer", ALL, ids=lambda analyzer: analyzer.name)
def test_results_can_be_told_drawn_and_written(analyzer: Analyzer, task: Task) -> None:
    found = analyzer.run(inputs(task))
    assert all("nan" not in line for line in found.summary())
    json.dumps(found.to_json(), allow_nan=False)
    for figure in found.figures():
        shown = draw(figure)
        assert "<svg" in shown or "<table" in shown
        assert "nan" not in shown


def test_layers_know_what_was_put_into_them() -> None:
    found = layer_probes.run(inputs(CLASSES))
    assert found.model.alone[0] == found.model.chance
    assert found.model.alone[2] > found.model.alone[1] > found.model.chance + 0.2
    assert found.enough[0.03] == 2
    assert found.summary()[0].startswith("only all 2 layers hold 99%")
    assert found.types == "rows"
    assert found.model.selectivity is not None
    assert min(found.model.selectivity[1:]) > 0.2
    words = layer_probes.run(inputs(CLASSES, types=True))
    assert words.types == "words"
    assert words.model.alone == found.model.alone
    assert words.model.control != found.model.control


def test_few_neurons_are_enough_and_the_dead_are_not_among_them() -> None:
    found = neurons.run(inputs(CLASSES, 800))
    dead = {*range(HIDDEN), 2 * HIDDEN + 7}
    assert all(not dead & set(ids.tolist()) for ids in found.first.values())
    two = {2 * HIDDEN + 1, 2 * HIDDEN + 8, 2 * HIDDEN + 5}
    assert len(two & set(found.first["elimination"][:2].tolist())) == 2
    assert found.agreement.overlap.shape[1] == len(found.traces) == 8
    assert neurons.run(inputs(VALUES)).agreement.overlap.shape[1] == 7
    curve = found.figures()[0]
    assert isinstance(curve, Curves)
    winner = found.winner
    assert winner is not None
    size = found.fewest[winner][0.97]
    assert size == min(each[0.97] for each in found.fewest.values() if each[0.97] is not None)
    assert curve.chosen == (f"{size} neurons, 97%", size, dict(found.traces[winner])[size])
    named = next(figure for figure in found.figures() if figure.title == f"The {size} neurons of {winner} that hold 97%")
    assert isinstance(named, Table)
    shown = [(int(layer), int(dim)) for layer, count, dims in named.rows for dim in dims.split(", ") if count == str(dims.count(",") + 1)]
    assert shown == [divmod(at, HIDDEN) for at in sorted(found.first[winner][:size].tolist())]
    assert isinstance(found.figures()[-1], Heatmap)


def test_the_vector_is_the_last_layer() -> None:
    found = dimensionality.run(inputs(CLASSES))
    assert len(found.model.single) == HIDDEN
    assert found.model.order[0] in (1, 8)
    assert 7 not in found.model.order
    assert found.model.single[7] == pytest.approx(np.bincount(inputs(CLASSES).model.validation.labels).max() / 200, abs=0.1)
    assert found.model.components[-1][0] < HIDDEN
    assert found.model.full > found.model.single.max()


@pytest.mark.parametrize("analyzer", ALL, ids=lambda analyzer: analyzer.name)
def test_one_class_or_one_row_is_one_line(analyzer: Analyzer) -> None:
    whole = inputs(CLASSES)
    for count in (1, 50):
        rows = RowStore.of(np.random.default_rng(0).normal(size=(count, (LAYERS + 1) * HIDDEN)))
        train = Collected.of(rows, np.zeros(count, dtype=np.int64), 3, pooling="cls")
        with pytest.raises(StatisticsError, match=r"equal|class") as error:
            analyzer.run(replace(whole, model=replace(whole.model, train=train)))
        assert "\n" not in str(error.value)


def test_one_lucky_layer_is_not_enough() -> None:
    # The second score crosses the floor by luck: the one after it does not.
    assert _enough((0.5, 0.91, 0.7, 0.92, 0.92), 0.9) == 3
    assert _enough((float("nan"), 0.5, 0.95), 0.9) == 2
    assert _enough((0.1, 0.2), 0.9) == 1
