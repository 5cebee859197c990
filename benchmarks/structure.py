"""Structure without training: accuracy retained at given shares of the layers' parameters, beside the baselines.

    python benchmarks/structure.py MODEL SST2_DIR --params 50% 28% 18% 12% --seeds 0 1 2 --baselines --json results.json
    python benchmarks/structure.py MODEL SST2_DIR --layers 5 4 3 --json layers.json
    python benchmarks/structure.py TAGGER UD_EWT_DIR --tags upos --params 50% 28% 18% 12% --baselines --seeds 0 --json upos.json

Any task that has a head will do; what is retained is the share of the dense model's metric. Rows: prunekit (selection and refit), the
same selection without refit, random units + refit, magnitude + refit; with `--layers`, the first k blocks with all weights left
refitted, beside the same cut with the head alone fitted anew. `benchmarks/peer_torch_pruning.py` makes the rows of Torch-Pruning, in
an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV

from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.budget import Budget
from prunekit.data.batches import encode
from prunekit.data.load import load_data
from prunekit.pipeline.apply import apply
from prunekit.pipeline.inputs import calibration
from prunekit.plan import Plan
from prunekit.pruning.shrink import shrink


class Bench:
    """A model, its data, and the rows of the table."""

    def __init__(self, model: str, data: str, tags: str | None = None) -> None:
        self.loaded = load_model(model)
        rows = load_data(data, labels=self.loaded.labels, tags=tags)
        self.task, tokenizer = rows.task, self.loaded.tokenizer
        self.encoded = {name: encode(part, tokenizer, max_length=128, per_token=self.task.per_token) for name, part in rows.splits.items()}
        # What is held out and has labels: cut from the data where there is one such split.
        self.dense = {name: self.measure(self.loaded.model, name) for name in ("validation", "test") if name in self.encoded}
        self.rows: list[dict[str, object]] = []
        print(json.dumps({"dense": {name: found["score"] for name, found in self.dense.items()}}), flush=True)

    def measure(self, model: torch.nn.Module, split: str) -> dict[str, np.ndarray | float]:
        """The task's metric, and the outputs row by row, or word by word: log-probabilities where there are classes."""
        outputs, labels = [], []
        with torch.inference_mode():
            for batch in self.encoded[split].batches():
                tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
                logits = model(**tensors).logits
                if batch.first is not None:
                    logits = logits[batch.first[:, 0], batch.first[:, 1]]
                outputs.append((logits.log_softmax(-1) if logits.shape[-1] > 1 else logits).double().numpy())
                labels.append(batch.labels)
        found = np.concatenate(outputs)
        return {"outputs": found, "score": self.task.score(found, np.concatenate(labels))}

    def add(self, row: dict[str, object], model: torch.nn.Module) -> None:
        """One row: the metric retained and, on validation, which does not see the labels, the divergence from the dense model."""
        for split, dense in self.dense.items():
            found = self.measure(model, split)
            row = {**row, split: round(found["score"] / dense["score"], 4)}
            if split == "validation" and dense["outputs"].shape[-1] > 1:
                row["kl"] = round(float((np.exp(dense["outputs"]) * (dense["outputs"] - found["outputs"])).sum(-1).mean()), 4)
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def structure(self, share: str, seed: int, baselines: bool) -> None:
        """The rows of one share of the parameters and one draw of calibration rows."""
        rows = calibration(self.encoded["train"], seed)
        for criterion in ("cost", "random", "magnitude") if baselines else ("cost",):
            begin = time.perf_counter()
            found = shrink(self.loaded.model, rows, [Budget.parse(f"{share} params")], criterion=criterion, seed=seed)
            row = {"keep": share, "seed": seed, "how": criterion, "seconds": round(time.perf_counter() - begin, 1), **found.steps[-1]}
            self.add(row, found.model)
            if criterion == "cost" and baselines:
                self.add({**row, "how": "cost, no refit"}, apply(self.loaded.model, found.plan).eval())

    def layers(self, kept: int, seed: int) -> None:
        """The first `kept` blocks: refitted, as they are, and as they are with a classifier fitted to the labels of the same rows."""
        model, draw = self.loaded.model, self.encoded["train"].draw(2048, seed)
        rows = [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in draw.batches()]
        labels = np.concatenate([batch.labels for batch in draw.batches()])
        row: dict[str, object] = {"layers": kept, "seed": seed}
        begin = time.perf_counter()
        plan = Plan(source=ModelView.of(model).source, layers=tuple(range(kept)))
        found = apply(model, plan, rows, seed=seed)
        self.add({**row, "how": "refit", "seconds": round(time.perf_counter() - begin, 1)}, found)
        cut = apply(model, plan).eval()
        self.add({**row, "how": "cut"}, cut)
        states = []
        with torch.inference_mode():
            for batch in rows:
                states.append(cut.base_model(**batch).last_hidden_state[:, 0].double().numpy())
        probe = LogisticRegressionCV(Cs=8, max_iter=2000, random_state=seed).fit(np.concatenate(states), labels)

        class Headed(torch.nn.Module):
            def forward(self, **inputs: torch.Tensor) -> object:
                first = cut.base_model(**inputs).last_hidden_state[:, 0].double().numpy()
                return argparse.Namespace(logits=torch.from_numpy(probe.predict_log_proba(first)))

        self.add({**row, "how": "cut, head fitted to 2,048 labels"}, Headed())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--tags")
    parser.add_argument("--params", nargs="*", default=[])
    parser.add_argument("--layers", nargs="*", type=int, default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--baselines", action="store_true", help="with the first seed only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.model, arguments.data, arguments.tags)
    for seed in arguments.seeds:
        for share in arguments.params:
            bench.structure(share, seed, arguments.baselines and seed == arguments.seeds[0])
        for kept in arguments.layers:
            bench.layers(kept, seed)
    keys = sorted({(str(row.get("keep", row.get("layers"))), str(row["how"])) for row in bench.rows})
    for key, how in keys:
        split = list(bench.dense)[-1]
        test = [float(str(row[split])) for row in bench.rows if (str(row.get("keep", row.get("layers"))), row["how"]) == (key, how)]
        print(f"{key} {how}: retained on {split} {np.mean(test):.2%} (mean of {len(test)} seeds, {min(test):.2%} to {max(test):.2%})")
    if arguments.json:
        dense = {name: found["score"] for name, found in bench.dense.items()}
        arguments.json.write_text(json.dumps({"dense": dense, "results": bench.rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
