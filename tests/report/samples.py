"""A report as a run writes it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from prunekit.budget import Unit
from prunekit.metrics import Metric
from prunekit.report.model import BudgetResult, Paired, Point, Report, Row, Sizes
from prunekit.runtime.records import Comparison, Environment, Parity, ShapeParity
from prunekit.runtime.timing import compare
from prunekit.tasks import TaskKind

ENVIRONMENT = Environment("3.11.9", "Linux 6.1", {"onnxruntime": "1.31.1", "torch": "2.13.0"}, "AMD EPYC", ("AVX2", "AVX512_VNNI"), 8, 2)


class Clock:
    """Seconds that only pass when someone works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@functools.cache
def comparison(rows: int, dense_ms: float, spread: float = 0.05, **speeds: float) -> Comparison:
    """Dense against candidates of known speed on an invented clock."""
    clock, rng = Clock(), np.random.default_rng(rows)

    def worker(milliseconds: float) -> Any:
        return lambda batch: clock.work(milliseconds / 1000 * float(np.exp(rng.normal(0, spread))) * batch)

    shapes = [(rows, length) for length in (12, 20, 31, 58)]
    return compare(
        {"dense": worker(dense_ms), **{name: worker(dense_ms / speed) for name, speed in speeds.items()}},
        [length / 30 for _, length in shapes],
        baseline="dense",
        shapes=shapes,
        max_seconds=10_000,
        clock=clock,
    )


def report(**changes: Any) -> Report:
    """A fine-tuned MiniLM; `changes` replace fields."""
    fields: dict[str, Any] = {
        "model": "nreimers/MiniLM-L6-H384-uncased",
        "data": "glue (sst2)",
        "kind": TaskKind.CLASSIFICATION,
        "metric": Metric.ACCURACY,
        "classes": 2,
        "rows": (
            Row(name="dense", value=0.9216, low=0.9023, high=0.9375, n=872, neurons=2688),
            Row(name="oracle", value=0.9186, low=0.8987, high=0.9349, n=872, neurons=2688),
            Row(name="slim", value=0.9128, low=0.8922, high=0.9297, n=872, neurons=61),
            Row(name="random", value=0.8341, low=0.8079, high=0.8573, n=872, neurons=61),
            Row(name="magnitude", value=0.8017, low=0.7739, high=0.8268, n=872, neurons=61),
        ),
        "paired": (
            Paired(name="slim", against="dense", by="share", value=0.9128 / 0.9216, low=0.9812, high=0.9994),
            Paired(name="slim", against="oracle", by="share", value=0.9128 / 0.9186, low=0.9849, high=1.0031),
            Paired(name="random", against="dense", by="share", value=0.8341 / 0.9216, low=0.8791, high=0.9304),
            Paired(name="random", against="oracle", by="share", value=0.8341 / 0.9186, low=0.8822, high=0.9341),
            Paired(name="magnitude", against="dense", by="share", value=0.8017 / 0.9216, low=0.8436, high=0.8951),
            Paired(name="magnitude", against="oracle", by="share", value=0.8017 / 0.9186, low=0.8471, high=0.8984),
            Paired(name="slim", against="random", by="difference", value=0.0787, low=0.0551, high=0.1021),
            Paired(name="slim", against="magnitude", by="difference", value=0.1111, low=0.0853, high=0.1372),
        ),
        "dense": Sizes(neurons=2688, layers=6, params=22_713_986, params_layers=10_646_784, macs=278_400_000.0, bytes=90_900_000),
        "slim": Sizes(neurons=61, layers=4, params=14_020_331, params_layers=2_136_192, macs=61_200_000.0, bytes=56_170_000),
        "mean_length": 25.3,
        "latency": (comparison(1, 7.3, slim=3.42), comparison(32, 118.0, slim=4.41)),
        "parity": Parity(4.2e-06, 1e-4, 1e-5, tuple(ShapeParity(*shape, 4.2e-06, 3.1) for shape in ((1, 1), (1, 5), (3, 32))), 0),
        "plan_digest": "9f2b6c" + "0" * 58,
        "budgets": (
            BudgetResult(asked="10% neurons", unit=Unit.NEURONS, limit=0.1, reached=61 / 2688),
            BudgetResult(asked="60 MB", unit=Unit.BYTES, limit=60_000_000, reached=56_170_000),
        ),
        "max_drop": 0.01,
        "trace": (*tuple(Point(neurons=2**k, value=0.915 - 0.42 * 0.62**k) for k in range(0, 12)), Point(neurons=61, value=0.8955)),
        "notes": ("validation: 10% of train, seed 0", "3 of 872 test rows were cut at 128 tokens"),
        "stages": {"read data": 1.2, "collect statistics": 48.7, "choose": 21.9, "export": 4.0, "measure": 31.4},
        "seed": 0,
        "environment": ENVIRONMENT,
    }
    return Report(**{**fields, **changes})
