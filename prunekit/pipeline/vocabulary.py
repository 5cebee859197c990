"""Choice of the tokens that are kept, and encoding of the slim model's rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prunekit.arch.embedding import EmbeddingModel
from prunekit.data.batches import Encoded
from prunekit.pipeline.inputs import encode_splits
from prunekit.pipeline.records import Inputs, Run, Text
from prunekit.plan import Plan
from prunekit.transforms.tokenizer import needed_tokens, shrink_tokenizer


def seen_tokens(inputs: Inputs) -> tuple[int, ...]:
    """Return the token ids that train's rows and an embedder's prompts use, with those that the tokenizer and the model require."""
    used = set(np.unique(inputs.encoded["train"].ids).tolist())
    if isinstance(inputs.loaded.model, EmbeddingModel):
        # Any of an embedder's prompts may stand before a text.
        for prompt in inputs.loaded.model.embedding.prompts.values():
            used.update(inputs.loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    pad = inputs.view.config.pad_token_id
    if pad is not None and pad >= 0:
        # Some families count positions from the padding's id, and need every id below it.
        used.update(range(pad + 1) if inputs.view.spec.pad_positions else [pad])
    return needed_tokens(inputs.loaded.tokenizer, used)


def slim_text(run: Run, plan: Plan) -> Text:
    """Return the tokenizer that a plan leaves, and the rows to be measured as it encodes them."""
    if plan.vocabulary is None:
        return Text(run.inputs.loaded.tokenizer, run.inputs.encoded)
    tokenizer = shrink_tokenizer(run.inputs.loaded.tokenizer, plan.vocabulary)
    splits = {name: rows for name, rows in run.inputs.data.splits.items() if name != "train"}
    task = run.inputs.data.task
    encoded = encode_splits(splits, tokenizer, task, run.inputs.max_length, run.inputs.stride)
    if task.kind.traits.vectors:
        # Their references do not depend on the tokenizer.
        dense = run.inputs.encoded
        encoded = {name: replace(split, labels=dense[name].labels, starts=dense[name].starts) for name, split in encoded.items()}
    kept = np.array(plan.vocabulary)
    differing = {name: _differing(run.inputs.encoded[name], split, kept) for name, split in encoded.items()}
    counts = {name: f"{sum(rows)} of {len(rows)} {name} rows" for name, rows in differing.items()}
    notes = (
        f"vocabulary: {len(kept):,} of {plan.source.vocabulary:,} tokens kept, those that train uses and those that spell the rest",
        f"what slim answers is measured with its own tokenizer, which spells {counts['test']} and {counts['validation']} in other tokens "
        "than the dense one",
    )
    return Text(tokenizer, encoded, notes)


def _differing(dense: Encoded, slim: Encoded, kept: NDArray[np.int64]) -> list[bool]:
    """Return whether the two tokenizers split each row differently."""
    return [not np.array_equal(ours, kept[theirs]) for ours, theirs in zip(_rows(dense), _rows(slim), strict=True)]


def _rows(encoded: Encoded) -> list[NDArray[np.int32]]:
    """Return the tokens of each row; of a question those of all its windows, which are adjacent."""
    starts = encoded.offsets[:-1]
    if encoded.windows is not None:
        starts = starts[np.flatnonzero(np.diff(encoded.windows.questions, prepend=-1))]
    return np.split(encoded.ids, starts[1:])
