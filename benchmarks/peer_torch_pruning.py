"""Torch-Pruning on a fine-tuned BERT classifier: heads and FFN neurons, hidden width left alone, no training.

Run in an environment of its own (`pip install torch transformers torch-pruning==1.6.1`); prints one JSON line a point.

    python benchmarks/peer_torch_pruning.py MODEL SST2_DIR --params 0.5 0.28 0.18 0.12
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from pathlib import Path

import torch
import torch_pruning as tp
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def rows(folder: Path, split: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def accuracy(model: torch.nn.Module, tokenizer: object, data: list[dict[str, object]]) -> float:
    data = sorted(data, key=lambda row: len(str(row["text"])))
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(data), 64):
            part = data[start : start + 64]
            batch = tokenizer([row["text"] for row in part], padding=True, truncation=True, max_length=128, return_tensors="pt")
            hits += int((model(**batch).logits.argmax(-1) == torch.tensor([row["label"] for row in part])).sum())
    return hits / len(data)


def layer_params(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.bert.encoder.parameters())


def prune(model: torch.nn.Module, ratio: float, importance: object, everywhere: bool, example: dict[str, torch.Tensor]) -> None:
    layers = model.bert.encoder.layer
    # Everything that writes the residual stream keeps its width.
    fixed = [model.bert.embeddings, model.bert.pooler, model.classifier]
    fixed += [part for layer in layers for part in (layer.attention.output.dense, layer.output.dense)]
    heads = {part: 12 for layer in layers for part in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)}
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=importance,
        global_pruning=everywhere,
        pruning_ratio=ratio,
        ignored_layers=fixed,
        num_heads=heads,
        prune_num_heads=True,
        head_pruning_ratio=ratio,
        output_transform=lambda out: out.logits.sum(),
    )
    pruner.step()
    for layer in layers:
        attention = layer.attention.self
        # Its own count says 0 where it then left a layer alone rather than empty it.
        attention.num_attention_heads = pruner.num_heads[attention.query] or attention.num_attention_heads
        attention.attention_head_size = attention.query.out_features // attention.num_attention_heads
        attention.all_head_size = attention.query.out_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--params", type=float, nargs="+", default=[0.5, 0.28, 0.18, 0.12])
    parser.add_argument("--importance", nargs="+", default=["magnitude", "taylor"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    dense = AutoModelForSequenceClassification.from_pretrained(arguments.model, attn_implementation="eager").eval()
    test, calibration = rows(arguments.data, "test"), rows(arguments.data, "train")[:2048]
    full, reference = layer_params(dense), accuracy(dense, tokenizer, test)
    example = dict(tokenizer(["an example", "another, longer example"], padding=True, return_tensors="pt"))
    importances = {"magnitude": tp.importance.GroupMagnitudeImportance(p=2), "taylor": tp.importance.GroupTaylorImportance()}
    for name in arguments.importance:
        importance = importances[name]
        if name == "taylor":
            for start in range(0, len(calibration), 64):
                part = calibration[start : start + 64]
                batch = tokenizer([row["text"] for row in part], padding=True, truncation=True, max_length=128, return_tensors="pt")
                dense(**batch, labels=torch.tensor([row["label"] for row in part])).loss.backward()
        for everywhere, share in itertools.product((True, False), arguments.params):
            low, high = 0.0, 1.0
            best = None
            # The ratio that leaves the share of parameters, by bisection.
            for _ in range(9):
                model = copy.deepcopy(dense)
                for copied, parameter in zip(model.parameters(), dense.parameters(), strict=True):
                    # It does not come with a deep copy.
                    copied.grad = parameter.grad
                ratio = (low + high) / 2
                prune(model, ratio, importance, everywhere, example)
                left = layer_params(model) / full
                if left > share:
                    low = ratio
                else:
                    high, best = ratio, (left, model)
            row = {"importance": name, "scope": "global" if everywhere else "each layer", "asked": share}
            if best is None:
                # It leaves a layer alone rather than empty it, so ranking all layers together stops short of a small share.
                print(json.dumps({**row, "params": left, "retained": None}), flush=True)
                continue
            left, model = best
            retained = accuracy(model, tokenizer, test) / reference
            print(json.dumps({**row, "params": left, "retained": retained}), flush=True)


if __name__ == "__main__":
    main()
