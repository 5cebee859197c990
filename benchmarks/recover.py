"""Minutes of training after the cut: accuracy retained at given shares of the layers' parameters, before and after.

    python benchmarks/recover.py MODEL SST2_DIR --params 18% 11% 7% --recover 10min --json recover.json --files FILES
    python benchmarks/recover.py TAGGER UD_EWT_DIR --tags upos --params 12% --recover 10min
    prunekit export MODEL -o DENSE --optimize none
    prunekit bench dense=DENSE 7%=FILES/7%.onnx --data SST2_DIR --batch 1,32

A row has seconds on the wall and of processor time, the cut included: on a shared machine the first say little.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from structure import Bench

from prunekit.arch.view import ModelView
from prunekit.budget import Budget
from prunekit.exporters.onnx import export_onnx
from prunekit.pipeline.inputs import calibration
from prunekit.pipeline.records import space_of
from prunekit.pruning.shrink import shrink
from prunekit.training.distill import recover


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> list[float]:
        """On the wall, and of all threads' processor time."""
        return [round(time.perf_counter() - self._wall, 1), round(time.process_time() - self._processor, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--tags", help="column of a token task")
    parser.add_argument("--params", nargs="+", required=True)
    parser.add_argument("--recover", default="10min")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--files", type=Path, help="where ONNX files go, to be timed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.model, arguments.data, arguments.tags)
    for share in arguments.params:
        clock = Clock()
        rows = calibration(bench.encoded["train"], arguments.seed)
        cut = shrink(bench.loaded.model, rows, [Budget.parse(f"{share} params")], seed=arguments.seed)
        row = {"keep": share, "seed": arguments.seed, "threads": arguments.threads, **cut.steps[-1]}
        bench.add({**row, "how": "cut and refitted", "seconds": clock.read()}, cut.model)
        found = recover(
            cut.model,
            bench.loaded.model,
            bench.encoded["train"],
            effort=arguments.recover,
            plan=cut.plan,
            validation=bench.encoded["validation"],
            task=bench.task,
            seed=arguments.seed,
        )
        row |= {"how": f"recovered, {arguments.recover}", "seconds": clock.read(), "steps": found.steps, "epochs": round(found.epochs, 2)}
        bench.add(row, found.model)
        if arguments.files is not None:
            arguments.files.mkdir(parents=True, exist_ok=True)
            export(bench, found.model, arguments.files / f"{share}.onnx")
        if arguments.json:
            results = {"dense": {name: each["accuracy"] for name, each in bench.dense.items()}, "results": bench.rows}
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def export(bench: Bench, model: torch.nn.Module, file: Path) -> None:
    """An ONNX file to be timed."""
    view = ModelView.of(bench.loaded.model)
    export_onnx(model, file, inputs=view.inputs, space=space_of(view.config, bench.loaded.tokenizer))


if __name__ == "__main__":
    main()
