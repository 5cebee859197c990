from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, ParityError
from prunekit.exporters.artefact import ArtefactWriter
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.exporters.parity import SHAPES, check_parity
from prunekit.plan import Plan, ReadoutPlan
from prunekit.runtime.records import Parity
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import set_readout
from tests.models import batch_of, build

pytestmark = pytest.mark.needs("onnxruntime")


def export(model: nn.Module, path: Path, **changes: Any) -> Path:
    view = ModelView.of(model)
    return export_onnx(model, path, inputs=view.inputs, space=sample_space(view.config), **changes).path


def check(model: nn.Module, path: Path, **changes: Any) -> Parity:
    view = ModelView.of(model)
    return check_parity(path, model, **{"inputs": view.inputs, "space": sample_space(view.config), **changes})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model = build("bert", "ForSequenceClassification")
    return model, export(model, tmp_path_factory.mktemp("exported") / "model.onnx")


def test_the_shapes_are_those_that_break_exports(exported: tuple[nn.Module, Path]) -> None:
    found = check(*exported)
    assert [(row.batch, row.length) for row in found.shapes] == [*SHAPES, (2, 40)]
    assert {(1, 1), (4, 1)} <= set(SHAPES)
    assert found.max_abs_difference == max(row.max_abs_difference for row in found.shapes) < 2e-5
    assert check(*exported) == found


def test_real_batches_are_compared_as_well(exported: tuple[nn.Module, Path]) -> None:
    batch = {name: tensor.numpy() for name, tensor in batch_of(rows=5).items()}
    found = check(*exported, shapes=(), batches=[batch])
    assert [(row.batch, row.length) for row in found.shapes] == [(5, 9)]


def test_products_that_cancel_may_differ_by_their_rounding(tmp_path: Path) -> None:
    dense = ModelView.of(build("bert"))
    plan = Plan(source=dense.source, readout=ReadoutPlan(pooling="cls", neurons={1: tuple(range(dense.hidden_size))}))
    model = apply(dense.model, plan)
    weight = np.where(np.arange(dense.hidden_size) % 2, 4e3, -4e3) * np.ones((3, 1))
    set_readout(model, weight, np.zeros(3))
    found = check(model, export(model, tmp_path / "model.onnx"))
    largest = max(row.largest for row in found.shapes)
    assert largest < max(row.addends for row in found.shapes)
    # The same error of a model whose outputs are so small that nothing cancels is one.
    set_readout(model, weight / 4e3, np.zeros(3))
    with pytest.raises(ParityError):
        check(model, tmp_path / "model.onnx")
    assert all(row.addends == 0.0 for row in check(build("bert", "ForSequenceClassification", seed=3), _other(tmp_path)).shapes)


def _other(folder: Path) -> Path:
    return export(build("bert", "ForSequenceClassification", seed=3), folder / "other.onnx")


@pytest.mark.parametrize("size", [1e-2, 1.0])
def test_a_planted_error_is_found(exported: tuple[nn.Module, Path], size: float, tmp_path: Path) -> None:
    model, path = exported
    proto = onnx.load(str(path))
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name.endswith("classifier.weight"))
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] += size
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, str(tmp_path / "model.onnx"))
    with pytest.raises(ParityError, match=r"differs from the PyTorch model by .* at batch \d x length \d+; .* is allowed"):
        check(model, tmp_path / "model.onnx")


def test_one_output_that_is_wrong_is_not_averaged_away(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = exported
    allowed = 1e-3
    proto = onnx.load(str(path))
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name.endswith("classifier.bias"))
    values = numpy_helper.to_array(tensor).copy()
    # Of three outputs one differs, by twice what is allowed: the mean difference is two thirds of it.
    values[0] += 2 * allowed
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, str(tmp_path / "model.onnx"))
    with pytest.raises(ParityError, match=r"by 0\.002 at"):
        check(model, tmp_path / "model.onnx", tolerance=allowed, relative=0.0)


def test_one_weight_of_the_model_makes_a_difference(exported: tuple[nn.Module, Path]) -> None:
    model = build("bert", "ForSequenceClassification")
    check(model, exported[1])
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] += 0.5
    with pytest.raises(ParityError):
        check(model, exported[1])


def test_what_is_allowed_is_absolute_and_a_little_relative(exported: tuple[nn.Module, Path]) -> None:
    apart = check(*exported, relative=0.0).max_abs_difference
    assert apart > 0
    assert check(*exported, tolerance=apart, relative=0.0).max_abs_difference == apart
    with pytest.raises(ParityError):
        check(*exported, tolerance=0.9 * apart, relative=0.0)
    check(*exported, tolerance=0.0, relative=1e-3)


def test_padding_is_not_compared_where_there_is_an_output_for_each_token(tmp_path: Path) -> None:
    class Off(nn.Module):
        """Logits that are far off where the mask has a value."""

        def __init__(self, model: nn.Module, where: int) -> None:
            super().__init__()
            self.model, self.where = model, where

        def forward(self, **inputs: torch.Tensor) -> Any:
            found = self.model(**inputs)
            found.logits = found.logits + 100 * (inputs["attention_mask"] == self.where)[:, :, None]
            return found

    model = build("bert", "ForTokenClassification")
    view = ModelView.of(model)
    path = export(model, tmp_path / "model.onnx")
    given = {"inputs": view.inputs, "space": sample_space(view.config)}
    assert check_parity(path, Off(model, 0), **given).max_abs_difference < 2e-5
    with pytest.raises(ParityError):
        check_parity(path, Off(model, 1), **given)


def test_nan_on_either_side_fails(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model = build("bert", "ForSequenceClassification")
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(ParityError, match="The PyTorch model gives NaN"):
        check(model, exported[1])
    broken = export(model, tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="The ONNX file gives NaN"):
        check(model, broken)
    with pytest.raises(ParityError, match="The ONNX file gives NaN"):
        check(exported[0], broken)


def test_another_shape_fails(exported: tuple[nn.Module, Path]) -> None:
    with pytest.raises(ParityError, match=r"gives shape \(1, 3\) .* gives \(1, 5\)"):
        check(build("bert", "ForSequenceClassification", num_labels=5), exported[1])


def test_dropout_does_not_count_and_modes_are_as_before(exported: tuple[nn.Module, Path]) -> None:
    model = build("bert", "ForSequenceClassification").train()
    check(model, exported[1])
    assert all(module.training for module in model.modules())


def test_a_broken_file_is_a_model_error(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be loaded"):
        check(exported[0], tmp_path / "model.onnx")


def test_a_failed_parity_check_leaves_no_artefact(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model = build("bert", "ForSequenceClassification", seed=1)
    out = tmp_path / "new" / "slim"

    def compress() -> None:
        with ArtefactWriter(out) as folder:
            (folder / "model.onnx").write_bytes(exported[1].read_bytes())
            check(model, folder / "model.onnx")

    with pytest.raises(ParityError):
        compress()
    assert not list(tmp_path.iterdir())


def test_long_shapes_are_cut_to_what_the_model_takes(exported: tuple[nn.Module, Path]) -> None:
    found = check(*exported, shapes=((2, 500), (2, 600)))
    assert [row.length for row in found.shapes] == [sample_space(exported[0].config).max_length]
    assert np.isfinite(found.max_abs_difference)
