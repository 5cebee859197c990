"""The analyzer of trees, on words whose vectors hold a tree in one layer and not in the other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from prunekit.analyzers import syntax
from prunekit.analyzers.base import Observations, Subject
from prunekit.errors import StatisticsError
from prunekit.metrics import Metric
from prunekit.plan import Source
from prunekit.probes.trees import Sentence, sentences
from prunekit.report.plots import draw
from prunekit.stats.collected import Collected
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task, TaskKind

HIDDEN = 10
TASK = Task(TaskKind.TOKENS, Metric.ACCURACY, ("x", "y"))


def bank(count: int, seed: int) -> tuple[Sentence, ...]:
    """Sentences of 6 to 9 words, each of which hangs on an earlier one; the relation is whether that is the one before."""
    generator = np.random.default_rng(seed)
    heads = [[0, *(int(generator.integers(1, at + 1)) for at in range(1, generator.integers(6, 10)))] for _ in range(count)]
    names = [["root", *("near" if head == at else "far" for at, head in enumerate(row[1:], 1))] for row in heads]
    return sentences(heads, names)


def collected(trees: tuple[Sentence, ...], seed: int) -> Collected:
    """Layer 0 constant; layer 1 noise; layer 2 the path from the root, a dimension an edge."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(trees[-1].rows.stop, 3, HIDDEN))
    x[:, 0] = 1.0
    x[:, 2] = 0.01 * x[:, 2]
    for tree in trees:
        for word in range(len(tree)):
            at = word
            while tree.heads[at]:
                x[tree.start + word, 2, at] += 1.0
                at = int(tree.heads[at]) - 1
    labels = generator.integers(2, size=len(x))
    return Collected.of(RowStore.of(x.reshape(len(x), -1)), labels, 2, pooling="token")


def inputs() -> Observations:
    trees = bank(120, 0), bank(40, 1)
    subject = Subject("m", Source.model_construct(layers=2, hidden=HIDDEN), collected(trees[0], 0), collected(trees[1], 1), trees)
    return Observations(TASK, subject)


def test_the_layer_that_holds_the_trees_is_found() -> None:
    found = syntax.run(inputs())
    assert found.relations == ("far", "near")
    assert found.sentences == (120, 40)
    assert found.model.uuas[2] > 0.9 > 0.7 > found.model.uuas[1]
    assert found.model.edges[2] > found.commonest + 0.1 > found.model.edges[1]
    assert np.isnan(found.model.uuas[0])
    near = np.mean([name == "near" for tree in bank(40, 1) for name in tree.labels[1:]])
    assert found.chain == pytest.approx(near)
    json.dumps(found.to_json(), allow_nan=False)
    assert "layer 2" in found.summary()[0]
    for figure in found.figures():
        shown = draw(figure)
        assert "<svg" in shown or "<table" in shown


def test_trees_of_one_relation_are_one_line() -> None:
    whole = inputs()
    assert whole.model.trees is not None
    flat = tuple(
        tuple(replace(tree, labels=tuple("root" if not head else "x" for head in tree.heads)) for tree in each)
        for each in whole.model.trees
    )
    with pytest.raises(StatisticsError, match="fewer than two relations"):
        syntax.run(replace(whole, model=replace(whole.model, trees=(flat[0], flat[1]))))
