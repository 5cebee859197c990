"""Fine-tunes a model on texts, pairs of texts, lists by query or words, without pruning: a dense model for prunekit to make smaller.

    python docs/examples/fine_tune.py MODEL DATA OUT
    python docs/examples/fine_tune.py MODEL DATA OUT --tags upos
    python docs/examples/fine_tune.py MODEL DATA OUT --task text-ranking

DATA is anything that `prunekit compress --data` reads. What prunekit takes for validation and test is not trained on, even where it is
cut from train. `--bf16` pays on processors with AMX.
"""

from __future__ import annotations

import argparse

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from prunekit.data import Rows, load_data

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("out")
parser.add_argument("--tags")
parser.add_argument("--task")
parser.add_argument("--epochs", type=float, default=3)
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--bf16", action="store_true")
options = parser.parse_args()

data = load_data(options.data, tags=options.tags, task=options.task)
task = data.task.by_word
tokenizer = AutoTokenizer.from_pretrained(options.model)


def features(rows: Rows) -> list[dict[str, object]]:
    """Rows as the Trainer wants them; a word's label is that of its first sub-word."""
    if not task.per_token:
        found = tokenizer(list(rows.texts), None if rows.pairs is None else list(rows.pairs), truncation=True, max_length=128)
        return [
            {**{name: found[name][at] for name in found}, "labels": label.astype(np.float32) if task.many else label}
            for at, label in enumerate(rows.labels)
        ]
    found = tokenizer([list(words) for words in rows.tokens], is_split_into_words=True, truncation=True, max_length=128)
    kept = []
    for at, tags in enumerate(rows.labels):
        words = found.word_ids(at)
        first = [word is not None and word not in words[:place] for place, word in enumerate(words)]
        labels = [int(tags[word]) if asked else -100 for word, asked in zip(words, first, strict=True)]
        kept.append({**{name: found[name][at] for name in found}, "labels": labels})
    return kept


def score(found: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """The task's metric."""
    outputs, labels = found
    if task.many:
        return {str(task.metric): task.score(task.tuned(outputs, labels.astype(bool)), labels.astype(bool))}
    asked = labels != -100
    return {str(task.metric): task.score(outputs[asked], labels[asked])}


auto, collator = (
    (AutoModelForTokenClassification, DataCollatorForTokenClassification)
    if task.per_token
    else (AutoModelForSequenceClassification, DataCollatorWithPadding)
)
names = dict(enumerate(task.labels or ["value"]))
model = auto.from_pretrained(
    options.model,
    num_labels=task.outputs,
    id2label=names,
    label2id={name: at for at, name in names.items()},
    problem_type="multi_label_classification" if task.many else None,
    ignore_mismatched_sizes=True,
)
# The option has another name from transformers 5 on.
by_length = {"group_by_length": True} if hasattr(TrainingArguments, "group_by_length") else {"train_sampling_strategy": "group_by_length"}
trainer = Trainer(
    model,
    TrainingArguments(
        f"{options.out}/checkpoints",
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=options.learning_rate,
        warmup_steps=20,
        weight_decay=0.01,
        optim="adamw_torch_fused",
        bf16=options.bf16,
        seed=options.seed,
        save_strategy="no",
        dataloader_pin_memory=False,
        report_to="none",
        **by_length,
    ),
    train_dataset=features(data.train),
    eval_dataset=features(data.validation),
    data_collator=collator(tokenizer),
    compute_metrics=score,
)
trainer.train()
found = trainer.evaluate()
trainer.save_model(options.out)
tokenizer.save_pretrained(options.out)
print(f"{task.metric} on validation: {found[f'eval_{task.metric}']:.4f}")
