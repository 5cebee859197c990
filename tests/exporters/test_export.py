from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

import prunekit
from prunekit import cli
from prunekit.arch.embedding import Embedding, EmbeddingModel, embedding_of, save_modules
from prunekit.arch.view import ModelView
from prunekit.errors import OutputError, ParameterError, ParityError, PrunekitError, UnsupportedError
from prunekit.exporters import export as exporting
from prunekit.exporters.checkpoint import save_checkpoint
from prunekit.exporters.export import export
from prunekit.exporters.onnx import export_onnx
from prunekit.exporters.source import load_source
from prunekit.plan import Plan
from prunekit.runtime.session import OnnxSession
from prunekit.transforms.apply import apply
from tests import lines
from tests.models import batch_of, build

pytestmark = pytest.mark.needs("onnxruntime")


def saved(head: str, folder: Path, **named: Any) -> Path:
    return lines.save(lines.model_of(head, **named), folder)


@pytest.mark.parametrize(
    ("head", "name", "outputs"),
    [
        ("BertModel", "feature-extraction", ("last_hidden_state", "sentence_embedding")),
        ("BertForSequenceClassification", "text-classification", ("logits",)),
        ("BertForTokenClassification", "token-classification", ("logits",)),
        ("BertForQuestionAnswering", "question-answering", ("start_logits", "end_logits")),
    ],
)
def test_every_head(head: str, name: str, outputs: tuple[str, ...], tmp_path: Path) -> None:
    source = saved(head, tmp_path / "dense")
    done = prunekit.export(source, tmp_path / "out")
    assert (done.report.head, done.report.outputs) == (name, outputs)
    session = OnnxSession(done.path / "onnx" / "model.onnx")
    assert session.outputs == outputs
    rows = AutoTokenizer.from_pretrained(done.path)(["banal dunal", "moral"], padding=True, return_tensors="np", return_token_type_ids=True)
    model = lines.model_of(head)
    with torch.no_grad():
        want = model(**{key: torch.from_numpy(rows[key]) for key in session.inputs})
    got = session({key: rows[key] for key in session.inputs})
    for output in set(outputs) - {"sentence_embedding"}:
        mask = rows["attention_mask"].astype(bool) if output in session.per_token else slice(None)
        assert np.abs(got[output] - getattr(want, output).numpy())[mask].max() < 1e-5
    assert AutoConfig.from_pretrained(done.path).architectures == [head]


def test_parity_is_checked_at_length_one_at_the_maximum_and_with_padding(tmp_path: Path) -> None:
    report = export(saved("BertForSequenceClassification", tmp_path / "dense"), tmp_path / "out").report
    shapes = [(shape.batch, shape.length) for shape in report.parity.shapes]
    assert {length for _, length in shapes} >= {1, 64}
    assert max(rows for rows, _ in shapes) > 1
    assert report.max_length == 64
    assert report.parity.max_abs_difference < 1e-5
    assert json.loads((tmp_path / "out" / "export.json").read_text())["parity"]["tolerance"] == 1e-4


def test_a_slim_directory(tmp_path: Path) -> None:
    model = lines.model_of("BertForSequenceClassification")
    plan = Plan(source=ModelView.of(model).source, heads={0: (0,), 1: (1, 3), 2: ()}, ffn={1: (0, 5, 9), 2: ()})
    slim = apply(model, plan)
    save_checkpoint(slim, lines.tokenizer_of(), plan, tmp_path / "slim")
    done = export(tmp_path / "slim", tmp_path / "out")
    assert done.report.plan == plan.digest
    assert Plan.load(tmp_path / "out" / "plan.json") == plan
    assert done.report.bytes < export(saved("BertForSequenceClassification", tmp_path / "dense"), tmp_path / "all").report.bytes


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("case", ["bert", "gpt2"])
def test_the_embedding_is_that_of_the_padded_text_alone(case: str, pooling: Any) -> None:
    body = build(case)
    view = ModelView.of(body)
    batch = {name: tensor for name, tensor in batch_of().items() if name in view.inputs}
    mask = batch["attention_mask"]
    with torch.no_grad():
        found = EmbeddingModel(body, Embedding(pooling)).eval()(**batch)
    for row in range(len(mask)):
        real = found.last_hidden_state[row][mask[row].bool()]
        # A causal model's first token has seen nothing: its [CLS] is the last one.
        at = 0 if pooling == "cls" and case == "bert" else -1
        want = real.mean(dim=0) if pooling == "mean" else real[at]
        assert torch.allclose(found.sentence_embedding[row], want / want.norm(), atol=1e-6)


