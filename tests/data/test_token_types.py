"""The token types of pairs: what is encoded, what is written and what is reported is what transformers feeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from prunekit.data.batches import encode
from prunekit.data.load import load_data
from prunekit.data.rows import Rows
from prunekit.data.token_types import as_fed
from prunekit.exporters.checkpoint import save_tokenizer
from prunekit.exporters.export import export
from prunekit.exporters.layout import card_text
from prunekit.metrics.spans import Reference
from prunekit.pipeline.compress import compress
from prunekit.runtime.session import OnnxSession
from tests.exporters.test_layout import CARD, code_of
from tests.lines import data, dense, quick, save, sentences, tokenizer_of

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
BERT = (("[SEP]", 3), ("[CLS]", 2))
TEXTS, PAIRS = (tuple(" ".join(words) for words in sentences(6, seed)) for seed in (0, 1))
PROCESSORS: dict[str, Any] = {
    "template": tokenizer_of().backend_tokenizer.post_processor,
    "bert": processors.BertProcessing(*BERT),
    "roberta": processors.RobertaProcessing(*BERT),
    "sequence": processors.Sequence([processors.ByteLevel(), processors.BertProcessing(*BERT)]),
    "bytes": processors.ByteLevel(),
    "bytes alone": processors.Sequence([processors.ByteLevel()]),
    "none": None,
}


def saved(folder: Path, kind: str = "template", **fields: object) -> Path:
    """A cross-encoder whose tokenizer_config says more; by default that its model is fed no token types."""
    save(dense("pairs"), folder)
    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.post_processor = PROCESSORS[kind]
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    given = {"model_input_names": list(INPUTS[:2]), **fields}
    path.write_text(json.dumps({**json.loads(path.read_text()), **given}))
    return folder


def fed(tokenizer: Any, text: str, pair: str) -> list[int]:
    """The token types that a model reads: those of transformers, or the zeros that it takes for none."""
    found = tokenizer(text, pair)
    return list(found.get("token_type_ids", [0] * len(found["input_ids"])))


@pytest.mark.parametrize("names", [INPUTS[:2], INPUTS, ("input_ids", "token_type_ids", "attention_mask"), ()])
@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "BertTokenizer"])
def test_a_pair_is_encoded_as_transformers_feeds_it(names: tuple[str, ...], tokenizer_class: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved(tmp_path, tokenizer_class=tokenizer_class, model_input_names=names))
    rows = Rows(labels=np.zeros(6), texts=TEXTS, pairs=PAIRS)
    encoded = encode(rows, tokenizer, max_length=30, per_token=False)
    types = np.split(encoded.kinds, encoded.offsets[1:-1])
    assert [row.tolist() for row in types] == [fed(tokenizer, *row) for row in zip(TEXTS, PAIRS, strict=True)]
    assert set(encoded.kinds.tolist()) == ({0, 1} if "token_type_ids" in names else {0})


def test_what_a_tokenizer_says_by_default_is_what_transformers_takes() -> None:
    tokenizer = tokenizer_of()
    encoded = encode(Rows(labels=np.zeros(1), texts=TEXTS[:1], pairs=PAIRS[:1]), tokenizer, max_length=30, per_token=False)
    assert encoded.kinds.tolist() == fed(tokenizer, TEXTS[0], PAIRS[0])


@pytest.mark.parametrize(("names", "types"), [(INPUTS[:2], {0}), (INPUTS, {0, 1})])
def test_windows_have_the_types_of_pairs(names: tuple[str, ...], types: set[int]) -> None:
    tokenizer = tokenizer_of()
    tokenizer.model_input_names = list(names)
    references = np.empty(6, dtype=object)
    references[:] = [Reference(pair) for pair in PAIRS]
    encoded = encode(Rows(labels=references, texts=TEXTS, pairs=PAIRS), tokenizer, max_length=16, per_token=False)
    assert len(encoded) > 6
    assert set(encoded.kinds.tolist()) == types


def test_padding_has_no_type_where_tokens_have_none() -> None:
    tokenizer = tokenizer_of()
    tokenizer.model_input_names, tokenizer._pad_token_type_id = list(INPUTS[:2]), 3
    encoded = encode(Rows(labels=np.zeros(6), texts=TEXTS, pairs=PAIRS), tokenizer, max_length=30, per_token=False)
    assert not encoded.batch(np.arange(6)).token_type_ids.any()


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_file_gives_the_ids_it_gave_and_no_types(kind: str) -> None:
    tokenizer = tokenizer_of()
    tokenizer.model_input_names = list(INPUTS[:2])
    tokenizer.backend_tokenizer.post_processor = PROCESSORS[kind]
    before = tokenizer.backend_tokenizer
    after = as_fed(tokenizer).backend_tokenizer
    for row in [*zip(TEXTS, PAIRS, strict=True), *((text,) for text in TEXTS)]:
        assert after.encode(*row).ids == before.encode(*row).ids
        assert not any(after.encode(*row).type_ids)
    assert any(before.encode(TEXTS[0], PAIRS[0]).type_ids) == (kind != "roberta"), "the tokenizer given was changed"


@pytest.mark.parametrize(
    ("names", "inputs", "written", "types"),
    [
        (INPUTS[:2], INPUTS, INPUTS[:2], {0}),
        (INPUTS, INPUTS, INPUTS, {0, 1}),
        # DistilBERT and MPNet take no types, whatever the tokenizer has; their tokenizers stay what they were.
        (INPUTS, INPUTS[:2], INPUTS[:2], {0, 1}),
        (INPUTS[:2], INPUTS[:2], INPUTS[:2], {0, 1}),
    ],
)
def test_what_is_fed_is_said_in_the_files(
    names: tuple[str, ...], inputs: tuple[str, ...], written: tuple[str, ...], types: set[int], tmp_path: Path
) -> None:
    tokenizer = tokenizer_of()
    tokenizer.model_input_names = list(names)
    save_tokenizer(tokenizer, inputs, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_input_names"] == list(written)
    assert AutoTokenizer.from_pretrained(tmp_path).model_input_names == list(written)
    assert set(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXTS[0], PAIRS[0]).type_ids) == types


@pytest.mark.needs("onnxruntime")
@pytest.mark.parametrize("names", [INPUTS[:2], INPUTS])
@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "BertTokenizer"])
def test_a_pair_scores_the_same_wherever_it_is_read(names: tuple[str, ...], tokenizer_class: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "dense", tokenizer_class=tokenizer_class, model_input_names=names)
    out = tmp_path / "slim"
    asked: dict[str, Any] = {"keep": "80% params", "uniform": True, "multiple_of": 8, "recover": "none", "dtype": "fp32"}
    with quick():
        report = compress(model, data("pair"), out=out, **asked).report
    assert any(note.startswith("token types: 0 for both texts") for note in report.notes) == ("token_type_ids" not in names)
    test = load_data(data("pair")).test
    task, rows = load_data(data("pair")).task, list(zip(test.texts, test.pairs or (), strict=True))
    # transformers: the pipeline of the checkpoint.
    pipe = pipeline("text-classification", model=str(out), function_to_apply="none", device="cpu")
    theirs = np.array([pipe({"text": text, "text_pair": pair})["score"] for text, pair in rows])
    # onnxruntime and tokenizers, without transformers.
    session, tokenizer = OnnxSession(out / "onnx" / "model.onnx"), Tokenizer.from_file(str(out / "tokenizer.json"))
    bare = []
    for row in rows:
        found = tokenizer.encode(*row)
        arrays = dict(zip(INPUTS, (found.ids, found.attention_mask, found.type_ids), strict=True))
        bare.append(session({name: np.array([values]) for name, values in arrays.items()})["logits"][0, 0])
    np.testing.assert_allclose(bare, theirs, atol=1e-4)
    values = {row.name: row.value for row in report.rows}
    assert values["slim"] == pytest.approx(task.score(theirs[:, None], np.asarray(test.labels)), abs=1e-4)
    # And the dense model is the one that the user has.
    own, stock = AutoTokenizer.from_pretrained(model), AutoModelForSequenceClassification.from_pretrained(model).eval()
    with torch.no_grad():
        before = np.array([stock(**own(*row, return_tensors="pt")).logits[0, 0] for row in rows])
    assert values["dense"] == pytest.approx(task.score(before[:, None], np.asarray(test.labels)), abs=1e-4)
    # Exported again, the files say the same.
    export(out, tmp_path / "again", data=str(data("pair")))
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert [fed(again, *row) for row in rows[:3]] == [Tokenizer.encode(tokenizer, *row).type_ids for row in rows[:3]]
    assert (tmp_path / "again" / "tokenizer.json").read_text() == (out / "tokenizer.json").read_text()
    scores = json.loads((tmp_path / "again" / "export.json").read_text())["scores"]
    assert scores["fp32"]["value"] == pytest.approx(values["slim"], abs=1e-4)


def test_the_example_without_a_tokenizer_file_feeds_what_was_measured() -> None:
    for typed in (True, False):
        card = card_text(replace(CARD, typed=typed), {"onnx/model.onnx"})
        code = code_of(card, "onnxruntime, with the tokenizer of transformers")
        assert ("return_token_type_ids=True" in code) == typed
        tokenizer = tokenizer_of()
        scope: dict[str, Any] = {"tokenizer": tokenizer, "texts": [TEXTS[0]], "np": np}
        lines = code.splitlines()
        start, end = (next(at for at, line in enumerate(lines) if line.startswith(text)) for text in ("rows = ", "logits, = "))
        exec("\n".join(lines[start:end]), scope)  # lines of our own
        assert set(scope["inputs"]) == set(INPUTS)
        assert not scope["inputs"]["token_type_ids"].any()
