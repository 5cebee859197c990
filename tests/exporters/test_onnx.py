from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from prunekit import __version__
from prunekit.arch.view import ModelView
from prunekit.errors import ExportError, OutputError, ParameterError
from prunekit.exporters import onnx as exporter
from prunekit.exporters.onnx import InputSpace, export_onnx, sample_space
from prunekit.exporters.parity import check_parity
from prunekit.plan import Plan, ReadoutPlan
from prunekit.runtime.session import OnnxSession
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import set_readout
from tests.models import CASES, build

pytestmark = pytest.mark.needs("onnxruntime")


def export(model: nn.Module, path: Path, **changes: Any) -> exporter.OnnxFile:
    view = ModelView.of(model)
    return export_onnx(model, path, **{"inputs": view.inputs, "space": sample_space(view.config), **changes})


def parity(model: nn.Module, path: Path, **changes: Any) -> float:
    view = ModelView.of(model)
    return check_parity(path, model, inputs=view.inputs, space=sample_space(view.config), **changes).max_abs_difference


@pytest.mark.parametrize("case", CASES)
def test_every_family_computes_the_same_at_every_shape(case: str, tmp_path: Path) -> None:
    model = build(case, "ForSequenceClassification")
    path = export(model, tmp_path / "model.onnx").path
    assert parity(model, path) < 2e-5


@pytest.mark.parametrize("case", ["bert", "roberta", "modernbert", "xlnet"])
def test_outputs_per_token_keep_their_axes(case: str, tmp_path: Path) -> None:
    model = build(case, "ForTokenClassification")
    path = export(model, tmp_path / "model.onnx").path
    assert OnnxSession(path).per_token == {"logits"}
    assert parity(model, path) < 2e-5


def test_axes_are_found_where_sizes_coincide(tmp_path: Path) -> None:
    # As many classes as there are tokens in the traced batch, and as rows.
    for labels in (7, 2):
        model = build("bert", "ForSequenceClassification", num_labels=labels)
        graph = onnx.load(str(export(model, tmp_path / "model.onnx").path)).graph
        (shape,) = [[axis.dim_param or axis.dim_value for axis in node.type.tensor_type.shape.dim] for node in graph.output]
        assert shape == ["batch_size", labels]


def test_two_outputs_of_question_answering(tmp_path: Path) -> None:
    model = build("bert", "ForQuestionAnswering")
    file = export(model, tmp_path / "model.onnx", outputs=("start_logits", "end_logits"))
    assert OnnxSession(file.path).per_token == {"start_logits", "end_logits"}
    assert parity(model, file.path) < 2e-5


def test_a_pruned_model_with_a_readout(tmp_path: Path) -> None:
    model = build("bert", "ForSequenceClassification")
    plan = Plan(
        source=ModelView.of(model).source,
        ffn={0: (1, 2), 1: ()},
        heads={0: (0, 3), 1: ()},
        readout=ReadoutPlan(pooling="mean", neurons={0: (0, 3), 2: (4,)}),
    )
    slim = apply(model, plan)
    set_readout(slim, torch.linspace(-1, 1, 9).reshape(3, 3), torch.ones(3))
    assert parity(slim, export(slim, tmp_path / "model.onnx").path) < 2e-5


def test_inputs_that_a_pruned_graph_does_not_use_can_still_be_fed(tmp_path: Path) -> None:
    # The embedding output alone, read at [CLS]: no attention, so no mask.
    model = build("bert", "ForSequenceClassification")
    slim = apply(model, Plan(source=ModelView.of(model).source, readout=ReadoutPlan(pooling="cls", neurons={0: (1, 2)})))
    set_readout(slim, torch.ones(3, 2), torch.zeros(3))
    path = export(slim, tmp_path / "model.onnx").path
    assert OnnxSession(path).inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert parity(slim, path) < 2e-5