def sentence_transformers(folder: Path, modules: list[str], **pooling: Any) -> Path:
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    listed = [{"path": "1_Pooling" if kind == "Pooling" else "", "type": f"sentence_transformers.models.{kind}"} for kind in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_the_pooling_is_the_checkpoints_own(tmp_path: Path) -> None:
    whole = ["Transformer", "Pooling", "Normalize"]
    assert embedding_of(tmp_path, None) == Embedding("mean", True)
    assert embedding_of(tmp_path, "cls") == Embedding("cls", True)
    cls = sentence_transformers(tmp_path, whole, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    assert embedding_of(cls, None) == Embedding("cls", True)
    last = sentence_transformers(tmp_path, whole[:2], pooling_mode="lasttoken")
    assert embedding_of(last, None) == Embedding("last", False)
    for modules, says, pooling in (
        ([*whole, "LSTM"], "module LSTM", {"pooling_mode_cls_token": True}),
        (whole, "mean, max", {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}),
    ):
        with pytest.raises(UnsupportedError, match=says):
            embedding_of(sentence_transformers(tmp_path, modules, **pooling), None)


def test_the_longest_text_is_where_sentence_transformers_states_it(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path, ["Transformer", "Pooling"], pooling_mode_mean_tokens=True)
    lines.tokenizer_of().save_pretrained(folder)
    assert embedding_of(folder, None).max_length is None  # the tokenizer's huge number
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**fields, "model_max_length": 37}))
    assert embedding_of(folder, None).max_length == 37
    (folder / "sentence_camembert_config.json").write_text('{"max_seq_length": 21}')
    assert embedding_of(folder, None).max_length == 21


def test_an_embedder_is_exported_with_its_modules(tmp_path: Path) -> None:
    folder = saved("BertModel", tmp_path / "dense")
    stated = Embedding("cls", False, {"query": "banal "}, max_length=30)
    save_modules(EmbeddingModel(lines.model_of(), stated, torch.nn.Linear(16, 4)), folder)
    export(folder, tmp_path / "out")
    assert embedding_of(tmp_path / "out", None) == embedding_of(folder, None)
    assert (tmp_path / "out" / "2_Dense" / "model.safetensors").is_file()


