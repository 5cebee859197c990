from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prunekit.data import Encoded, Rows, batches, encode
from prunekit.errors import DataError, ModelError, ParameterError

LETTERS = "abcdefghij"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    """A word-piece tokenizer of one piece a letter; "~" is spelled by nothing."""
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace("~", "")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fed = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=fed, **{**names, **changes})


def texts(n: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    drawn = [" ".join("".join(generator.choice(list(LETTERS), 2)) for _ in range(generator.integers(1, 12))) for _ in range(n)]
    return Rows(labels=generator.integers(0, 3, n), texts=tuple(drawn), pairs=tuple(text[::-1] for text in drawn[::-1]))


def words(n: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    drawn = [
        ["".join(generator.choice(list(LETTERS), generator.integers(1, 4))) for _ in range(generator.integers(1, 9))] for _ in range(n)
    ]
    return Rows(labels=tuple(generator.integers(0, 5, len(row)) for row in drawn), tokens=tuple(tuple(row) for row in drawn))


def unpadded(encoded: Encoded, **limits: int) -> dict[int, tuple[list[int], list[int]]]:
    """Ids and types by row, as the batches show them."""
    found = {}
    for batch in encoded.batches(**limits):
        for at, row in enumerate(batch.rows.tolist()):
            mask = batch.attention_mask[at].astype(bool)
            found[row] = (batch.input_ids[at][mask].tolist(), batch.token_type_ids[at][mask].tolist())
    return found


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_rows_are_what_the_tokenizer_makes_of_each_alone(paired: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_CHUNK", chunk)
    tok, rows = tokenizer(), texts(40)
    if not paired:
        rows = Rows(labels=rows.labels, texts=rows.texts)
    encoded = encode(rows, tok, max_length=20, per_token=False)
    found = unpadded(encoded)
    cut = 0
    for i, text in enumerate(rows.texts):
        pair = rows.pairs[i] if rows.pairs else None
        alone = tok(text, pair, truncation=True, max_length=20, return_token_type_ids=True)
        assert found[i] == (alone["input_ids"], alone["token_type_ids"])
        cut += len(tok(text, pair)["input_ids"]) > 20
    assert 0 < encoded.truncated == cut < 40
    assert encoded.dropped == 0
    assert encoded.labels is rows.labels


@pytest.mark.parametrize(("max_tokens", "max_rows"), [(8192, 64), (40, 64), (60, 3), (1, 64), (8192, 1)])
def test_batches_hold_every_row_once_within_the_limits(max_tokens: int, max_rows: int) -> None:
    rows = texts(50)
    encoded = encode(rows, tokenizer(), max_length=30, per_token=False)
    seen: list[int] = []
    last = 0
    for batch in encoded.batches(max_tokens, max_rows):
        b, length = batch.input_ids.shape
        assert b == 1 or (b <= max_rows and b * length <= max_tokens)
        assert length == batch.attention_mask.sum(axis=1).max()
        assert last <= batch.attention_mask.sum(axis=1).min()
        last = length
        assert all(array.dtype == np.int64 and array.shape == (b, length) for array in batch.inputs.values())
        assert batch.first is None
        assert batch.targets.tolist() == batch.rows.tolist()
        assert batch.labels.tolist() == np.asarray(rows.labels)[batch.rows].tolist()
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(50))
    assert unpadded(encoded, max_tokens=max_tokens, max_rows=max_rows) == unpadded(encoded)


@pytest.mark.parametrize(("side", "token", "kind"), [("right", "[PAD]", 0), ("left", "a", 3)])
def test_padding_is_the_tokenizers(side: str, token: str, kind: int) -> None:
    tok = tokenizer(padding_side=side, pad_token=token, pad_token_type_id=kind)
    rows = texts(9)
    encoded = encode(rows, tok, max_length=60, per_token=False)
    batch = encoded.batch(np.arange(9))
    own = tok(list(rows.texts), list(rows.pairs or ()), padding=True, return_token_type_ids=True, return_tensors="np")
    for name, array in batch.inputs.items():
        np.testing.assert_array_equal(array, own[name])
    assert (batch.attention_mask[:, 0 if side == "left" else -1] == 0).any()


def test_without_a_padding_token_the_last_one_pads() -> None:
    encoded = encode(texts(5), tokenizer(pad_token=None, eos_token="[SEP]"), max_length=60, per_token=False)
    batch = encoded.batch(np.arange(5))
    assert set(batch.input_ids[batch.attention_mask == 0].tolist()) == {VOCABULARY.index("[SEP]")}
    with pytest.raises(ModelError, match="neither a padding nor an end-of-text token"):
        encode(texts(5), tokenizer(pad_token=None), max_length=60, per_token=False)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_rows", [1, 5, 64])
def test_words_are_read_at_their_first_piece_in_the_splits_order(side: str, max_rows: int) -> None:
    rows = words(30)
    encoded = encode(rows, tokenizer(padding_side=side), max_length=64, per_token=True)
    assert isinstance(rows.labels, tuple)
    assert encoded.labels.tolist() == np.concatenate(rows.labels).tolist()
    assert (encoded.truncated, encoded.dropped) == (0, 0)
    read = np.full(len(encoded.labels), -1)
    for batch in encoded.batches(max_rows=max_rows):
        assert batch.first is not None
        read[batch.targets] = batch.input_ids[batch.first[:, 0], batch.first[:, 1]]
        assert batch.labels.tolist() == encoded.labels[batch.targets].tolist()
    assert read.tolist() == [VOCABULARY.index(word[0]) for row in rows.tokens for word in row]
    assert encoded.first_ids.tolist() == read.tolist()


def test_words_that_vanish_take_their_labels_along() -> None:
    tokens = (("ab", "~", "c"), ("a", "bcd", "ef", "g"), ("~", "~"), ("j",))
    labels = tuple(np.array(row) for row in ([0, 1, 2], [3, 4, 5, 6], [7, 8], [9]))
    encoded = encode(Rows(labels=labels, tokens=tokens), tokenizer(), max_length=7, per_token=True)
    assert encoded.labels.tolist() == [0, 2, 3, 4, 5, 9]  # "ef" is cut in two, "g" is gone
    assert (encoded.truncated, encoded.dropped) == (1, 4)
    pieces = {}
    for batch in encoded.batches(max_rows=2):
        assert batch.first is not None
        for target, (row, place) in zip(batch.targets.tolist(), batch.first.tolist(), strict=True):
            pieces[target] = VOCABULARY[batch.input_ids[row, place]]
    assert [pieces[i] for i in range(6)] == ["a", "c", "a", "b", "e", "j"]


def test_byte_level_words_are_spelled_with_their_space() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, "<|end|>", "Ġa", "ab", "Ġab"])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "a"), ("a", "b"), ("Ġa", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    tok.add_prefix_space = False  # as the tokenizers of GPT-2 and RoBERTa say it
    rows = Rows(labels=(np.array([0, 1]), np.array([1])), tokens=(("ab", "ab"), ("a",)))
    found = unpadded(encode(rows, tok, max_length=9, per_token=True))
    assert found[0][0] == [vocabulary["Ġab"]] * 2
    assert found[1][0] == [vocabulary["Ġa"]]
    assert tok.add_prefix_space is False


@pytest.mark.parametrize("per_token", [True, False])
def test_rows_taken_are_the_rows(per_token: bool) -> None:
    rows = words(20) if per_token else texts(20)
    encoded = encode(rows, tokenizer(), max_length=64, per_token=per_token)
    at = np.array([7, 3, 19, 3])
    taken, direct = encoded.take(at), encode(rows.take(at), tokenizer(), max_length=64, per_token=per_token)
    assert unpadded(taken) == unpadded(direct)
    assert taken.labels.tolist() == direct.labels.tolist()
    for left, right in zip(taken.batches(), direct.batches(), strict=True):
        assert (left.first is None) == (right.first is None) == (not per_token)
        assert left.first is None or left.first.tolist() == right.first.tolist()  # type: ignore[union-attr]


def test_a_sample_has_the_lengths_of_the_whole() -> None:
    encoded = encode(texts(400), tokenizer(), max_length=64, per_token=False)
    sample = encoded.sample(40, seed=0)
    assert len(sample) == 40
    whole, drawn = np.sort(encoded.lengths), np.sort(sample.lengths)
    for i in range(40):
        assert whole[10 * i] <= drawn[i] <= whole[10 * i + 9]
    assert encoded.sample(40, seed=0).ids.tolist() == sample.ids.tolist()
    assert encoded.sample(40, seed=1).ids.tolist() != sample.ids.tolist()
    assert sorted(encoded.sample(1000, seed=0).lengths) == sorted(encoded.lengths)


def test_a_draw_takes_rows_in_proportion_to_their_tokens() -> None:
    encoded = encode(texts(400), tokenizer(), max_length=64, per_token=False)
    drawn = encoded.draw(40, seed=0)
    assert len(drawn) == len({tuple(row) for row in np.split(np.asarray(drawn.ids), drawn.offsets[1:-1])}) == 40
    # The mean length of single draws in proportion to length is E[L^2] / E[L].
    lengths = encoded.lengths
    means = [encoded.draw(1, seed=seed).lengths[0] for seed in range(600)]
    spread = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - np.square(lengths).sum() / lengths.sum()) < 4 * spread
    assert np.mean(means) > lengths.mean() + 4 * spread
    assert encoded.draw(40, seed=0).ids.tolist() == drawn.ids.tolist()
    assert sorted(encoded.draw(1000, seed=0).lengths) == sorted(lengths)


