"""What the cuts of a `PruneCallback` cost: the same training with and without them, and each cut in steps of the training around it.

    OMP_NUM_THREADS=1 python benchmarks/callback_cost.py MODEL DATA --json callback_cost.json

Seconds are those of the process on its cores, which other work on the machine does not change much; the clock's are beside them.
The rows are the same in the same order. A cut is counted in the median step of the `WINDOW` steps before it and after it; "pure" is
the training with its cuts against one in which the slim model's faster steps do not pay for them.
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

WINDOW = 10


class Clock(TrainerCallback):
    """Seconds of every step and of what the callbacks do after it; given to the Trainer before and after the other callback."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.ends: list[float] = []
        self.begun = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append(time.process_time() - self.begun)
        self.begun = time.process_time()


class After(TrainerCallback):
    """Reads the clock when the other callback is done."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.ends.append(time.process_time() - self.clock.begun)


def train(arguments: argparse.Namespace, rows: list[dict[str, Any]], pruner: prunekit.PruneCallback | None) -> dict[str, Any]:
    """Seconds of a training."""
    torch.manual_seed(0)  # of the classifier, which is new
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=len({row["labels"] for row in rows}))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                max_steps=arguments.steps,
                per_device_train_batch_size=arguments.batch,
                learning_rate=5e-5,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(arguments.model)),
            callbacks=[clock, *([] if pruner is None else [pruner]), After(clock)],
        )
        begin, worked = time.perf_counter(), time.process_time()
        trainer.train()
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "processor_seconds": round(time.process_time() - worked, 2),
        "clock": clock,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--keep", default="40% params")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cuts", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    data = load_data(arguments.data).train
    found = tokenizer(list(data.texts), truncation=True, max_length=128)
    rows = [{**{name: found[name][at] for name in found}, "labels": int(label)} for at, label in enumerate(data.labels)]
    pruner = prunekit.PruneCallback(keep=arguments.keep, steps=arguments.cuts)
    uncut, cut = train(arguments, rows, None), train(arguments, rows, pruner)
    clocks = [run.pop("clock") for run in (uncut, cut)]
    table = []
    for each in pruner.history:
        at = int(each["step"])
        around = float(np.median(clocks[1].steps[max(0, at - WINDOW) : at + WINDOW]))
        row = {"step": at, "kept": round(each["kept"], 4), "processor_seconds": round(clocks[1].ends[at - 1], 2)}
        table.append({**row, "steps": round(clocks[1].ends[at - 1] / around, 1)})
    share = {name: round(cut[name] / uncut[name] - 1, 4) for name in ("seconds", "processor_seconds")}
    spent = sum(row["processor_seconds"] for row in table) / sum(clocks[0].steps)
    result = {"keep": arguments.keep, "longer": share, "pure": round(spent, 4), "cuts": table, "uncut": uncut, "cut": cut}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
