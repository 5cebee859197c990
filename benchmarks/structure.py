"""Structure without training: accuracy retained at given shares of the layers' parameters, beside the baselines.

    python benchmarks/structure.py MODEL SST2_DIR --params 50% 28% 18% 12% --seeds 0 1 2 --json results.json

Columns: prunekit (selection and refit), the same selection without refit, random units + refit, magnitude + refit.
`benchmarks/peer_torch_pruning.py` makes the rows of Torch-Pruning, in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from prunekit.arch.load import load_model
from prunekit.budget import Budget
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.shrink import shrink
from prunekit.transforms.apply import apply


def accuracy(model: torch.nn.Module, encoded: Encoded) -> float:
    hits = 0
    with torch.inference_mode():
        for batch in encoded.batches():
            tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            hits += int((model(**tensors).logits.argmax(-1).numpy() == batch.labels).sum())
    return hits / len(encoded.labels)


def batches(encoded: Encoded, count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(encoded))[:count])
    return [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in encoded.take(chosen).batches()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--params", nargs="+", default=["50%", "28%", "18%", "12%"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=2048, help="calibration sentences from train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--baselines", action="store_true", help="with the first seed only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loaded = load_model(arguments.model)
    data = load_data(arguments.data, labels=loaded.labels)
    encoded = {name: encode(rows, loaded.tokenizer, max_length=128, per_token=False) for name, rows in data.splits.items()}
    dense = {name: accuracy(loaded.model, encoded[name]) for name in ("validation", "test")}
    print(json.dumps({"dense": dense}), flush=True)
    results = []
    for share in arguments.params:
        for seed in arguments.seeds:
            rows = batches(encoded["train"], arguments.rows, seed)
            for choice in ("cost", "random", "magnitude") if arguments.baselines and seed == arguments.seeds[0] else ("cost",):
                begin = time.perf_counter()
                found = shrink(loaded.model, rows, [Budget.parse(f"{share} params")], choice=choice, seed=seed)
                seconds = time.perf_counter() - begin
                row = {"keep": share, "seed": seed, "choice": choice, "refit": True, "seconds": round(seconds, 1), **found.steps[-1]}
                row |= {name: round(accuracy(found.model, encoded[name]) / dense[name], 4) for name in dense}
                results.append(row)
                print(json.dumps(row), flush=True)
                if choice == "cost" and arguments.baselines:
                    bare = apply(loaded.model, found.plan).eval()
                    row = {**row, "refit": False, **{name: round(accuracy(bare, encoded[name]) / dense[name], 4) for name in dense}}
                    results.append(row)
                    print(json.dumps(row), flush=True)
    for share in arguments.params:
        test = [row["test"] for row in results if row["keep"] == share and row["choice"] == "cost" and row["refit"]]
        print(f"{share}: retained on test {np.mean(test):.2%} (mean of {len(test)} seeds, {min(test):.2%} to {max(test):.2%})")
    if arguments.json:
        arguments.json.write_text(json.dumps({"dense": dense, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
