"""Which tokens are kept, and how the slim model's rows are encoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prunekit.data.batches import Encoded
from prunekit.pipeline.inputs import encode_splits
from prunekit.pipeline.records import Inputs, Text
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.transforms.tokenizer import needed_tokens, shrink_tokenizer


def seen_tokens(inputs: Inputs) -> tuple[int, ...]:
    """Token ids that train's rows use, with what the tokenizer and the model cannot do without."""
    used = set(np.unique(inputs.encoded["train"].ids).tolist())
    pad = inputs.view.config.pad_token_id
    if pad is not None and pad >= 0:
        # Some families count positions from the padding's id, and need every id below it.
        used.update(range(pad + 1) if inputs.view.spec.pad_positions else [pad])
    return needed_tokens(inputs.loaded.tokenizer, used)


def slim_text(recipe: Recipe, inputs: Inputs, plan: Plan) -> Text:
    """The tokenizer that a plan leaves, and the rows to be measured as it encodes them."""
    if plan.vocabulary is None:
        return Text(inputs.loaded.tokenizer, inputs.encoded)
    tokenizer = shrink_tokenizer(inputs.loaded.tokenizer, plan.vocabulary)
    splits = {name: rows for name, rows in inputs.data.splits.items() if name != "train"}
    task = inputs.data.task
    encoded = encode_splits(splits, tokenizer, task, inputs.max_length, inputs.stride)
    if task.kind.traits.vectors:
        # What they are judged by has nothing to do with the tokenizer.
        known = inputs.encoded
        encoded = {name: replace(found, labels=known[name].labels, starts=known[name].starts) for name, found in encoded.items()}
    kept = np.array(plan.vocabulary)
    differ = {name: _differing(inputs.encoded[name], found, kept) for name, found in encoded.items()}
    other = {name: f"{sum(found)} of {len(found)} {name} rows" for name, found in differ.items()}
    notes = (
        f"vocabulary: {len(kept):,} of {plan.source.vocabulary:,} tokens kept, those that train uses and those that spell the rest",
        f"what slim answers is measured with its own tokenizer, which spells {other['test']} and {other['validation']} in other tokens "
        "than the dense one",
    )
    return Text(tokenizer, encoded, notes)


def _differing(dense: Encoded, slim: Encoded, kept: NDArray[np.int64]) -> list[bool]:
    """Whether the two tokenizers split each row differently."""
    return [not np.array_equal(ours, kept[theirs]) for ours, theirs in zip(_rows(dense), _rows(slim), strict=True)]


def _rows(encoded: Encoded) -> list[NDArray[np.int32]]:
    """The tokens of each row; of a question those of all its windows, which stand together."""
    starts = encoded.offsets[:-1]
    if encoded.windows is not None:
        starts = starts[np.flatnonzero(np.diff(encoded.windows.questions, prepend=-1))]
    return np.split(encoded.ids, starts[1:])
