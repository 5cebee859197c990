"""What moments that follow the kept units are worth: the training loss around each cut of a `PruneCallback`, three ways.

    python benchmarks/callback_moments.py MODEL DATA --keep "30% params" --json callback_moments.json

The same model is fine-tuned with the same rows in the same order: never cut; cut, with AdamW's moments going by the indices of the
weights, as the callback has it; and cut, with the optimizer's state emptied at each cut. Up to the first cut the three are one run.
The rows of the table are mean losses of the steps before and after each cut.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import prunekit
from prunekit.data import load_data

WINDOW = 20
HOW = ("unpruned", "carried", "reset")


class Forget(TrainerCallback):
    """Empties the optimizer's state whenever the other callback has cut."""

    def __init__(self, pruner: prunekit.PruneCallback) -> None:
        self.pruner, self.cuts = pruner, 0

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if len(self.pruner.history) > self.cuts:
            self.cuts = len(self.pruner.history)
            getattr(optimizer, "optimizer", optimizer).state.clear()


def train(arguments: argparse.Namespace, how: str, rows: list[dict[str, Any]], seed: int) -> tuple[list[float], list[dict[str, float]]]:
    """The loss of every step, and the cuts."""
    torch.manual_seed(seed)  # of the classifier, which is new
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=len({row["labels"] for row in rows}))
    pruner = prunekit.PruneCallback(keep=arguments.keep, start=0.3, end=0.8, steps=3, schedule="linear", rows=256, seed=seed)
    callbacks = {"unpruned": [], "carried": [pruner], "reset": [pruner, Forget(pruner)]}[how]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                max_steps=arguments.steps,
                per_device_train_batch_size=32,
                learning_rate=1e-4,
                warmup_steps=arguments.steps // 10,
                optim="adamw_torch_fused",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                seed=seed,
                use_cpu=True,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=callbacks,
        )
        trainer.train()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry], pruner.history


def around(losses: dict[str, list[float]], cuts: list[dict[str, float]]) -> list[dict[str, Any]]:
    """The table: for each cut, mean loss of the steps before and after it, and the worst step after it."""
    table = []
    for cut in cuts:
        at = int(cut["step"])
        row: dict[str, Any] = {"step": at, "kept": round(cut["kept"], 4)}
        for how, found in losses.items():
            before, after = np.array(found[at - WINDOW : at]), np.array(found[at : at + WINDOW])
            row[how] = {"before": round(before.mean(), 4), "after": round(after.mean(), 4), "first 5": round(after[:5].mean(), 4)}
        difference = np.array(losses["carried"][at : at + WINDOW]) - np.array(losses["reset"][at : at + WINDOW])
        row["carried - reset"] = [round(difference.mean(), 4), round(difference.std(ddof=1) / np.sqrt(len(difference)), 4)]
        table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--keep", default="30% params")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    train_rows = load_data(arguments.data).train
    found = tokenizer(list(train_rows.texts), truncation=True, max_length=128)
    rows = [{**{name: found[name][at] for name in found}, "labels": int(label)} for at, label in enumerate(train_rows.labels)]
    results = []
    for seed in arguments.seeds:
        begin, losses, cuts = time.process_time(), {}, []
        for how in HOW:
            losses[how], history = train(arguments, how, rows, seed)
            cuts = cuts or history
        seconds = round(time.process_time() - begin, 1)
        table = around(losses, cuts)
        results.append({"seed": seed, "keep": arguments.keep, "processor_seconds": seconds, "cuts": table, "losses": losses})
        for row in table:
            print(json.dumps({"seed": seed, **row}), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
