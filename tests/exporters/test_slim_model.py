from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

import prunekit
from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.checkpoint import save_checkpoint
from prunekit.exporters.slim_model import SlimForSequenceClassification
from prunekit.plan import Plan, ReadoutPlan
from prunekit.transforms.apply import apply
from tests import lines

TEXTS = ["banal popos moo", "duna"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose blocks differ in heads and FFN neurons, beside an ONNX folder."""
    model = lines.model_of("BertForSequenceClassification", 2)
    plan = Plan(source=ModelView.of(model).source, heads={0: (0, 1), 1: (1,)}, ffn={2: tuple(range(5))})
    found = tmp_path_factory.mktemp("slim")
    (found / "onnx").mkdir()
    save_checkpoint(apply(model, plan), lines.tokenizer_of(), plan, found)
    return found


def batch(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)


def test_the_auto_classes_load_what_prunekit_loads(folder: Path) -> None:
    found, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert not found.training
    assert found.num_labels == 2
    given = batch(folder)
    with torch.no_grad():
        logits = found(**given).logits
        assert torch.equal(logits, prunekit.load(folder)(**given).logits)
        loss = found(**given, labels=torch.tensor([0, 1])).loss
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))), abs=1e-6)
    assert AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_what_is_saved_loads_again(folder: Path, tmp_path: Path) -> None:
    given = batch(folder)
    for name, found in (("whole", AutoModelForSequenceClassification.from_pretrained(folder)), ("body", AutoModel.from_pretrained(folder))):
        found.get_input_embeddings().weight.data[57] += 1.0
        found.save_pretrained(tmp_path / name)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        with torch.no_grad():
            assert not torch.equal(again(**given).logits, prunekit.load(folder)(**given).logits)
        assert Plan.load(tmp_path / name / "plan.json") == found.plan


def test_a_pipeline_takes_it_without_complaint(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        answers = pipeline("text-classification", model=str(folder), device="cpu")(TEXTS)
    finally:
        logger.removeHandler(caplog.handler)
    with torch.no_grad():
        chances = prunekit.load(folder)(**batch(folder)).logits.softmax(-1).max(-1)
    assert [answer["score"] for answer in answers] == pytest.approx(chances.values.tolist(), abs=1e-5)
    assert [answer["label"] for answer in answers] == [f"LABEL_{at}" for at in chances.indices]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.needs("sentence-transformers")
def test_sentence_transformers_takes_its_body(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    given = batch(folder)
    with torch.no_grad():
        states = ModelView.of(prunekit.load(folder)).body(**given).last_hidden_state
    weights = given["attention_mask"][:, :, None]
    want = (states * weights).sum(1) / weights.sum(1)
    got = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    assert torch.allclose(torch.from_numpy(got), want, atol=1e-5)


def test_who_has_not_imported_prunekit_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
assert AutoTokenizer.from_pretrained({str(folder)!r})("banal")["input_ids"] == [2, 57, 3]
assert AutoConfig.from_pretrained({str(folder / "config.json")!r}).model_type == "bert"
assert AutoConfig.from_pretrained({str(folder)!r}, subfolder="onnx").model_type == "bert"
try:
    AutoModelForSequenceClassification.from_pretrained({str(folder)!r})
except ValueError as error:
    print(error)
assert "prunekit" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "has model type `prunekit`" in done.stdout


@pytest.mark.parametrize("imports", ["import prunekit, transformers", "import transformers.models.auto.modeling_auto, prunekit"])
def test_the_order_of_imports_does_not_matter(imports: str, folder: Path, root: Path) -> None:
    code = f"""
{imports}
print(type(transformers.AutoModelForSequenceClassification.from_pretrained({str(folder)!r})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stdout) == (0, "BertForSequenceClassification\n"), done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"num_labels": 3, "ignore_mismatched_sizes": True},
            "'ignore_mismatched_sizes' .* must be left out for a model that",
        ),
        ({"dtype": "float7"}, r"must be a torch\.dtype, its name or 'auto'"),
        ({"device_map": {"slim": 0, "head": "cpu"}}, "The 'device_map' parameter of .* must be one device"),
    ],
)
def test_what_would_change_the_model_is_refused(options: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(ParameterError, match=says):
        SlimForSequenceClassification.from_pretrained(folder, **options)


def test_another_head_is_named(folder: Path) -> None:
    with pytest.raises(ModelError, match="is for text-classification; load it with AutoModelForSequenceClassification"):
        AutoModelForTokenClassification.from_pretrained(folder)
    with pytest.raises(ModelError, match="has no weights to start from; use AutoModel"):
        AutoModel.from_config(AutoConfig.from_pretrained(folder))


def test_a_repository_of_the_hub_is_read_from_its_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def stand_in(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in)
    config = AutoConfig.from_pretrained(folder)
    found = SlimForSequenceClassification.from_pretrained("somebody/slim", config=config, revision="v1")
    assert found.name_or_path == "somebody/slim"
    files = ["config.json", "config.4.0.0.json", "plan.json", "pruned.safetensors"]
    assert asked == [("somebody/slim", {"allow_patterns": files, "revision": "v1"})]


def test_who_reads_the_onnx_file_finds_the_family(folder: Path) -> None:
    plain, beside, slim = (json.loads((folder / name).read_text()) for name in ("config.json", "onnx/config.json", "config.4.0.0.json"))
    assert (plain["model_type"], beside["model_type"], slim["model_type"], slim["slim_type"]) == ("bert", "bert", "prunekit", "bert")
    assert plain["configuration_files"] == ["config.4.0.0.json"]
    assert "configuration_files" not in {**beside, **slim}
    assert {name: plain[name] for name in beside} == beside


def training(folder: Path, model: Any, rows: list[dict[str, Any]]) -> Any:
    options = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    made = TrainingArguments(str(folder), use_cpu=True, dataloader_pin_memory=False, **options)
    return Trainer(model, made, train_dataset=rows, eval_dataset=rows)  # type: ignore[arg-type]


def test_a_trainer_trains_a_readout(tmp_path: Path) -> None:
    model = lines.model_of("BertForSequenceClassification", 2)
    neurons = {1: (0, 3), 3: tuple(range(16))}
    plan = Plan(source=ModelView.of(model).source, readout=ReadoutPlan(pooling="mean", neurons=neurons))
    save_checkpoint(apply(model, plan), lines.tokenizer_of(), plan, tmp_path / "slim")
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "slim")
    ids = torch.tensor([2, 57, 60, 3])
    rows = [{"input_ids": ids, "attention_mask": torch.ones(4, dtype=torch.int64), "labels": at % 2} for at in range(8)]
    trainer = training(tmp_path / "out", found, rows)
    assert trainer.train().global_step == 2
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_trainer_keeps_the_positions_of_answers(tmp_path: Path) -> None:
    model = lines.model_of("BertForQuestionAnswering", 2)
    plan = Plan(source=ModelView.of(model).source, heads={0: (0, 1)})
    save_checkpoint(apply(model, plan), lines.tokenizer_of(), plan, tmp_path / "slim")
    found = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "slim")
    ids = torch.tensor([2, 57, 3, 60, 58, 3])
    rows = [{"input_ids": ids, "attention_mask": torch.ones(6, dtype=torch.int64), "start_positions": 3, "end_positions": 4}] * 8
    trainer = training(tmp_path / "out", found, rows)
    assert trainer.train().global_step == 2
    assert trainer.evaluate()["eval_loss"] > 0


