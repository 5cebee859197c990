"""Weights that would be left out, or that do not fit their config: another model than the one that was trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prunekit.arch.folder import check_folder
from prunekit.arch.load import load_model
from prunekit.errors import ModelError
from tests.arch.test_load import edit_config, edit_weights, save

CLASSIFIER = "ForSequenceClassification"
DISTANCES = "encoder.layer.0.attention.self.distance_embedding.weight"


@pytest.mark.parametrize(("head", "prefix"), [(CLASSIFIER, "bert."), ("Model", "")])
def test_weights_that_the_class_does_not_read_are_refused(head: str, prefix: str, tmp_path: Path) -> None:
    save(tmp_path, "bert", head)
    edit_config(tmp_path, position_embedding_type="relative_key")
    edit_weights(tmp_path, **{prefix + DISTANCES: torch.ones(9, 6)})
    with pytest.raises(ModelError, match=r"hold (bert\.)?encoder\.layer\.0\.attention\.self\.distance_embedding\.weight, which"):
        load_model(tmp_path)


def test_a_config_of_fewer_layers_than_are_stored_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "bert", CLASSIFIER)
    edit_config(tmp_path, num_hidden_layers=2)
    with pytest.raises(ModelError, match=r"hold bert\.encoder\.layer\.2\.\S+ and 31 more, which the model .* save_pretrained\.$"):
        load_model(tmp_path)


def test_a_module_beside_the_blocks_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "bert", CLASSIFIER)
    edit_weights(tmp_path, **{"bert.adapter.weight": torch.ones(2, 2)})
    with pytest.raises(ModelError, match=r"hold bert\.adapter\.weight, which"):
        load_model(tmp_path)


def test_what_is_no_weight_of_the_encoder_is_left_out(tmp_path: Path) -> None:
    save(tmp_path, "bert", "ForTokenClassification")
    # The last is of a pretraining with disentangled gradients.
    others = ("bert.pooler.dense.weight", "cls.predictions.bias", "bert.embeddings.position_ids", "bert.embeddings.word_embeddings._weight")
    edit_weights(tmp_path, **{name: torch.ones(2) for name in others})
    assert load_model(tmp_path).fine_tuned


def test_a_head_that_no_architecture_names_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "bert", CLASSIFIER)
    edit_config(tmp_path, architectures=None)
    with pytest.raises(ModelError, match=r"hold a head \(classifier\.bias\), and its config\.json has no 'architectures'"):
        load_model(tmp_path)
    edit_config(tmp_path, architectures=["BertModel"])
    assert not load_model(tmp_path).fine_tuned


def test_shapes_that_do_not_fit_the_config_are_named(tmp_path: Path) -> None:
    save(tmp_path, "bert", CLASSIFIER)
    edit_config(tmp_path, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(ModelError, match=r"classifier\.bias is stored with the shape \(3,\), and the config describes \(2,\)\.$"):
        load_model(tmp_path)


def test_a_directory_of_a_training_names_its_last_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint-500")
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no config\.json\. Did you mean '.*checkpoint-500'\?$"):
        check_folder(tmp_path)


def test_an_adapter_without_a_config_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is an adapter .*Merge it"):
        check_folder(tmp_path)


def test_transformers_4_names_such_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "bert", CLASSIFIER)
    read = AutoModelForSequenceClassification.from_pretrained

    def older(*rest: Any, **named: Any) -> Any:
        model, found = read(*rest, **named)
        return model, {**found, "mismatched_keys": ["classifier.bias"]}

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", older)
    with pytest.raises(ModelError, match=r"do not fit its config\.json: classifier\.bias has another shape\.$"):
        load_model(tmp_path)


def test_only_folders_with_weights_are_named_the_last_first(tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000"):
        save(tmp_path / name)
        os.utime(tmp_path / name / "config.json", (1, 1))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"Did you mean '.*checkpoint-1000'\?$"):
        check_folder(tmp_path)
