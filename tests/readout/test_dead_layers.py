"""A layer whose neurons are all dead, such as [CLS] of the embedding output, cannot be the top of a readout."""

from __future__ import annotations

import numpy as np
import pytest

from prunekit.metrics import Metric
from prunekit.readout.select import Method, select_readout
from prunekit.stats.collected import Collected
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task, TaskKind


def _split(rows: int, seed: int) -> Collected:
    generator = np.random.default_rng(seed)
    values = np.hstack([np.ones((rows, 4)), generator.normal(size=(rows, 4))]).astype(np.float32)
    # Labels that nothing predicts: the majority class is as good as any probe, so layer 0 is within every delta.
    labels = (np.arange(rows) % 10 == 0).astype(np.int64)
    return Collected.of(RowStore.of(values), labels, 2, pooling="cls")


@pytest.mark.parametrize("method", ["prunekit", "dalvi2020"])
def test_the_readout_starts_at_the_first_layer_that_varies(method: Method) -> None:
    task = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("no", "yes"))
    choice = select_readout(_split(200, 0), _split(100, 1), task=task, layers=1, hidden=4, keep=3, method=method)
    assert choice.layer == 1
    assert set(choice.neurons) == {1}
    assert 1 <= choice.size <= 3
