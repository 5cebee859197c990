"""How well the latency table predicts: random plans of a model, predicted and measured.

    python benchmarks/latency_table.py MODEL DATA --plans 10 --batch 1 --json latency_table.json

Each plan keeps, in every block on its own, a random number of heads and of FFN neurons, one in eight sub-blocks gone. Predicted and
measured are shares of the dense file's time at the data's lengths; measured is the median of paired ratios on rows of the test split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.data.batches import encode
from prunekit.data.load import load_data
from prunekit.pipeline.latency_table import Timed, latency_table
from prunekit.pipeline.records import space_of
from prunekit.plan import Plan
from prunekit.pruning.latency_model import Widths
from prunekit.runtime.records import environment
from prunekit.runtime.timing import latency_of_files
from prunekit.transforms.apply import apply


def random_widths(view: ModelView, generator: np.random.Generator) -> Widths:
    """A plan's widths: how much is kept on average differs from plan to plan."""
    level = generator.uniform(0.1, 0.9)

    def draw(full: int) -> tuple[int, ...]:
        shares = np.clip(generator.uniform(0.3, 1.7, size=view.num_layers) * level, 0, 1)
        gone = generator.random(view.num_layers) < 1 / 8
        return tuple(0 if out else max(1, round(share * full)) for share, out in zip(shares, gone, strict=True))

    return Widths(draw(view.units("heads")), draw(view.units("ffn")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--plans", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loaded = load_model(arguments.model)
    view = ModelView.of(loaded.model)
    rows = load_data(arguments.data, labels=loaded.labels)
    encoded = {name: encode(part, loaded.tokenizer, max_length=128, per_token=False) for name, part in rows.splits.items()}
    timed = Timed(
        loaded.model,
        loaded.model,
        Plan(source=view.source),
        view.inputs,
        space_of(loaded.config, loaded.tokenizer),
        encoded["validation"].lengths,
    )
    begin = time.perf_counter()
    table = latency_table(timed, arguments.batch)
    seconds = time.perf_counter() - begin
    generator, found = np.random.default_rng(arguments.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = timed.export(loaded.model, folder / "dense.onnx")
        for _ in range(arguments.plans):
            widths = random_widths(view, generator)
            slim = timed.export(apply(loaded.model, timed.plan_of(widths)), folder / "slim.onnx")
            files = {"dense": dense, "slim": slim}
            (measured,) = latency_of_files(files, encoded["test"], batch_sizes=(arguments.batch,), max_seconds=4.0)
            share, predicted = 1 / measured.ratio("slim").value, table.share(widths)
            found.append({"heads": widths.heads, "ffn": widths.ffn, "predicted": predicted, "measured": share})
            print(f"predicted {predicted:6.1%}  measured {share:6.1%}  off by {predicted / share - 1:+.1%}", flush=True)
    off = [abs(row["predicted"] / row["measured"] - 1) for row in found]
    print(f"within 10%: {sum(error <= 0.1 for error in off)} of {len(off)}; table in {seconds:.0f} s, fit within {table.residual:.1%}")
    if arguments.json:
        machine = environment()
        record = {
            "batch": arguments.batch,
            "processor": machine.processor,
            "packages": machine.packages,
            "table": str(table),
            "plans": found,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
