from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline

import prunekit
from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.checkpoint import save_checkpoint
from prunekit.exporters.slim_model import SlimForSequenceClassification
from prunekit.plan import Plan
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
