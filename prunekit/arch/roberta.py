"""RoBERTa, XLM-RoBERTa, CamemBERT: BERT without token types, with its own classification head."""

from __future__ import annotations

from dataclasses import replace

from prunekit.arch import bert
from prunekit.arch.spec import QUESTION, SEQUENCE, TOKEN

SPEC = replace(
    bert.SPEC,
    name="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    heads={SEQUENCE: ("classifier.dense",), TOKEN: ("classifier",), QUESTION: ("qa_outputs",)},
    inputs=("input_ids", "attention_mask"),
    pad_positions=True,
)
