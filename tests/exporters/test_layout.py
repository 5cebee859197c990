from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from prunekit.arch.view import ModelView
from prunekit.exporters.layout import Card, card_text, write_card
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.tasks import TaskKind
from tests.models import build

WORDS = [
    "A",
    "first",
    "second",
    "text",
    "one",
    "little",
    "longer",
    "Another",
    "And",
    "its",
    "pair",
    "Ada",
    "lives",
    "in",
    "London",
    ".",
    ",",
]
VOCABULARY = {word: at for at, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *WORDS])}
CARD = Card(
    name="slim model",
    base="org/some-model",
    kind=TaskKind.CLASSIFICATION,
    labels=("negative", "neutral", 'it\'s "ünclear"'),
    inputs=("input_ids", "attention_mask", "token_type_ids"),
    outputs=("logits",),
    pad_id=1,
    pad_token="[PAD]",
    max_length=32,
    plan_digest="abcdef0123456789",
    results="| x | y |\n|---|---:|\n| a | 1 % |",
)


def tokenizer() -> Tokenizer:
    found = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return found


def artefact(folder: Path, kind: TaskKind, **changes: Any) -> torch.nn.Module:
    head = "ForTokenClassification" if kind is TaskKind.TOKENS else "ForSequenceClassification"
    model: torch.nn.Module = build("bert", head, **changes)
    (folder / "onnx").mkdir(parents=True)
    export_onnx(model, folder / "onnx" / "model.onnx", inputs=ModelView.of(model).inputs, space=sample_space(model.config))
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


def code_of(card: str, title: str) -> str:
    """The Python under a heading of a card."""
    return card.split(f"### {title}\n", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]


def run(code: str, where: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=where, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def logits(model: Any, encodings: list[Any]) -> np.ndarray:
    """What PyTorch gives, row by row, without padding."""
    rows = []
    for found in encodings:
        tensors = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
        rows.append(model(**{name: torch.tensor([value]) for name, value in tensors.items()}).logits[0].detach().numpy())
    return np.stack(rows)


@pytest.mark.needs("onnxruntime")
@pytest.mark.parametrize("pair", [False, True])
def test_the_example_classifies_as_the_model_does(pair: bool, tmp_path: Path) -> None:
    model = artefact(tmp_path / CARD.name, TaskKind.CLASSIFICATION)
    card = write_card(tmp_path / CARD.name, replace(CARD, pair=pair)).read_text(encoding="utf-8")
    texts: list[Any] = ["A first text.", "A second one, a little longer."]
    if pair:
        texts = [("A first text.", "A second text."), ("Another one.", "And its pair.")]
    want = [CARD.labels[at] for at in logits(model, tokenizer().encode_batch(texts)).argmax(axis=1)]
    assert run(code_of(card, "onnxruntime and tokenizers"), tmp_path) == [
        f"{text} {label}" for text, label in zip(texts, want, strict=True)
    ]


def test_the_padding_of_the_example_is_the_tokenizers() -> None:
    card = card_text(replace(CARD, padding_side="left", pad_id=5, pad_token="<pad>", pad_type_id=3), {"onnx/model.onnx", "tokenizer.json"})
    code = code_of(card, "onnxruntime and tokenizers")
    found = tokenizer()
    (line,) = (line for line in code.splitlines() if "enable_padding" in line)
    exec(line, {"tokenizer": found})  # a line of our own
    assert found.padding is not None
    assert {name: found.padding[name] for name in ("direction", "pad_id", "pad_token", "pad_type_id")} == {
        "direction": "left",
        "pad_id": 5,
        "pad_token": "<pad>",
        "pad_type_id": 3,
    }


@pytest.mark.needs("onnxruntime")
def test_the_example_gives_values_for_a_regression(tmp_path: Path) -> None:
    model = artefact(tmp_path / CARD.name, TaskKind.REGRESSION, num_labels=1)
    card = write_card(tmp_path / CARD.name, replace(CARD, kind=TaskKind.REGRESSION, labels=())).read_text(encoding="utf-8")
    lines = run(code_of(card, "onnxruntime and tokenizers"), tmp_path)
    want = logits(model, tokenizer().encode_batch(["A first text.", "A second one, a little longer."]))[:, 0]
    assert [float(line.rpartition(" ")[2]) for line in lines] == pytest.approx(want.tolist(), abs=1e-5)


@pytest.mark.needs("onnxruntime")
def test_the_example_labels_words(tmp_path: Path) -> None:
    model = artefact(tmp_path / CARD.name, TaskKind.TOKENS)
    card = write_card(tmp_path / CARD.name, replace(CARD, kind=TaskKind.TOKENS)).read_text(encoding="utf-8")
    words = ["Ada", "lives", "in", "London"]
    want = logits(model, [tokenizer().encode(words, is_pretokenized=True)])[0, 1:-1].argmax(axis=1)
    assert run(code_of(card, "onnxruntime and tokenizers"), tmp_path) == [
        f"{word} {CARD.labels[at]}" for word, at in zip(words, want, strict=True)
    ]


@pytest.mark.needs("onnxruntime")
def test_the_example_without_a_fast_tokenizer(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    artefact(tmp_path / CARD.name, TaskKind.CLASSIFICATION)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer(), pad_token="[PAD]").save_pretrained(tmp_path / CARD.name)
    card = card_text(CARD, {"onnx/model.onnx"})
    assert len(run(code_of(card, "onnxruntime, with the tokenizer of transformers"), tmp_path)) == 2


@pytest.mark.parametrize("kind", TaskKind)
def test_every_example_is_python(kind: TaskKind) -> None:
    files = {"onnx/model.onnx", "tokenizer.json", "model.safetensors", "modules.json", "plan.json"}
    text = card_text(replace(CARD, kind=kind, labels=() if kind is TaskKind.REGRESSION else CARD.labels), files)
    blocks = [part.split("```", 1)[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == (4 if kind.traits.vectors else 5)
    for block in blocks:
        compile(block, "card", "exec")
        assert f'"{CARD.name}"' in block


def test_only_what_is_there_is_shown() -> None:
    stock = card_text(CARD, {"onnx/model.onnx", "tokenizer.json", "model.safetensors"})
    assert "AutoModelForSequenceClassification" in stock
    assert "import prunekit\nfrom transformers" not in stock
    pruned = card_text(CARD, {"onnx/model.onnx", "tokenizer.json", "pruned.safetensors", "plan.json"})
    assert "prunekit.load" in pruned
    assert "no stock config describes" in pruned
    assert "import prunekit\nfrom transformers import AutoModelForSequenceClassification" in pruned
    assert "SentenceTransformer" not in pruned
    assert "SentenceTransformer" in card_text(CARD, {"onnx/model.onnx", "modules.json"})
    assert "| `plan.json` |" in pruned
    assert "| `report.html` |" not in pruned


def test_the_results_and_the_front_matter(tmp_path: Path) -> None:
    import yaml

    text = card_text(CARD, {"onnx/model.onnx", "tokenizer.json"})
    assert CARD.results in text
    assert "abcdef012345" in text
    matter = yaml.safe_load(text.split("---")[1])
    assert matter == {"tags": ["prunekit", "onnx", "pruned"], "pipeline_tag": "text-classification", "base_model": "org/some-model"}
    local = card_text(replace(CARD, base=str(tmp_path / "model")), {"tokenizer.json"})
    assert str(tmp_path) not in local
    assert "base_model" not in local
