"""A tiny model, a tokenizer and data for the whole line, made from fixed numbers and written where a test wants them."""

from __future__ import annotations

import functools
import json
import string
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from prunekit.benchmark.counts import params_of, read_graph
from prunekit.pipeline.compress import Result, compress
from prunekit.pipeline.latency_table import Timed
from prunekit.runtime.timing import compare, latency_of_files

WORDS = tuple(a + b for b in ("nal", "pos", "rik", "tef") for a in ("ba", "du", "mo", "re"))
#: Words of the train split, half of them of either topic; the others are seen in test alone, where a test asks for it.
SEEN = WORDS[:12]
CHARACTERS = (*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase))
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *WORDS)
SIZES: dict[str, int] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32}
ROWS = {"train": 300, "validation": 60, "test": 60}


def tokenizer_of() -> PreTrainedTokenizerFast:
    """WordPiece: whole words, and characters for any other."""
    backend = Tokenizer(models.WordPiece({token: at for at, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def model_of(head: str = "BertModel", outputs: int = 2, seed: int = 0) -> Any:
    """A BERT whose every parameter is drawn by numpy, so that no library's initialisation matters; its outputs depend on the words."""
    config = transformers.BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, num_labels=outputs, pad_token_id=0, **SIZES)
    if outputs == 1:
        config.problem_type = "regression"
    model = getattr(transformers, head)(config).eval()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.from_numpy(generator.normal(0.0, 0.4, tuple(parameter.shape)).astype(np.float32))
            parameter.copy_(drawn + 1.0 if parameter.ndim == 1 else drawn)
        # What a word is counts for more than where it stands.
        body = getattr(model, "bert", model)
        body.embeddings.position_embeddings.weight.mul_(0.2)
        # [CLS] listens to the words.
        for name, parameter in body.named_parameters():
            if name.endswith(("value.weight", "attention.output.dense.weight")):
                parameter.mul_(2.0)
    return model


def sentences(rows: int, seed: int, words: Sequence[str] = SEEN) -> list[list[str]]:
    """Rows of 3 to 8 words."""
    generator = np.random.default_rng(seed)
    return [[words[int(word)] for word in generator.integers(len(words), size=generator.integers(3, 9))] for _ in range(rows)]


def answers(model: Any, texts: list[list[str]], pairs: list[list[str]] | None = None) -> Any:
    """The model's logits for rows of words, (rows, outputs), or one (words, outputs) array a row."""
    tokenizer, found = tokenizer_of(), []
    with torch.no_grad():
        for at, words in enumerate(texts):
            second = None if pairs is None else " ".join(pairs[at])
            found.append(model(**tokenizer(" ".join(words), second, return_tensors="pt")).logits[0].numpy())
    return np.stack(found) if found[0].ndim == 1 else [row[1:-1] for row in found]


def save(model: Any, folder: Path) -> Path:
    """Model and tokenizer as a checkpoint."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    return folder


def write_rows(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """A data directory: one JSONL file a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def topic_rows(rows: int, seed: int, words: Sequence[str] = SEEN) -> list[dict[str, Any]]:
    """Text whose class is that of most of its words: those that begin with one of the first two syllables, or not."""
    texts, generator = sentences(rows, seed, words), np.random.default_rng(seed + 30)
    first = [(sum(word[:2] in ("ba", "du") for word in row) * 2 > len(row)) != (generator.random() < 0.1) for row in texts]
    return [{"text": " ".join(row), "label": "ab"[int(label)]} for row, label in zip(texts, first, strict=True)]


def topic_data(folder: Path) -> Path:
    """A classification that a person would understand."""
    return write_rows(folder, {name: topic_rows(count, at) for at, (name, count) in enumerate(ROWS.items())})


def labelled_by(model: Any, folder: Path, kind: str) -> Path:
    """Data whose labels are the model's own answers but for noise: "text", "pair" (a value), or "tokens".

    "unseen" is "text" with words in the test split that train does not have.
    """
    splits = {}
    for at, (name, count) in enumerate(ROWS.items()):
        words = WORDS if (kind, name) == ("unseen", "test") else SEEN
        texts, generator = sentences(count, at, words), np.random.default_rng(at + 20)
        if kind == "pair":
            seconds = sentences(count, at + 10)
            values = answers(model, texts, seconds)[:, 0]
            values += generator.normal(0, 0.3 * values.std(), count)
            splits[name] = [
                {"sentence1": " ".join(a), "sentence2": " ".join(b), "score": round(float(v), 4)}
                for a, b, v in zip(texts, seconds, values, strict=True)
            ]
        elif kind == "tokens":
            tags = [[f"LABEL_{(tag + (generator.random() < 0.1)) % 3}" for tag in row.argmax(axis=1)] for row in answers(model, texts)]
            splits[name] = [{"tokens": words, "tags": row} for words, row in zip(texts, tags, strict=True)]
        else:
            labels = answers(model, texts).argmax(axis=1) ^ (generator.random(count) < 0.1)
            splits[name] = [{"text": " ".join(words), "label": int(label)} for words, label in zip(texts, labels, strict=True)]
    return write_rows(folder, splits)


def balanced(model: Any) -> Any:
    """Move the head's bias so that the classes are about equally frequent on random rows."""
    logits = answers(model, sentences(200, 99))
    rows = logits if isinstance(logits, np.ndarray) else np.concatenate(logits)
    with torch.no_grad():
        model.classifier.bias -= torch.from_numpy(np.median(rows - rows.mean(axis=1, keepdims=True), axis=0))
    return model


_HOME = tempfile.TemporaryDirectory(prefix="prunekit-lines-")
_FOLDER = Path(_HOME.name)

#: {case: (model, data, recipe)}; each is run once in a process, by `line`.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "base": ("base", "topics", {"keep": "20% neurons"}),
    "sequence": ("sequence", "text", {"keep": "60% params"}),
    "both": ("sequence", "text", {"keep": ["40% neurons", "60% params"], "pooling": "mean", "seed": 1}),
    "tokens": ("tokens", "tokens", {"keep": "40% neurons"}),
    "pairs": ("pairs", "pair", {"keep": "60% macs"}),
    "vocabulary": ("sequence", "unseen", {"vocabulary": "data"}),
    "everything": ("base", "topics", {"layers": "0,2", "keep": ["60% neurons", "40% params"], "vocabulary": "data"}),
    "blocks": ("sequence", "text", {"layers": "0,2", "keep": "40% params"}),
    "uniform": ("sequence", "text", {"keep": "80% params", "uniform": True, "multiple_of": 8, "dtype": "int8"}),
}
_HEADS = {
    "sequence": ("BertForSequenceClassification", 2),
    "tokens": ("BertForTokenClassification", 3),
    "pairs": ("BertForSequenceClassification", 1),
}


@functools.cache
def dense(name: str) -> Any:
    """The dense model of a name, in memory."""
    if name == "base":
        return model_of()
    model = model_of(*_HEADS[name])
    return model if name == "pairs" else balanced(model)


@functools.cache
def checkpoint(name: str) -> Path:
    """The dense model of a name, on disk; nobody changes it."""
    return save(dense(name), _FOLDER / "models" / name)


@functools.cache
def data(name: str) -> Path:
    """The data of a name, on disk; nobody changes it."""
    folder = _FOLDER / "data" / name
    if name == "topics":
        return topic_data(folder)
    return labelled_by(dense({"text": "sequence", "unseen": "sequence", "pair": "pairs"}.get(name, name)), folder, name)


@functools.cache
def line(case: str) -> Result:
    """The whole line, once, and without training and without a file in int8 where a case does not name them."""
    model, rows, recipe = CASES[case]
    with quick():
        return compress(checkpoint(model), data(rows), out=_FOLDER / case / "slim", **{"recover": "none", "dtype": "fp32", **recipe})


def weighed(dense: Path, slim: Path) -> float:
    """The weights of a file as a share of another's, which is the same on every machine."""
    ours, theirs = (params_of(read_graph(path)) for path in (slim, dense))
    return ours / theirs


def _share(_: Timed, dense: Path, slim: Path, batch: int) -> float:
    return weighed(dense, slim)


def _files_as_weighed(files: dict[str, Path], *_: Any, batch_sizes: Sequence[int], **__: Any) -> list[Any]:
    ratio = SimpleNamespace(low=1 / weighed(files["dense"], files["slim"]))
    return [SimpleNamespace(ratio=lambda _: ratio) for _ in batch_sizes]


@contextmanager
def quick() -> Iterator[None]:
    """Latency is measured for as short as may be: no test looks at it. Where it decides, the weights of the files are in its place."""
    of_files = functools.partial(latency_of_files, min_rounds=2, max_seconds=0.0)
    of_random = functools.partial(compare, min_rounds=2, max_seconds=0.0)
    with (
        patch.object(Timed, "share", _share),
        patch("prunekit.pipeline.targets.latency_of_files", _files_as_weighed),
        patch("prunekit.pipeline.evaluate.latency_of_files", of_files),
        patch("prunekit.pipeline.frontier.latency_of_files", of_files),
        patch("prunekit.pipeline.data_free.compare", of_random),
    ):
        yield
