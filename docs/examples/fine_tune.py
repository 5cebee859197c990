"""Fine-tunes a model on texts, pairs of texts, lists by query, words or questions, without pruning: a dense model to make smaller.

    python docs/examples/fine_tune.py MODEL DATA OUT
    python docs/examples/fine_tune.py MODEL DATA OUT --tags upos
    python docs/examples/fine_tune.py MODEL DATA OUT --task text-ranking
    python docs/examples/fine_tune.py MODEL DATA OUT --task question-answering

DATA is anything that `prunekit compress --data` reads. What prunekit takes for validation and test is not trained on, even where it is
cut from train. `--bf16` pays on processors with AMX.
"""

from __future__ import annotations

import argparse
from inspect import signature

import numpy as np
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from prunekit.data import Encoded, Rows, encode, load_data

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("out")
parser.add_argument("--tags")
parser.add_argument("--task")
parser.add_argument("--epochs", type=float, default=3)
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--max-length", type=int)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--bf16", action="store_true")
options = parser.parse_args()

data = load_data(options.data, tags=options.tags, task=options.task)
task = data.task.by_word
spans = task.kind.traits.spans
longest = options.max_length or (384 if spans else 128)
tokenizer = AutoTokenizer.from_pretrained(options.model)


def windows(rows: Rows) -> tuple[Encoded, list[dict[str, object]]]:
    """Windows of contexts as prunekit reads them, and as the Trainer wants them, with the places at which an answer starts and ends."""
    found = encode(rows, tokenizer, max_length=longest, per_token=False)
    kept = []
    for at in range(len(found)):
        batch = found.batch(np.array([at]))
        start, end = batch.first[batch.labels.argmax(axis=0), 1]
        inputs = {name: array[0] for name, array in batch.inputs.items() if name in signature(model.forward).parameters}
        kept.append({**inputs, "start_positions": int(start), "end_positions": int(end)})
    return found, kept


def features(rows: Rows) -> list[dict[str, object]]:
    """Rows as the Trainer wants them; a word's label is that of its first sub-word."""
    if not task.per_token:
        found = tokenizer(list(rows.texts), None if rows.pairs is None else list(rows.pairs), truncation=True, max_length=longest)
        return [
            {**{name: found[name][at] for name in found}, "labels": label.astype(np.float32) if task.many else label}
            for at, label in enumerate(rows.labels)
        ]
    found = tokenizer([list(words) for words in rows.tokens], is_split_into_words=True, truncation=True, max_length=longest)
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
    if spans:
        logits = np.stack(outputs[:2], axis=-1)
        values = np.concatenate([logits[at][held.batch(np.array([at])).first[:, 1]] for at in range(len(held))])
        return {str(task.metric): task.score(held.every(values), held.every_label)}
    if task.many:
        return {str(task.metric): task.score(task.tuned(outputs, labels.astype(bool)), labels.astype(bool))}
    asked = labels != -100
    return {str(task.metric): task.score(outputs[asked], labels[asked])}


if spans:
    auto, collator = AutoModelForQuestionAnswering, DataCollatorWithPadding
elif task.per_token:
    auto, collator = AutoModelForTokenClassification, DataCollatorForTokenClassification
else:
    auto, collator = AutoModelForSequenceClassification, DataCollatorWithPadding
names = dict(enumerate(task.labels or ["value"]))
named = {} if spans else {"id2label": names, "label2id": {name: at for at, name in names.items()}}
model = auto.from_pretrained(
    options.model,
    num_labels=task.outputs,
    problem_type="multi_label_classification" if task.many else None,
    ignore_mismatched_sizes=True,
    **named,
)
if spans:
    (_, train), (held, validation) = windows(data.train), windows(data.validation)
else:
    train, validation = features(data.train), features(data.validation)
# The option has another name from transformers 5 on.
by_length = {"group_by_length": True} if hasattr(TrainingArguments, "group_by_length") else {"train_sampling_strategy": "group_by_length"}
if spans:
    # Validation would be dealt out by length too, and the windows of a question are put together by their order.
    by_length = {}
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
    train_dataset=train,
    eval_dataset=validation,
    data_collator=collator(tokenizer),
    compute_metrics=score,
)
trainer.train()
found = trainer.evaluate()
trainer.save_model(options.out)
tokenizer.save_pretrained(options.out)
print(f"{task.metric} on validation: {found[f'eval_{task.metric}']:.4f}")
