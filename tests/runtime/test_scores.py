from __future__ import annotations

import numpy as np
import pytest

from prunekit.metrics import Metric
from prunekit.runtime.scores import apart, divergence
from prunekit.tasks import Task, TaskKind


@pytest.mark.parametrize("side", ["outputs", "reference"])
def test_rows_that_one_side_does_not_answer_are_left_out(side: str) -> None:
    task = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("a", "b", "c"))
    reference = np.random.default_rng(0).normal(size=(10, 3))
    outputs = reference.copy()
    outputs[:2] = outputs[:2, ::-1] * 2
    whole = apart(task, outputs[:8], reference[:8]), divergence(task, outputs[:8], reference[:8])
    (outputs if side == "outputs" else reference)[8:] = -np.inf
    assert (apart(task, outputs, reference), divergence(task, outputs, reference)) == whole
    assert whole[0][0] is not None
    assert 0.7 < whole[0][0] < 1
