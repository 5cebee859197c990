"""A model that is in memory, and data that is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
import transformers

import prunekit
from prunekit.arch.live import live_model
from prunekit.errors import DataError, ModelError, ParameterError
from prunekit.pipeline.compress import run
from prunekit.pipeline.early import Sources
from prunekit.recipe import Recipe
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