def test_an_embedder_of_the_hub_keeps_its_pooling(tmp_path: Path) -> None:
    """What a name on the hub names is in the hub's cache."""
    repository = tmp_path / "hub" / "models--org--embedder"
    snapshot = repository / "snapshots" / ("0" * 40)
    saved("BertModel", snapshot)
    save_modules(EmbeddingModel(lines.model_of(), Embedding("cls", False, max_length=30)), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "prunekit", "export", "org/embedder", "--out", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert embedding_of(tmp_path / "out", None) == Embedding("cls", False, max_length=30)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "fp8"}, "'dtype' parameter of export must be one of fp32, fp16, int8, int8-static. Got 'fp8'"),
        ({"optimize": "O4"}, "'optimize' parameter of export must be one of none, O1. Got 'O4'"),
        ({"device": "tpu"}, "'device' parameter of export must be one of cpu, cuda"),
        ({"opset": 9}, "'opset' parameter"),
        ({"max_length": 65}, "'max_length' parameter of export must be 1 to 64"),
        ({"pooling": "cls"}, "'pooling' parameter of export must be left out for a model with a head"),
    ],
)
def test_mistakes(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    model = saved("BertForSequenceClassification", tmp_path / "dense")
    with pytest.raises(ParameterError, match=says):
        export(model, tmp_path / "out", **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def off_by(amount: float, route: str = "") -> Any:
    """`export_onnx`, of a model whose bias is off, if it goes by this route."""

    def other(model: Any, path: Path, **named: Any) -> Any:
        off = amount if not route or named["route"] == route else 0.0
        model.classifier.bias.data += off
        file = export_onnx(model, path, **named)
        model.classifier.bias.data -= off
        return file

    return other


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved("BertForSequenceClassification", tmp_path / "dense")
    monkeypatch.setattr(exporting, "export_onnx", off_by(1e-3))
    monkeypatch.setattr(exporting, "routes_of", lambda _: ("torchscript",))
    with pytest.raises(ParityError, match=r"differs from the PyTorch model by 0\.001"):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_the_next_route_is_taken_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved("BertForSequenceClassification", tmp_path / "dense")
    monkeypatch.setattr(exporting, "export_onnx", off_by(1e-3, "torchscript"))
    assert cli.main(["export", str(model), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}\n"
    lines = said.err.splitlines()
    assert [line.partition(": The ONNX file differs")[0] for line in lines] == [
        f"note: a route failed, the next one was taken: torchscript, passes {level}" for level in ("O1", "none")
    ]
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (report["route"], report["optimize"], len(report["failed"])) == ("dynamo", "O1", 2)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved("BertForSequenceClassification", tmp_path / "dense")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_write_model_files", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_what_export_wrote_can_be_replaced_when_asked(tmp_path: Path) -> None:
    model = saved("BertForSequenceClassification", tmp_path / "dense")
    export(model, tmp_path / "out")
    with pytest.raises(ParameterError, match="Add --overwrite"):
        export(model, tmp_path / "out")
    assert export(model, tmp_path / "out", overwrite=True, max_length=9).report.max_length == 9
    assert load_source(model).space.max_length == 64


def test_data_lowers_a_file_as_compress_does(tmp_path: Path) -> None:
    made = lines.line("uniform")
    done = export(made.path, tmp_path / "out", dtype="int8", data=lines.data("text"))
    deployed = made.report.files[1]
    assert done.report.weights == deployed.weights
    assert done.report.data == "text"
    assert done.report.metric == "accuracy"
    found = done.report.scores["int8"]
    assert (found.value, found.low, found.high, found.agreement) == (deployed.value, deployed.low, deployed.high, deployed.agreement)
    assert found.error == pytest.approx(deployed.error)
    assert done.report.scores["fp32"].value == made.report.files[0].value
    assert json.loads((done.path / "export.json").read_text())["scores"]["int8"]["value"] == found.value


def test_static_ranges_come_from_train(tmp_path: Path) -> None:
    source = lines.checkpoint("tokens")
    with pytest.raises(ParameterError, match=r"'data' parameter of export must be given for int8-static.*Give --data NAME"):
        export(source, tmp_path / "out", dtype="int8-static")
    done = export(source, tmp_path / "out", dtype="int8-static", data=lines.data("tokens"), columns={"metric": "f1"})
    kinds = {node.op_type for node in onnx.load(str(done.path / "onnx" / "model_quantized.onnx")).graph.node}
    assert "QuantizeLinear" in kinds
    assert "DynamicQuantizeLinear" not in kinds
    assert done.report.metric == "f1"
    assert set(done.report.scores) == {"fp32", "int8-static"}
    # Train of other words has other ranges.
    other = lines.write_rows(tmp_path / "rows", {"train": [{"tokens": ["banal"] * 3, "tags": [f"LABEL_{tag}" for tag in range(3)]}] * 70})
    for name in ("validation", "test"):
        (other / f"{name}.jsonl").write_bytes((lines.data("tokens") / f"{name}.jsonl").read_bytes())
    narrow = export(source, tmp_path / "narrow", dtype="int8-static", data=other, columns={"metric": "f1"})
    one, two = ((each.path / "onnx" / "model_quantized.onnx").read_bytes() for each in (done, narrow))
    assert one != two


def test_an_encoder_is_compared_on_the_datas_rows(tmp_path: Path) -> None:
    done = export(lines.checkpoint("base"), tmp_path / "out", dtype="int8", data=lines.data("topics"))
    assert (done.report.metric, done.report.scores) == (None, {})
    assert done.report.fidelity is not None
    assert 0 < done.report.fidelity.error < 0.05
    # Together they pass the gate, so that none was tried alone.
    assert done.report.weights == ()


@pytest.mark.parametrize(("model", "rows"), [("sequence", "tokens"), ("tokens", "text"), ("pairs", "topics")])
def test_data_must_be_for_the_head(model: str, rows: str, tmp_path: Path) -> None:
    # Labels that the head does not have are said first.
    with pytest.raises(PrunekitError, match=r"'data' parameter of export must be for the model's head|does not fit the model: it holds"):
        export(lines.checkpoint(model), tmp_path / "out", data=lines.data(rows))
    assert not list(tmp_path.iterdir())
