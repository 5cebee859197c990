"""How often `--max-drop` takes a model that loses more, on answers of real models: `python benchmarks/max_drop_real.py sst2=MODEL:DATA`.

The search's own candidates are made once: each size pruned from the one before, on calibration rows of train, without training. Their
answers and the dense model's on all labelled rows that are held out (validation and test) are taken for the population. A draw takes
n of its rows, with replacement, goes down the sizes by the rule of `prunekit.pipeline.drop`, and takes the last that held; it is violated
if that candidate loses more than 1% on the population. A draw in which nothing holds is not solved.

Result (1,000 draws a line, and the first 20 of them): benchmarks/results/max_drop_real.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunekit.arch.load import load_model
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.errors import StatisticsError
from prunekit.pipeline.drop import relative_drop
from prunekit.pipeline.inputs import calibration
from prunekit.pipeline.max_drop import sizes
from prunekit.pruning.costs import Goal, Params
from prunekit.pruning.iterative import IterativePruner
from prunekit.tasks import Task

_LARGEST = 0.01
#: Loss on the population after which no smaller candidate is made: no draw reaches it.
_ENOUGH = 0.06


def answers(model: torch.nn.Module, rows: Encoded) -> NDArray[np.float64]:
    """Return the logits of a model in the order of the rows, (n, classes)."""
    found: NDArray[np.float64] | None = None
    with torch.inference_mode():
        for batch in rows.batches():
            logits = model(**{name: torch.from_numpy(array) for name, array in batch.inputs.items()}).logits.double().numpy()
            found = np.empty((len(rows), logits.shape[1])) if found is None else found
            found[batch.rows] = logits
    assert found is not None
    return found


def candidates(model: str, data: str, seed: int) -> tuple[Task, NDArray[Any], list[tuple[float, NDArray[np.float64]]]]:
    """Return the task, the labels of the population, and of the dense model and each candidate the share kept and the answers."""
    loaded = load_model(model)
    rows = load_data(data, labels=loaded.labels)
    splits = [name for name in ("validation", "test") if name in rows.splits]
    encoded = {name: encode(rows.splits[name], loaded.tokenizer, max_length=128, per_token=False) for name in ("train", *splits)}
    labels = np.concatenate([encoded[name].labels for name in splits])
    made = [(1.0, np.concatenate([answers(loaded.model, encoded[name]) for name in splits]))]
    work = IterativePruner(loaded.model, calibration(encoded["train"], seed), seed=seed)
    full = Goal(Params(), float(work.start.params_layers), float(work.start.params_layers), "--max-drop")
    for share in sizes(work.least(full.cost) / full.full):
        begin = time.perf_counter()
        work = work.fork()
        work.step([full.at(share)])
        found = np.concatenate([answers(work.view.model, encoded[name]) for name in splits])
        made.append((full.cost.of(work.view) / full.full, found))
        loss = relative_drop(rows.task, made[0][1], made[-1][1], labels).value
        print(
            json.dumps({"kept": round(made[-1][0], 4), "loss": round(loss, 4), "seconds": round(time.perf_counter() - begin)}), flush=True
        )
        if loss > _ENOUGH:
            break
    return rows.task, labels, made


def draw(task: Task, labels: NDArray[Any], made: list[tuple[float, NDArray[np.float64]]], chosen: NDArray[np.int64]) -> int:
    """Return the number of the candidate that a draw of rows takes; 0 where none holds."""
    for number, (_, slim) in enumerate(made[1:], 1):
        try:
            upper = relative_drop(task, made[0][1][chosen], slim[chosen], labels[chosen]).upper
        except StatisticsError:
            return number - 1
        if upper > _LARGEST:
            return number - 1
    return len(made) - 1


def main() -> None:
    """Print a line for each data set, seed and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", help="NAME=MODEL:DATA")
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 872])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines: list[dict[str, Any]] = []
    for pair in arguments.pairs:
        name, _, place = pair.partition("=")
        for seed in arguments.seeds:
            task, labels, made = candidates(*place.split(":"), seed)
            true = [relative_drop(task, made[0][1], slim, labels).value for _, slim in made]
            for rows in arguments.rows:
                generator = np.random.default_rng(seed)
                taken = [draw(task, labels, made, generator.integers(0, len(labels), rows)) for _ in range(arguments.draws)]
                solved = [number for number in taken if number]
                violated = [true[number] > _LARGEST for number in solved]
                first = [true[number] > _LARGEST for number in taken[:20] if number]
                truth = [{"kept": round(share, 4), "true loss": round(loss, 4)} for (share, _), loss in zip(made, true, strict=True)]
                line = {
                    "data": name,
                    "seed": seed,
                    "population": len(labels),
                    "rows": rows,
                    "draws": len(taken),
                    "solved": len(solved),
                    "violated": int(np.sum(violated)),
                    "first 20": f"{int(np.sum(first))} violated of {len(first)} solved",
                    "mean true loss": round(float(np.mean([true[number] for number in solved])), 4) if solved else None,
                    "candidates": truth,
                }
                lines.append(line)
                print(json.dumps(line), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
