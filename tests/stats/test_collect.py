from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from prunekit.arch.view import ModelView
from prunekit.data import Encoded, Rows, encode
from prunekit.errors import DataError, ParameterError, StatisticsError
from prunekit.stats.collect import collect
from prunekit.stats.collected import Collected
from prunekit.stats.moments import Moments, one_hot

WIDTH = 4 * 16


@pytest.fixture(scope="module")
def model() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=50, max_position_embeddings=32
    )
    return BertModel(config, add_pooling_layer=False).train()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0 to w44, and "ab", which is two tokens."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b", *(f"w{i}" for i in range(44))]
    inner = Tokenizer(WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def words_of(rows: int) -> list[list[str]]:
    generator = np.random.default_rng(0)
    return [["ab" if word == 0 else f"w{word}" for word in generator.integers(0, 44, length)] for length in generator.integers(1, 10, rows)]


def encoded(tokenizer: PreTrainedTokenizerFast, rows: int = 37, *, words: bool = False, classes: int = 3) -> Encoded:
    """Rows of 1 to 9 words."""
    generator = np.random.default_rng(1)
    spoken = words_of(rows)
    if words:
        labels = tuple(generator.integers(0, classes, len(row)) for row in spoken)
        return encode(Rows(labels, tokens=tuple(map(tuple, spoken))), tokenizer, max_length=32, per_token=True)
    texts = tuple(" ".join(row) for row in spoken)
    return encode(Rows(generator.integers(0, classes, rows), texts=texts), tokenizer, max_length=32, per_token=False)


def alone(model: BertModel, tokenizer: PreTrainedTokenizerFast, pooling: str, rows: int = 37) -> np.ndarray:
    """Every row run by itself, without padding."""
    model.eval()
    found = []
    for row in words_of(rows):
        ids = torch.tensor([tokenizer(" ".join(row))["input_ids"]])
        with torch.no_grad():
            states = torch.cat(model(input_ids=ids, output_hidden_states=True).hidden_states, dim=2)[0].numpy()
        starts = np.cumsum([1, *(2 if word == "ab" else 1 for word in row)])[:-1]
        found.append({"cls": states[:1], "mean": states.mean(axis=0, keepdims=True), "last": states[-1:], "token": states[starts]}[pooling])
    model.train()
    return np.concatenate(found)


def rows_of(collected: Collected) -> np.ndarray:
    return np.concatenate([chunk.copy() for _, chunk in collected.rows.chunks()])


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "token"])
def test_rows_are_those_of_the_model_one_by_one(model: BertModel, tokenizer: PreTrainedTokenizerFast, pooling: str) -> None:
    data = encoded(tokenizer, words=pooling == "token")
    found = collect(ModelView.of(model), data, pooling=pooling, outputs=3)
    assert found.rows.shape == (len(data.labels), WIDTH)
    np.testing.assert_allclose(rows_of(found), alone(model, tokenizer, pooling), atol=2e-5)
    assert (found.labels == data.labels).all()
    assert model.training


def test_moments_are_over_neurons_and_labels(model: BertModel, tokenizer: PreTrainedTokenizerFast) -> None:
    data = encoded(tokenizer)
    found = collect(ModelView.of(model), data, pooling="mean", outputs=3)
    expected = Moments.of(np.hstack([rows_of(found), one_hot(data.labels, 3)]))
    assert (found.moments.comoment == expected.comoment).all()
    assert found.moments.width == WIDTH + 3


def test_a_file_holds_what_memory_holds(model: BertModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    data = encoded(tokenizer)
    a = collect(ModelView.of(model), data, pooling="mean", outputs=3)
    b = collect(ModelView.of(model), data, pooling="mean", outputs=3, directory=tmp_path, limit=0)
    assert a.rows.in_memory
    assert not b.rows.in_memory
    assert (rows_of(a) == rows_of(b)).all()
    assert (a.moments.comoment == b.moments.comoment).all()


def test_a_regression_has_one_target_column(model: BertModel, tokenizer: PreTrainedTokenizerFast) -> None:
    data = encoded(tokenizer)
    targets = np.linspace(0, 5, len(data))
    found = collect(ModelView.of(model), data, pooling="mean", outputs=1, labels=targets)
    assert found.moments.width == WIDTH + 1
    assert found.moments.mean[-1] == pytest.approx(2.5)


def test_progress_counts_to_the_end(model: BertModel, tokenizer: PreTrainedTokenizerFast) -> None:
    seen: list[tuple[int, int]] = []
    collect(ModelView.of(model), encoded(tokenizer, rows=150), pooling="cls", outputs=3, progress=lambda *at: seen.append(at))
    assert len(seen) > 1
    assert seen[-1] == (150, 150)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_model_that_computes_nan(model: BertModel, tokenizer: PreTrainedTokenizerFast) -> None:
    broken = BertModel(model.config, add_pooling_layer=False)
    with torch.no_grad():
        broken.encoder.layer[1].output.dense.bias[3] = torch.nan
    with pytest.raises(StatisticsError, match="holds NaN"):
        collect(ModelView.of(broken), encoded(tokenizer), pooling="mean", outputs=3)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_collected(model: BertModel, tokenizer: PreTrainedTokenizerFast) -> None:
    view = ModelView.of(model)
    with pytest.raises(ParameterError, match="one of cls, mean, last, token"):
        collect(view, encoded(tokenizer), pooling="max", outputs=3)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'token' for a token task"):
        collect(view, encoded(tokenizer), pooling="token", outputs=3)
    with pytest.raises(ParameterError, match="'token' for a token task"):
        collect(view, encoded(tokenizer, words=True), pooling="mean", outputs=3)
    with pytest.raises(DataError, match=r"class ids 0\.\.1"):
        collect(view, encoded(tokenizer), pooling="mean", outputs=2)
    with pytest.raises(DataError, match="one label a row"):
        collect(view, encoded(tokenizer), pooling="mean", outputs=3, labels=np.zeros(3, dtype=int))
