from __future__ import annotations

import json
import logging as standard
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from prunekit.arch.load import load_model
from prunekit.errors import ModelError, UnsupportedError
from tests.models import CASES, VOCABULARY, build

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


def tokenizer(words: list[str] = WORDS, **names: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(token_models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **(names or {"pad_token": "[PAD]"}))


def save(folder: Path, case: str = "bert", head: str = "Model", tok: Any = None, **changes: Any) -> Any:
    model = build(case, head, **changes)
    model.save_pretrained(folder)
    (tok or tokenizer()).save_pretrained(folder)
    return model


def edit_weights(folder: Path, drop: str = "", **replaced: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if not (drop and drop in name)}
    save_file({**kept, **replaced}, path, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "bert"
    save(folder)
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "copy"))


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("case", CASES)
def test_every_family_comes_back_as_it_was_saved(case: str, head: str, tmp_path: Path) -> None:
    model = save(tmp_path / "m", case, head)
    loaded = load_model(tmp_path / "m")
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    assert (loaded.fine_tuned, loaded.per_token) == (head != "Model", head == "ForTokenClassification")
    assert loaded.labels == (None if head == "Model" else ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert loaded.config is loaded.model.config
    assert loaded.name == str(tmp_path / "m")
    theirs, ours = model.state_dict(), loaded.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert loaded.tokenizer("a b")["input_ids"] == [4, 5]


def test_half_precision_is_loaded_in_single(tmp_path: Path) -> None:
    save(tmp_path, "bert").half().save_pretrained(tmp_path)
    assert {p.dtype for p in load_model(tmp_path).model.parameters()} == {torch.float32}


def test_a_language_model_is_loaded_as_its_body_without_a_random_pooler(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = save(tmp_path, "bert", "ForMaskedLM")
    capfd.readouterr()
    loaded = load_model(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not loaded.fine_tuned
    assert loaded.model.pooler is None
    inputs = {"input_ids": torch.tensor([[4, 5, 6]])}
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(**inputs).last_hidden_state, model.bert(**inputs).last_hidden_state)


def test_transformers_is_left_as_it_was(source: Path) -> None:
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load_model(source)
        with pytest.raises(ModelError):
            load_model("nobody/nothing")
        assert logging.get_verbosity() == standard.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


def test_labels_are_written_or_refused(tmp_path: Path) -> None:
    save(tmp_path, "bert", "ForSequenceClassification")
    loaded = load_model(tmp_path, task_labels=("x", "y", "z"))
    assert loaded.labels == ("x", "y", "z")
    assert loaded.config.label2id == {"x": 0, "y": 1, "z": 2}
    with pytest.raises(ModelError, match="has 3 outputs, 2 labels were given"):
        load_model(tmp_path, task_labels=("x", "y"))


def test_without_a_padding_token_the_last_one_pads(tmp_path: Path) -> None:
    save(tmp_path, "gpt2", "ForSequenceClassification", tokenizer(eos_token="h"), pad_token_id=None)
    loaded = load_model(tmp_path)
    assert loaded.tokenizer.pad_token == "h"
    assert loaded.config.pad_token_id == WORDS.index("h")
    batch = loaded.tokenizer(["a b", "a"], padding=True, return_tensors="pt")
    assert loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.shape == (2, 3)


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


BREAKAGES: dict[str, tuple[Any, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "bad config": (broken_config, r"config\.json that cannot be read"),
    "no type": (lambda f: (f / "config.json").write_text("{}"), "without a model_type"),
    "bad value": (lambda f: edit_config(f, hidden_size="wide"), r"config\.json that cannot be used: hidden_size"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no weights: model\.safetensors is missing"),
    "pickled": (pickled, r"pickled weights only \(pytorch_model\.bin\)\. Convert them to safetensors: .*save_pretrained"),
    "cut": (cut_weights, "cannot be loaded from safetensors"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be loaded from safetensors"),
    "body": (
        lambda f: edit_weights(f, "layer.1.output.dense"),
        r"is not complete: its safetensors lack .*layer\.1\.output\.dense\.bias and 1 more",
    ),
    "shape": (
        lambda f: edit_weights(f, **{"encoder.layer.0.output.dense.weight": torch.zeros(3, 3)}),
        r"is stored with the shape \(3, 3\), and the config describes \(24, 20\)",
    ),
    "no tokenizer": (without_tokenizer, "has no tokenizer: one of tokenizer.json"),
    "bad tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "no tokenizer that can be loaded"),
    "foreign file": (lambda f: (f / "tokenizer.json").write_text('{"version": "1.0", "model": 3}'), "no tokenizer that can be loaded"),
    "foreign tokenizer": (
        lambda f: tokenizer([*WORDS, *(f"w{i}" for i in range(60))]).save_pretrained(f),
        f"ids up to 71, the model embeds {VOCABULARY}",
    ),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_a_broken_checkpoint_is_one_line(case: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, message = BREAKAGES[case]
    damage(folder)
    capfd.readouterr()
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "bert", "ForSequenceClassification")
    edit_weights(tmp_path, "classifier")
    with pytest.raises(ModelError, match=r"lack classifier\.bias and 1 more"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "a/b/c", "nobody/nothing"])
def test_a_name_that_leads_nowhere(name: str) -> None:
    with pytest.raises(ModelError, match=r"is not a directory|has no configuration that can be read") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_what_is_not_supported(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, model_type="t5")
    with pytest.raises(UnsupportedError, match=r"of the type 't5', which prunekit does not know. It knows albert, bert"):
        load_model(folder)
    save(tmp_path / "m", "bert", "ForSequenceClassification", problem_type="multi_label_classification")
    assert load_model(tmp_path / "m").many_labels


def test_code_of_a_checkpoint_does_not_run(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    assert type(load_model(folder).model).__name__ == "BertModel"


def test_what_a_cross_encoder_applies_to_its_logits_is_in_the_config(tmp_path: Path) -> None:
    save(tmp_path, head="ForSequenceClassification", num_labels=1)
    assert not hasattr(load_model(tmp_path).config, "sentence_transformers")
    edit_config(tmp_path, sentence_transformers={"version": "4.1.0", "activation_fn": "torch.nn.modules.activation.Sigmoid"})
    beside = {"activation_fn": "torch.nn.modules.linear.Identity", "model_type": "CrossEncoder", "prompts": {}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(beside))
    stated = load_model(tmp_path).config.to_dict()["sentence_transformers"]
    assert stated == {"version": "4.1.0", "activation_fn": "torch.nn.modules.linear.Identity"}
