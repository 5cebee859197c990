"""A model that is in memory, and data that is."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import prunekit
from prunekit.arch.embedding import EmbeddingModel
from prunekit.arch.live import live_model
from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.errors import DataError, ModelError, ParameterError
from prunekit.pipeline.compress import dry_run, run
from prunekit.pipeline.early import Sources
from prunekit.pipeline.inputs import dense_of, inputs_of, read_inputs
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.session import OnnxSession
from tests import lines

TEXTS = ["banal popos moo", "duna"]


def columns(split: str) -> dict[str, list[Any]]:
    rows = lines.topic_rows(lines.ROWS[split], list(lines.ROWS).index(split))
    return {"text": [row["text"] for row in rows], "label": [row["label"] for row in rows]}


def test_a_live_model_gives_what_its_directory_gives(tmp_path: Path) -> None:
    model, tokenizer = lines.dense("base").train(), lines.tokenizer_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = datasets.DatasetDict({split: datasets.Dataset.from_dict(columns(split)) for split in lines.ROWS})
    with lines.quick():
        result = prunekit.compress(
            model, data, tokenizer=tokenizer, keep="20% neurons", recover="none", dtype="fp32", out=tmp_path / "slim"
        )
    assert result.plan.digest == lines.line("base").plan.digest
    assert result.report.model.startswith("BertModel in memory (sha256 ")
    # It is left as it is.
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.eval()
    recipe = Recipe.load(tmp_path / "slim" / "recipe.yaml")
    assert recipe.model == live_model(model, tokenizer).name
    assert (recipe.data or "").startswith("memory:")
    with pytest.raises(ModelError, match=r"was made from a model in memory \(sha256 .* Give that model"):
        run(recipe, out=tmp_path / "again")
    with pytest.raises(DataError, match="in memory"):
        run(recipe, out=tmp_path / "again", sources=Sources(live=live_model(model, tokenizer)))
    other = copy.deepcopy(model)
    other.embeddings.word_embeddings.weight.data[5] += 1
    with pytest.raises(ModelError, match="another model in memory"):
        run(recipe, out=tmp_path / "again", sources=Sources(data, live_model(other, tokenizer)))
    assert not (tmp_path / "again").exists()


def test_plan_and_export_take_it_too(tmp_path: Path) -> None:
    model, tokenizer = lines.dense("sequence"), lines.tokenizer_of()
    frame = pd.DataFrame(columns("train"))
    plan = prunekit.make_plan(lines.dense("base"), frame, tokenizer=tokenizer, layers="0-1", keep="100% neurons")
    assert plan.layers == (0, 1)
    done = prunekit.export(model, tmp_path / "dense", tokenizer=tokenizer)
    assert done.report.head == "text-classification"
    given = tokenizer(TEXTS, padding=True, return_tensors="np", return_token_type_ids=True)
    got = OnnxSession(done.path / "onnx" / "model.onnx")({name: array.astype("int64") for name, array in given.items()})["logits"]
    with torch.no_grad():
        want = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()
    assert got == pytest.approx(want, abs=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(done.path)(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0])["input_ids"]


def test_analyze_takes_it_too(tmp_path: Path) -> None:
    found = prunekit.analyze(
        lines.dense("base"), columns("train"), tokenizer=lines.tokenizer_of(), analyzers=["cka"], rows=60, out=tmp_path / "analysis"
    )
    assert set(found.results) == {"cka"}


def test_a_head_that_no_task_trains_is_left_out() -> None:
    config = lines.dense("base").config
    found = live_model(transformers.BertForMaskedLM(config), lines.tokenizer_of())
    assert type(found.model) is transformers.BertModel
    assert not found.fine_tuned


def cut_short(model: Any) -> None:
    model.bert.encoder.layer = model.bert.encoder.layer[:2]


def adapted(model: Any) -> None:
    model.bert.encoder.layer[0].intermediate.adapter = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: model.to("meta"), "has no numbers of its own in bert"),
        (lambda model: model.classifier.weight.data.fill_(torch.nan), r"hold NaN or infinity in classifier\.weight"),
        (cut_short, r"has not the weights that its config describes, such as bert\.encoder\.layer\.2"),
        (adapted, r"has not the weights that its config describes, such as bert\.encoder\.layer\.0\.intermediate\.adapter"),
        (lambda model: setattr(model, "classifier", torch.nn.Identity()), r"such as classifier\.weight"),
        (lambda model: setattr(model, "lock", threading.Lock()), "cannot be copied: cannot pickle"),
        (lambda model: setattr(model.config, "num_hidden_layers", 0), "num_hidden_layers is 0"),
        (lambda model: setattr(model.config, "num_attention_heads", 3), "has a config that describes no model"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(change: Any, says: str, tmp_path: Path) -> None:
    model = copy.deepcopy(lines.dense("sequence"))
    change(model)
    with pytest.raises(ModelError, match=says) as caught:
        prunekit.compress(model, columns("train"), tokenizer=lines.tokenizer_of(), out=tmp_path / "slim")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "slim").exists()


def test_a_model_that_is_frozen_or_in_half_is_taken() -> None:
    model = copy.deepcopy(lines.dense("sequence")).half().requires_grad_(False)
    found = live_model(model, lines.tokenizer_of()).model
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"model": torch.nn.Linear(2, 2)}, "The 'model' parameter of compress must be a directory, a hub name or a model of transformers"),
        ({"model": lines.model_of()}, "The 'tokenizer' parameter of compress must be the model's tokenizer, where the model is in memory"),
        ({"model": lines.model_of(), "tokenizer": "bert"}, "Got a str instead"),
        ({"model": "somewhere", "tokenizer": lines.tokenizer_of()}, "The 'tokenizer' parameter of compress must be left out for a model"),
    ],
    ids=["module", "no tokenizer", "name of a tokenizer", "named model"],
)
def test_a_mistake_is_one_line(named: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        prunekit.compress(**named, out=tmp_path / "slim")
    assert says in str(caught.value).replace("'a str'", "a str")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "slim").exists()


def test_no_directory_is_taken_for_a_model_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = lines.dense("base"), lines.tokenizer_of()
    live = live_model(model, tokenizer)
    monkeypatch.chdir(tmp_path)
    Path(live.name).mkdir()
    for name in ("modules.json", "plan.json"):
        (Path(live.name) / name).write_text("not read", encoding="utf-8")
    assert isinstance(dense_of(Recipe(model=live.name, task="embedding"), live).model, EmbeddingModel)
    assert prunekit.export(model, tmp_path / "dense", tokenizer=tokenizer).report.head == "feature-extraction"


def test_a_plan_for_a_model_in_memory_is_previewed_without_data(tmp_path: Path) -> None:
    live = live_model(lines.dense("sequence"), lines.tokenizer_of())
    plan = Plan(source=ModelView.of(live.model).source, layers=(0, 1))
    plan.save(tmp_path / "plan.json")
    seen = dry_run(Recipe(model=live.name, plan=str(tmp_path / "plan.json")), out=tmp_path / "slim", sources=Sources(live=live))
    assert seen.lines[0].startswith("model  ")
    assert not (tmp_path / "slim").exists()


def test_a_name_is_loaded_and_then_read_as_an_object_is() -> None:
    recipe = Recipe(model=str(lines.checkpoint("sequence")), data=str(lines.data("text")))
    named, given = read_inputs(recipe, None, Stages()), inputs_of(recipe, load_model(lines.checkpoint("sequence")), None, Stages())
    assert named.notes == given.notes
    assert all(np.array_equal(named.encoded[split].ids, given.encoded[split].ids) for split in named.encoded)
