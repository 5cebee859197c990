from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prunekit.arch.view import ModelView
from prunekit.errors import PlanError, UnsupportedError
from prunekit.plan import Plan
from prunekit.transforms.apply import apply
from prunekit.transforms.tokenizer import needed_tokens, shrink_tokenizer
from prunekit.transforms.vocabulary import drop_tokens
from tests.models import build

CORPUS = [
    "the lowest newer widest lower new wide low",
    "a film that is wider and newer than the lowest of lows",
    "unhappy people read long films",
] * 3
SEEN = ["the lower film is new", "people that read"]
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    model, trainer = {
        "WordPiece": (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False),
        ),
        "BPE": (
            models.BPE(),
            trainers.BpeTrainer(
                vocab_size=330, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
            ),
        ),
        "Unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False),
        ),
        "WordLevel": (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)),
    }[kind]
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = {"BPE": pre_tokenizers.ByteLevel(), "Unigram": pre_tokenizers.Metaspace()}.get(
        kind, pre_tokenizers.Whitespace()
    )
    backend.decoder = {"BPE": decoders.ByteLevel(), "Unigram": decoders.Metaspace()}.get(kind, decoders.WordPiece())
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", backend.token_to_id("[CLS]")), ("[SEP]", backend.token_to_id("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]"
    )


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram", "WordLevel"])
def test_texts_of_kept_tokens_are_split_as_before(kind: str, tmp_path: Path) -> None:
    dense = tokenizer_of(kind)
    used = {token for text in SEEN for token in dense(text)["input_ids"]}
    kept = needed_tokens(dense, used)
    assert used <= set(kept)
    slim = shrink_tokenizer(dense, kept)
    assert len(slim) == len(kept) < len(dense)
    assert slim.pad_token_id == kept.index(dense.pad_token_id)
    slim.save_pretrained(tmp_path)
    for tokenizer in (slim, AutoTokenizer.from_pretrained(tmp_path)):
        for text in SEEN:
            new = tokenizer(text)["input_ids"]
            assert [kept[token] for token in new] == dense(text)["input_ids"]
            assert tokenizer.convert_ids_to_tokens(new) == dense.convert_ids_to_tokens(dense(text)["input_ids"])
        # Other texts still have a spelling or are unknown.
        assert max(tokenizer("widest unhappy zebra")["input_ids"]) < len(kept)
    # The dense tokenizer is left as it is.
    assert len(dense) == len(tokenizer_of(kind))


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_any_other_text_is_spelled_by_what_is_left(kind: str) -> None:
    dense = tokenizer_of(kind)
    slim = shrink_tokenizer(dense, needed_tokens(dense, dense("the film")["input_ids"]))
    text = "newest unhappy people"  # of characters that the corpus has
    assert len(slim) < len(dense)
    assert len(slim(text)["input_ids"]) > len(dense(text)["input_ids"])
    assert slim.unk_token_id not in slim(text)["input_ids"]
    spelled = slim.decode(slim(text)["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # How words are put together again is the decoder's business, and WordPiece's leaves its marks.
    assert spelled.replace(" ##", "").strip() == text


def test_the_price_of_the_unknown_stays() -> None:
    dense = tokenizer_of("Unigram")
    pieces = json.loads(dense.backend_tokenizer.to_str())["model"]["vocab"]
    kept = needed_tokens(dense, [])
    assert min(pieces[at][1] for at in kept if at < len(pieces)) == min(score for _, score in pieces)


def test_a_lost_price_of_the_unknown_would_split_kept_texts_otherwise() -> None:
    """The lowest score belongs to a piece that no text uses: with the next lowest, the unknown would be the cheaper way."""
    scores = {"<unk>": 0.0, "a": -0.1, "abc": -12.0, "de": -12.0, "f": -12.0, "cdef": -0.1, "zz": -50.0}
    dense = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram([*scores.items()], 0)), unk_token="<unk>")
    texts = ["abcdef", "cdef", "a"]
    assert dense.tokenize("abcdef") == ["abc", "de", "f"]
    slim = shrink_tokenizer(dense, needed_tokens(dense, {token for text in texts for token in dense(text)["input_ids"]}))
    for text in texts:
        assert slim.tokenize(text) == dense.tokenize(text)