def test_names_that_were_given_are_saved(folder: Path, tmp_path: Path) -> None:
    found = AutoModelForSequenceClassification.from_pretrained(folder)
    found.config.id2label, found.config.label2id = {0: "bad", 1: "good"}, {"bad": 0, "good": 1}
    found.save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.id2label == {0: "bad", 1: "good"}


def test_a_cross_encoder_has_modules_too(folder: Path, tmp_path: Path) -> None:
    """sentence-transformers writes modules.json beside every kind of model."""
    place = Path(shutil.copytree(folder, tmp_path / "slim"))
    (place / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    with torch.no_grad():
        assert torch.equal(prunekit.load(place)(**batch(folder)).logits, prunekit.load(folder)(**batch(folder)).logits)


@pytest.mark.parametrize("uniform", [False, True])
def test_an_embedder_from_a_language_model_loads_again(uniform: bool, tmp_path: Path) -> None:
    model = lines.model_of("BertForMaskedLM")
    lines.save(model, tmp_path / "dense")
    dense = AutoModel.from_pretrained(tmp_path / "dense", add_pooling_layer=False)
    stated = Embedding("cls", False, {"query": "banal "}, "query", max_length=20, similarity="dot")
    plan = Plan(source=ModelView.of(dense).source, ffn=dict.fromkeys(range(3 if uniform else 1), tuple(range(8))))
    slim = apply(EmbeddingModel(dense, stated), plan)
    save_checkpoint(slim, lines.tokenizer_of(), plan, tmp_path / "slim")
    loaded = prunekit.load(tmp_path / "slim")
    assert isinstance(loaded, EmbeddingModel)
    assert loaded.embedding == stated
    with torch.no_grad():
        assert torch.equal(loaded(**batch(tmp_path / "slim")).sentence_embedding, slim(**batch(tmp_path / "slim")).sentence_embedding)


@pytest.mark.parametrize("theirs", [True, False])
def test_what_sentence_transformers_states_is_not_written_over(theirs: bool, tmp_path: Path) -> None:
    version = {"__version__": {"sentence_transformers": "6.2.0"}, "truncate_dim": 4} if theirs else {}
    stated = json.dumps({"prompts": {"query": "motef "}, **version})
    dense = AutoModel.from_pretrained(lines.save(lines.model_of(), tmp_path / "dense"))
    plan = Plan(source=ModelView.of(dense).source, heads={0: (0, 1)})
    save_checkpoint(apply(EmbeddingModel(dense, Embedding()), plan), lines.tokenizer_of(), plan, tmp_path / "slim")
    found = AutoModel.from_pretrained(tmp_path / "slim")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "config_sentence_transformers.json").write_text(stated)
    found.save_pretrained(tmp_path / "again")
    loaded = prunekit.load(tmp_path / "again")
    assert isinstance(loaded, EmbeddingModel)
    assert loaded.embedding.prompts == ({"query": "motef "} if theirs else {})
