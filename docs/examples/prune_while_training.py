"""Fine-tunes a classifier and shrinks it while it learns.

    python docs/examples/prune_while_training.py MODEL DATA OUT --keep "40% params"
    accelerate launch --num_processes 2 docs/examples/prune_while_training.py MODEL DATA OUT

DATA is a directory with train.jsonl, rows of "text" and "label". An interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import prunekit

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("out")
parser.add_argument("--keep", default="40% params")
parser.add_argument("--steps", type=int, default=-1)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--freeze")
options = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(options.model)
rows = load_dataset("json", data_files=f"{options.data}/train.jsonl", split="train")
names = sorted(set(rows["label"]))
rows = rows.map(lambda row: {**tokenizer(row["text"], truncation=True, max_length=128), "label": names.index(row["label"])})
model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(names))

callback = prunekit.PruneCallback(keep=options.keep, start=0.1, end=0.7, steps=3, freeze=options.freeze)
trainer = Trainer(
    model,
    TrainingArguments(
        f"{options.out}/checkpoints",
        num_train_epochs=3,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=5e-5,
        save_steps=0.25,
        report_to="none",
    ),
    train_dataset=rows,
    data_collator=DataCollatorWithPadding(tokenizer),
    callbacks=[callback],
)
trainer.train(resume_from_checkpoint=get_last_checkpoint(f"{options.out}/checkpoints"))
if trainer.is_world_process_zero():
    callback.save(f"{options.out}/slim", tokenizer)
    print(f"plan {callback.plan.digest}")
    for cut in callback.history:
        print(f"step {cut['step']:.0f}: {cut['kept']:.1%} of the parameters of the layers left")