def test_the_model_is_as_before(tmp_path: Path) -> None:
    model = build("bert", "ForSequenceClassification").train()
    model.bert.encoder.eval()
    before = {name: module.training for name, module in model.named_modules()}
    implementation, cache, state = model.config._attn_implementation, model.config.use_cache, torch.random.get_rng_state()
    export(model, tmp_path / "model.onnx")
    assert {name: module.training for name, module in model.named_modules()} == before
    assert (model.config._attn_implementation, model.config.use_cache) == (implementation, cache) == ("sdpa", True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_attention_is_eager(tmp_path: Path) -> None:
    model = build("roberta", "ForSequenceClassification")
    nodes = {node.op_type for node in onnx.load(str(export(model, tmp_path / "model.onnx").path)).graph.node}
    assert "Softmax" in nodes
    assert not {"IsNaN", "If", "Loop"} & nodes


@pytest.mark.parametrize("route", ["torchscript", "dynamo"])
def test_what_the_file_says_of_itself(route: Any, tmp_path: Path) -> None:
    model = build("distilbert", "ForSequenceClassification")
    file = export(model, tmp_path / "a" / "model.onnx", metadata={"prunekit.plan": "abc"}, route=route)
    proto = onnx.load(str(file.path))
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"prunekit.version": __version__, "prunekit.plan": "abc"}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)] == [("", file.opset)]
    assert not proto.graph.value_info
    assert [node.name for node in proto.graph.input] == ["input_ids", "attention_mask"] == list(file.inputs)
    assert file.bytes == file.path.stat().st_size
    assert file.route == route
    # Which machine made it is nobody's business.
    assert not re.search(rb"/site-packages/|[.]py\b|stack_trace", file.path.read_bytes())


def test_shared_layers_are_stored_once(tmp_path: Path) -> None:
    sizes = []
    for layers in (2, 5):
        model = build("albert", "ForSequenceClassification", num_hidden_layers=layers)
        path = export(model, tmp_path / "model.onnx").path
        sizes.append(sum(len(tensor.raw_data) for tensor in onnx.load(str(path)).graph.initializer))
    block = 4 * sum(parameter.numel() for parameter in model.albert.encoder.albert_layer_groups.parameters())
    assert sizes[1] - sizes[0] < block / 10


def test_a_large_model_keeps_its_weights_in_one_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("bert", "ForSequenceClassification")
    whole = export(model, tmp_path / "whole.onnx")
    monkeypatch.setattr(exporter, "SINGLE_FILE", 10_000)
    file = export(model, tmp_path / "model.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"whole.onnx", "model.onnx", "model.onnx_data"}
    assert file.bytes == sum((tmp_path / name).stat().st_size for name in ("model.onnx", "model.onnx_data"))
    assert file.path.stat().st_size < whole.bytes / 1.5
    assert parity(model, file.path) < 2e-5
    monkeypatch.undo()
    export(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx_data").exists()


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("bert", "ForSequenceClassification")

    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match="BertForSequenceClassification cannot be exported to ONNX: no such operator"):
        export(model, tmp_path / "model.onnx")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left on device"):
        export(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opset": 9}, "'opset' parameter of export_onnx must be 17 to 20. Got 9"),
        ({"inputs": ("input_ids", "pixel_values")}, "'inputs' parameter of export_onnx must be of input_ids"),
        ({"inputs": ()}, "Got 'nothing'"),
        ({"outputs": ("logits", "scores")}, "scores"),
        ({"outputs": ("logits", "hidden_states")}, "fields that the model fills"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        export(build("bert", "ForSequenceClassification"), tmp_path / "model.onnx", **changes)
    assert not list(tmp_path.iterdir())


def test_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"must be in float32\. Got 'torch\.bfloat16' instead\. Call model\.float"):
        export(build("bert", "ForSequenceClassification").bfloat16(), tmp_path / "model.onnx")


def test_nothing_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        export(build("gpt2", "ForSequenceClassification"), tmp_path / "model.onnx")
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("side", ["right", "left"])
def test_drawn_batches_are_valid(side: Any) -> None:
    space = InputSpace(vocab_size=5, pad_id=2, padding_side=side, type_vocab_size=3)
    names = ("input_ids", "attention_mask", "token_type_ids")
    for seed in range(20):
        batch = space.batch(4, 6, seed=seed, names=names)
        mask = batch["attention_mask"].astype(bool)
        assert ((batch["input_ids"] == 2) == ~mask).all()
        assert mask.any(axis=1).all()
        assert mask[0].all()
        assert set(np.unique(batch["input_ids"])) <= set(range(5))
        assert (np.diff(mask.astype(int), axis=1) * (1 if side == "left" else -1) >= 0).all()
        assert batch["token_type_ids"].max() < 3
        assert all(array.dtype == np.int64 and array.shape == (4, 6) for array in batch.values())
    assert (space.batch(4, 6, seed=1, names=names)["input_ids"] == space.batch(4, 6, seed=1, names=names)["input_ids"]).all()


def test_the_space_of_a_config_is_one_that_the_model_accepts() -> None:
    for case in ("roberta", "bert", "gpt2", "xlnet"):
        model = build(case)
        space = sample_space(model.config)
        batch = space.batch(2, min(space.max_length, 60), seed=0, names=ModelView.of(model).inputs)
        assert model(**{name: torch.from_numpy(array) for name, array in batch.items()}).last_hidden_state.isfinite().all()
