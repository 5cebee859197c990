"""The token types of pairs: what is encoded, and what the written tokenizer says, is what transformers feeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from prunekit.arch.live import live_model
from prunekit.arch.load import load_model
from prunekit.data.batches import encode
from prunekit.data.rows import Rows
from prunekit.exporters.export import export
from tests.lines import dense, model_of, save, sentences, tokenizer_of

ROWS = Rows(
    labels=np.zeros(6),
    texts=tuple(" ".join(words) for words in sentences(6, 0)),
    pairs=tuple(" ".join(words) for words in sentences(6, 1)),
)
PROCESSORS: dict[str, Any] = {
    "template": tokenizer_of().backend_tokenizer.post_processor,
    "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "sequence": processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))]),
}


def saved(folder: Path, kind: str, *names: str) -> None:
    """Save a cross-encoder whose tokenizer states the inputs of its model."""
    save(model_of("BertForSequenceClassification", 1), folder)
    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.post_processor = PROCESSORS[kind]
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": ["input_ids", "attention_mask", *names]}))


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_pair_is_encoded_as_transformers_feeds_it(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, kind)
    fed = AutoTokenizer.from_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    encoded = encode(ROWS, loaded.tokenizer, max_length=30, per_token=False)
    for at, (text, pair) in enumerate(zip(ROWS.texts, ROWS.pairs or (), strict=True)):
        theirs = fed(text, pair, return_tensors="pt")
        batch = encoded.batch(np.array([at])).inputs
        assert "token_type_ids" not in theirs
        assert theirs["input_ids"].tolist() == batch["input_ids"].tolist()
        with torch.no_grad():
            ours = loaded.model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits
            assert torch.equal(ours, loaded.model(**theirs).logits)


def test_a_tokenizer_in_memory_is_not_changed() -> None:
    given = tokenizer_of()
    given.model_input_names = ["input_ids", "attention_mask"]
    live = live_model(dense("pairs"), given)
    assert set(live.tokenizer("ba", "du", return_token_type_ids=True)["token_type_ids"]) == {0}
    assert set(given("ba", "du", return_token_type_ids=True)["token_type_ids"]) == {0, 1}


def test_types_that_transformers_feeds_stay(tmp_path: Path) -> None:
    saved(tmp_path, "template", "token_type_ids")
    assert set(encode(ROWS, load_model(tmp_path).tokenizer, max_length=30, per_token=False).kinds.tolist()) == {0, 1}


@pytest.mark.needs("onnxruntime")
def test_the_written_tokenizer_gives_the_types_without_transformers(tmp_path: Path) -> None:
    saved(tmp_path / "dense", "template")
    export(tmp_path / "dense", tmp_path / "slim")
    written = Tokenizer.from_file(str(tmp_path / "slim" / "tokenizer.json")).encode("ba du", "mo")
    assert set(written.type_ids) == {0}
    assert written.tokens.count("[SEP]") == 2
