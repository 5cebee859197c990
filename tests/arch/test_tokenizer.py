"""Tokenizers, weights and configs that load, and cannot be worked with."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from prunekit.arch.load import load_model
from prunekit.errors import ModelError
from tests.campaign import models
from tests.lines import checkpoint


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("sequence"), tmp_path / "model"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no words", "cannot read a text|ids up to"),
        ("no unknown", "cannot read a text|cannot be loaded"),
        ("a normalizer that grows", "makes more than 64 characters of one"),
        ("a template of other tokens", "gives the id 1000000, and has ids up to 72"),
        ("a template of many tokens", ""),
        ("a template of types", "gives tokens the type 9, and the model has 2 types"),
        ("a broken charsmap", "precompiled_charsmap is broken"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_one_line(name: str, says: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models.TOKENIZERS[name](copy)
    if not says:
        assert load_model(copy).tokenizer is not None
        return
    with pytest.raises(ModelError, match=says) as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(value: float, copy: Path) -> None:
    models._filled(struct.pack("<f", value))(copy)
    with pytest.raises(ModelError, match=r"hold NaN or infinity in bert\.embeddings\.word_embeddings\.weight"):
        load_model(copy)


def change(copy: Path, **fields: Any) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


@pytest.mark.parametrize(
    ("field", "value", "usual"),
    [("chunk_size_feed_forward", 1, 0), ("output_hidden_states", True, False), ("return_dict", False, True)],
)
def test_how_a_model_is_run_is_not_the_configs_to_say(field: str, value: object, usual: object, copy: Path) -> None:
    change(copy, **{field: value})
    assert getattr(load_model(copy).config, field) == usual


@pytest.mark.parametrize("field", ["save_pretrained", "to_dict", "__class__", "from_pretrained"])
def test_no_field_takes_the_place_of_a_method(field: str, copy: Path) -> None:
    change(copy, **{field: 5})
    with pytest.raises(ModelError, match=f"has a field '{field}', which no config may have"):
        load_model(copy)


def test_a_config_for_another_version_is_checked_as_well(copy: Path) -> None:
    change(copy, configuration_files=["config.4.0.0.json"])
    other = {**json.loads((copy / "config.json").read_text(encoding="utf-8")), "_attn_implementation": "kernels-community/evil"}
    (copy / "config.4.0.0.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(ModelError, match="asks for the attention 'kernels-community/evil'"):
        load_model(copy)