@pytest.mark.parametrize(("prefix", "suffix"), [("", ""), ("##", ""), ("", "</w>")], ids=["plain", "prefix", "suffix"])
def test_merges_are_followed_however_pieces_are_marked(prefix: str, suffix: str) -> None:
    marks = {"continuing_subword_prefix": prefix, "end_of_word_suffix": suffix}
    backend = Tokenizer(models.BPE(unk_token="[UNK]", **{name: mark for name, mark in marks.items() if mark}))  # type: ignore[arg-type]
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=SPECIAL, show_progress=False, **{name: mark for name, mark in marks.items() if mark}
    )
    backend.train_from_iterator(CORPUS, trainer)
    dense = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    used = {token for text in SEEN for token in dense(text)["input_ids"]}
    kept = needed_tokens(dense, used)
    slim = shrink_tokenizer(dense, kept)
    assert len(kept) < len(dense)
    for text in SEEN:
        assert [kept[token] for token in slim(text)["input_ids"]] == dense(text)["input_ids"]
    assert slim.unk_token_id not in slim("widest unhappy low")["input_ids"]


def test_tokens_of_a_model_that_is_slim_already() -> None:
    model = build("bert", "ForSequenceClassification")
    source = ModelView.of(model).source
    structure = {"heads": {0: (1,), 2: ()}, "ffn": {1: ()}, "layers": (0, 1, 2)}
    plan = Plan(source=source, vocabulary=(0, 1, 2, 3, 9), **structure)
    slim = apply(model, Plan(source=source, **structure))
    assert drop_tokens(slim, Plan(source=source, **structure)) is slim
    assert slim.config.vocab_size == source.vocabulary
    assert drop_tokens(slim, plan) is slim
    whole = apply(model, plan)
    assert slim.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in slim.state_dict().items())
    assert slim.config.vocab_size == whole.config.vocab_size == 5


def test_special_tokens_cannot_be_dropped() -> None:
    dense = tokenizer_of("WordPiece")
    with pytest.raises(PlanError, match=r"\[CLS\]"):
        shrink_tokenizer(dense, [0, 2, 3, 4, 9])
    with pytest.raises(UnsupportedError, match="fast"):
        shrink_tokenizer(object(), [0])


@pytest.mark.parametrize("case", ["bert", "roberta", "mpnet", "albert", "electra", "deberta-v2", "xlnet", "modernbert", "gpt2", "llama"])
def test_slim_embeddings_give_the_same_outputs(case: str) -> None:
    model = build(case, "ForSequenceClassification")
    view = ModelView.of(model)
    kept = (0, 1, 2, 3, 7, 11, 30, 49)
    slim = apply(model, Plan(source=view.source, vocabulary=kept))
    new = torch.tensor([[2, 4, 6, 7, 5], [2, 7, 7, 1, 1]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(kept)[new], attention_mask=mask).logits
        assert torch.equal(slim(input_ids=new, attention_mask=mask).logits, expected)
    assert slim.config.vocab_size == 8


def test_padding_is_renumbered_or_must_stay() -> None:
    bert, roberta = build("bert", pad_token_id=5), build("roberta")
    slim = apply(bert, Plan(source=ModelView.of(bert).source, vocabulary=(2, 3, 5, 6)))
    assert slim.config.pad_token_id == slim.embeddings.word_embeddings.padding_idx == 2
    with pytest.raises(PlanError, match="drops token 5, which is the padding"):
        apply(bert, Plan(source=ModelView.of(bert).source, vocabulary=(2, 3, 6)))
    with pytest.raises(PlanError, match="must keep tokens 0-1"):
        apply(roberta, Plan(source=ModelView.of(roberta).source, vocabulary=(1, 3, 6)))


def test_no_padding_and_several_ends() -> None:
    model = build("bert")
    model.config.pad_token_id, model.config.eos_token_id = -1, [3, 40]
    slim = apply(model, Plan(source=ModelView.of(model).source, vocabulary=(2, 3, 6)))
    assert slim.config.pad_token_id == -1
    assert slim.config.eos_token_id == [1]