def test_the_memory_is_five_bytes_a_token() -> None:
    encoded = encode(texts(50), tokenizer(), max_length=64, per_token=False)
    assert encoded.ids.nbytes + encoded.kinds.nbytes == 5 * encoded.lengths.sum()


def test_what_cannot_be_encoded() -> None:
    with pytest.raises(ParameterError, match=r"'max_length' .* at least 5 \(the tokenizer adds 3 tokens\)"):
        encode(texts(3), tokenizer(), max_length=4, per_token=False)
    with pytest.raises(ParameterError, match="'per_token' parameter of encode must be True"):
        encode(words(3), tokenizer(), max_length=9, per_token=False)
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(DataError, match=r"makes no token of row 2 "):
        encode(Rows(labels=np.array([0, 1]), texts=("a", "~")), bare, max_length=9, per_token=False)
    encoded = encode(texts(3), tokenizer(), max_length=30, per_token=False)
    with pytest.raises(ParameterError, match=r"'max_rows' parameter of .* at least 1"):
        next(encoded.batches(max_rows=0))
    with pytest.raises(ParameterError, match=r"'n' parameter of Encoded\.sample"):
        encoded.sample(0, seed=0)
    with pytest.raises(ParameterError, match=r"'n' parameter of Encoded\.draw"):
        encoded.draw(0, seed=0)
