"""What it costs to collect statistics beside running the model: one pass with everything, against the bare forward pass.

    python benchmarks/one_pass.py MODEL DATA [--rows 2000] [--rounds 5] [--threads 2]

Both run the same batches and take turns; the first round is warm-up. "bare" is the body's forward pass that gives its last
hidden state alone; "all" also keeps all hidden states, pools them, samples single tokens, stores the rows, and takes the
float64 co-moment over [neurons | labels]. The result is the ratio of their medians, and of each round.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from prunekit.arch.view import ModelView, run_body
from prunekit.data.batches import Encoded
from prunekit.pipeline.inputs import load_inputs
from prunekit.pipeline.observations import TOKENS
from prunekit.recipe import Recipe
from prunekit.report.progress import stages
from prunekit.stats.collect import collect


def bare(view: ModelView, encoded: Encoded) -> float:
    """Seconds of the forward pass alone."""
    begin = time.perf_counter()
    with torch.inference_mode():
        for batch in encoded.batches():
            tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items() if name in view.inputs}
            run_body(view.body, view.spec, tensors, states=False)
    return time.perf_counter() - begin


def everything(view: ModelView, encoded: Encoded, pooling: str, outputs: int) -> float:
    """Seconds of the pass that collects all statistics."""
    begin = time.perf_counter()
    found = collect(view, encoded, pooling=pooling, outputs=outputs, tokens=TOKENS)  # type: ignore[arg-type]
    seconds = time.perf_counter() - begin
    found.rows.close()
    return seconds


def main() -> None:
    """Measure, and print each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with stages(False) as stage:
        inputs = load_inputs(Recipe(model=given.model, data=given.data), None, None, stage, most=given.rows)
    view, encoded, outputs = inputs.view, inputs.encoded["train"], inputs.data.task.outputs
    view.model.eval()
    taken: dict[str, list[float]] = {"bare": [], "all": []}
    for number in range(given.rounds + 1):
        first, second = bare(view, encoded), everything(view, encoded, inputs.pooling, outputs)
        if number:
            taken["bare"].append(first)
            taken["all"].append(second)
            print(f"round {number}: bare {first:.2f} s, all {second:.2f} s, ratio {second / first:.3f}")
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    print(
        f"{len(encoded):,} rows of {encoded.lengths.mean():.1f} tokens, {given.threads} threads: "
        f"bare {medians['bare']:.2f} s, all {medians['all']:.2f} s, ratio {medians['all'] / medians['bare']:.3f}"
    )


if __name__ == "__main__":
    main()
