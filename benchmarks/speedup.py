"""What is retained without training at a speed that was asked for, and what a search for a largest drop finds.

    python benchmarks/speedup.py MODEL DATA --speedup 2x 3.3x 4.6x --json speedup.json
    python benchmarks/speedup.py MODEL DATA --max-drop 1% --seeds 0 1 2 3 4 --json drop.json

Each row is what ``prunekit compress`` with the same options chooses and ships, without its baselines: the slim file's accuracy on test as
a share of the dense file's, and how many times as fast it is at batch 1, with a 95% interval. The drop has one too (paired bootstrap).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.exporters.onnx import export_onnx
from prunekit.pipeline.decide import decide
from prunekit.pipeline.inputs import load_inputs
from prunekit.pipeline.records import Inputs, space_of
from prunekit.pruning.costs import Params
from prunekit.recipe import Recipe
from prunekit.report.progress import stages
from prunekit.runtime.scores import outputs_of_file
from prunekit.runtime.timing import latency_of_files


def interval(inputs: Inputs, dense: Any, slim: Any, split: str) -> tuple[float, float, float]:
    """Share of the dense model's score that is retained, with a 95% interval over the draw of the rows."""
    task, labels, generator = inputs.data.task, inputs.encoded[split].labels, np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        rows = generator.integers(len(labels), size=len(labels))
        drawn.append(task.score(slim[rows], labels[rows]) / task.score(dense[rows], labels[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return task.score(slim, labels) / task.score(dense, labels), float(low), float(high)


def measured(recipe: Recipe, folder: Path) -> dict[str, object]:
    """One row."""
    with stages(True) as stage:
        begin, worked = time.perf_counter(), time.process_time()
        inputs = load_inputs(recipe, None, None, stage)
        decided = decide(recipe, inputs, folder, stage)
        seconds, worked = time.perf_counter() - begin, time.process_time() - worked
        space = space_of(inputs.loaded.config, inputs.loaded.tokenizer)
        models = {"dense": inputs.loaded.model, "slim": decided.model}
        files = {
            name: export_onnx(model, folder / f"{name}.onnx", inputs=inputs.view.inputs, space=space).path for name, model in models.items()
        }
        retained = {}
        for split in ("validation", "test"):
            outputs = {name: outputs_of_file(path, inputs.encoded[split]) for name, path in files.items()}
            retained[split] = [round(value, 4) for value in interval(inputs, outputs["dense"], outputs["slim"], split)]
        (found,) = latency_of_files(files, inputs.encoded["test"], batch_sizes=(1,), seed=recipe.seed)
    ratio = found.ratio("slim")
    assert decided.start is not None
    return {
        "asked": f"--speedup {recipe.speedup:g}x" if recipe.speedup else f"--max-drop {recipe.max_drop:.2%}",
        "seed": recipe.seed,
        "retained_test": retained["test"],
        "retained_validation": retained["validation"],
        "speed": [round(value, 3) for value in (ratio.value, ratio.low, ratio.high)],
        "clock": found.clock,
        "params": round(Params().of(type(inputs.view).of(decided.model)) / decided.start.start.params_layers, 4),
        "heads": [len(decided.plan.heads.get(block, range(inputs.view.units("heads")))) for block in range(inputs.view.num_layers)],
        "ffn": [len(decided.plan.ffn.get(block, range(inputs.view.units("ffn")))) for block in range(inputs.view.num_layers)],
        "seconds": round(seconds, 1),
        "processor_seconds": round(worked, 1),
        "stages": {name: round(value, 1) for name, value in stage.seconds.items()},
        "notes": list(decided.notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--speedup", nargs="*", default=[])
    parser.add_argument("--max-drop", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    asked = [*({"speedup": factor} for factor in arguments.speedup), *({"max_drop": share} for share in arguments.max_drop)]
    rows = []
    for what in asked:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as name:
                rows.append(measured(Recipe(model=arguments.model, data=arguments.data, seed=seed, **what), Path(name)))
            print(json.dumps(rows[-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
