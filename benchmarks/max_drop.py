"""How often `--max-drop` takes a model that loses more, by simulation: `python benchmarks/max_drop.py`.

The dense model is right on 92% of the rows. Down the grid, candidates err on ever more of the rows on which it is right, and mend a
fifth as many of the others'. A run draws the rows of validation, goes down until the rule fails, and takes the last that held; it is
violated if that candidate truly loses more than 1%. Runs in which nothing holds are not solved.

Result (1,000 runs each, seed 0): benchmarks/results/max_drop.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from prunekit.metrics import Metric
from prunekit.pipeline.drop import relative_drop
from prunekit.tasks import Task, TaskKind

_RIGHT, _LARGEST = 0.92, 0.01
#: Shares of all rows that a candidate newly errs on, from mild to severe; a fifth as many are mended.
_ERRORS = tuple(0.002 * 1.35**step for step in range(14))
_TASK = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("right", "wrong"))

Rule = Callable[[np.ndarray, np.ndarray], float]
"""From whether the dense and the slim model are right, each (n,) bool, to the loss that is held against the largest."""


class Found(NamedTuple):
    """Share of the solved runs that are violated, how many are solved, and the mean true loss of what was taken."""

    violated: float
    solved: int
    loss: float


def _normal(errors: float) -> Rule:
    def bound(dense: np.ndarray, slim: np.ndarray) -> float:
        value = 1 - slim.mean() / dense.mean()
        residual = dense.astype(float) - slim - value * dense
        return float(value + errors * residual.std() / math.sqrt(len(dense)) / dense.mean())

    return bound


def _ours(dense: np.ndarray, slim: np.ndarray) -> float:
    labels = np.zeros(len(dense), dtype=np.int64)
    return relative_drop(_TASK, np.eye(2)[(~dense).astype(int)], np.eye(2)[(~slim).astype(int)], labels).upper


RULES: dict[str, Rule] = {"one standard error": _normal(1.0), "normal, 95%": _normal(1.645), "Student, one row lost": _ours}


def simulate(rule: Rule, *, rows: int, runs: int, seed: int) -> Found:
    """Run the search many times."""
    generator = np.random.default_rng(seed)
    losses = []
    for _ in range(runs):
        dense, place = generator.random(rows) < _RIGHT, generator.random(rows)
        taken = None
        for errors in _ERRORS:
            # Candidates are nested: what a mild one errs on, a severe one does too.
            slim = np.where(dense, place >= errors / _RIGHT, place < 0.2 * errors / (1 - _RIGHT))
            if rule(dense, slim) > _LARGEST:
                break
            taken = 0.8 * errors / _RIGHT
        if taken is not None:
            losses.append(taken)
    violated = float(np.mean(np.array(losses) > _LARGEST)) if losses else 0.0
    return Found(violated, len(losses), float(np.mean(losses)) if losses else 0.0)


def main() -> None:
    """Print the table."""
    print("| rows | rule | violated, of solved runs | solved | true loss of what was taken |\n|---:|---|---:|---:|---:|")
    for rows in (500, 872, 5000):
        for name, rule in RULES.items():
            found = simulate(rule, rows=rows, runs=1000, seed=0)
            print(f"| {rows:,} | {name} | {found.violated:.1%} | {found.solved / 1000:.0%} | {found.loss:.2%} |")


if __name__ == "__main__":
    main()
