from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from prunekit.arch.view import ModelView
from prunekit.benchmark.counts import params_of
from prunekit.errors import ExportError
from prunekit.exporters import quantize as quantizing
from prunekit.exporters.half import halve
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.exporters.quantize import (
    PACKED_LIMIT,
    PRODUCT_LIMIT,
    TABLE_LIMIT,
    balanced,
    fixed_range,
    packed,
    quantizable,
    quantize,
    rounded_columns,
)
from prunekit.runtime.session import OnnxSession
from tests.models import build

WIDTH = 16
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(20, WIDTH)).astype(np.float32)
SQUARE = RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32)
HEAD = RNG.normal(size=(12, WIDTH)).astype(np.float32)
BIAS = RNG.normal(size=12).astype(np.float32)
IDS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])


def small_model(**weights: Any) -> onnx.ModelProto:
    """An embedding, two products that read it with the same weight, and a head with a bias, transposed."""
    values = {"table": TABLE, "square": SQUARE, "head": HEAD, "bias": BIAS, "last": np.array(0), **weights}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="/model/body/words/Gather"),
        helper.make_node("MatMul", ["rows", "square"], ["once"], name="/model/body/one/MatMul"),
        helper.make_node("MatMul", ["once", "square"], ["twice"], name="/model/body/two/MatMul"),
        helper.make_node("Add", ["once", "twice"], ["sum"]),
        helper.make_node("Gather", ["sum", "last"], ["first"], axis=1),
        helper.make_node("Gemm", ["first", "head", "bias"], ["logits"], name="/model/head/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch_size", "sequence_length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", 12])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def weight_bytes(proto: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


def as_uint8(values: np.ndarray) -> np.ndarray:
    """The standard's DynamicQuantizeLinear, written out, and back."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    step = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / step), 0, 255)
    return (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step


def by_columns(weight: np.ndarray, limit: int) -> np.ndarray:
    step = np.abs(weight).max(axis=0) / limit
    return np.rint(weight / step) * step


def test_weights_are_found_by_where_they_are_read() -> None:
    found = quantizable(small_model())
    assert [(weight.name, weight.kind, weight.elements) for weight in found] == [
        ("body.words", "table", 20 * WIDTH),
        ("body.one", "product", WIDTH * WIDTH),
        ("head", "product", 12 * WIDTH),
    ]
    assert found[1].inputs == ("rows", "once")


def test_narrow_weights_and_values_that_are_computed_stay() -> None:
    assert [weight.name for weight in quantizable(small_model(head=HEAD[:3], bias=BIAS[:3]))] == ["body.words", "body.one"]
    tied = small_model()
    tied.graph.node[1].input[1] = "table"
    assert "table" not in {weight.initializer for weight in quantizable(tied)}
    # Read a third time, it stays what it is.
    tied.graph.node.append(helper.make_node("Gather", ["table", "ids"], ["again"]))
    assert "table" not in {weight.initializer for weight in quantizable(tied)}


def test_the_file_computes_what_quantisation_is() -> None:
    """Against the definition in numpy, and run by the standard's own reference implementation."""
    (got,) = ReferenceEvaluator(quantize(small_model())).run(None, {"ids": IDS})
    square = by_columns(SQUARE, PRODUCT_LIMIT)
    once = as_uint8(by_columns(TABLE, TABLE_LIMIT)[IDS]) @ square
    first = (once + as_uint8(once) @ square)[:, 0]
    want = as_uint8(first) @ by_columns(HEAD.T, PRODUCT_LIMIT) + BIAS
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_weight_is_stored_once_and_nothing_is_left_over() -> None:
    made = quantize(small_model())
    stored = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert {name for name, kind in stored.items() if kind == TensorProto.INT8} == {"table_int8", "square_int8", "head_t_int8"}
    assert {"table", "square", "head"}.isdisjoint(stored)
    assert not made.graph.value_info
    assert small_model() == small_model()


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def test_what_is_kept_is_stored_in_half_precision() -> None:
    model = small_model()
    names = [weight.name for weight in quantizable(model)]
    before = ReferenceEvaluator(model).run(None, {"ids": IDS})[0]
    table = quantize(model, bits=dict.fromkeys(names[1:], 16))
    onnx.checker.check_model(table)
    # The square one is read twice.
    stored = {tensor.name: tensor.data_type for tensor in table.graph.initializer}
    assert {name for name, kind in stored.items() if kind == TensorProto.FLOAT16} == {"square_half", "head_half"}
    assert {"square", "head", "table"}.isdisjoint(stored)
    assert "table_int8" in stored
    after = ReferenceEvaluator(table).run(None, {"ids": IDS})[0]
    whole = ReferenceEvaluator(quantize(model)).run(None, {"ids": IDS})[0]
    assert 0 < np.abs(after - before).max() < np.abs(whole - before).max()
    with pytest.raises(ExportError, match="no weight that int8 can hold"):
        quantize(model, bits=dict.fromkeys(names, 16))
    products = quantize(model, bits={"body.words": 16, "head": 16})
    as_stored = small_model(table=half(TABLE), square=by_columns(SQUARE, PRODUCT_LIMIT).astype(np.float32), head=half(HEAD))
    got, want = (ReferenceEvaluator(each).run(None, {"ids": IDS})[0] for each in (products, as_stored))
    # Values are rounded before the product that stays.
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    got, want = (
        ReferenceEvaluator(quantize(small_model(**given), bits=dict.fromkeys(names[:2], 16))).run(None, {"ids": IDS})[0]
        for given in ({}, {"table": half(TABLE), "square": half(SQUARE)})
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("scale", [1e6, 1e-7, 1.0])
def test_a_weight_that_half_precision_cannot_hold_stays_in_single(scale: float) -> None:
    square = SQUARE.copy()
    square[:, 3] *= scale
    made = quantize(small_model(square=square), bits={"body.one": 16})
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    assert ("square" in stored, "square_half" in stored) == (scale != 1, scale == 1)
    if scale != 1:
        np.testing.assert_array_equal(numpy_helper.to_array(stored["square"]), square)


def test_fixed_ranges_leave_a_row_alone_with_itself() -> None:
    """With ranges of their own, rows change with the batch that they are in; with fixed ranges they do not."""
    ranges = {"rows": (-3.0, 3.0), "once": (-20.0, 20.0), "first": (-90.0, 90.0)}
    fixed, dynamic = (ReferenceEvaluator(quantize(small_model(), ranges=given)) for given in (ranges, None))
    alone = {kind: found.run(None, {"ids": IDS[:1]})[0] for kind, found in (("fixed", fixed), ("dynamic", dynamic))}
    np.testing.assert_array_equal(fixed.run(None, {"ids": IDS})[0][:1], alone["fixed"])
    assert (dynamic.run(None, {"ids": IDS})[0][:1] != alone["dynamic"]).any()


def test_nan_stops() -> None:
    broken = SQUARE.copy()
    broken[2, 3] = np.nan
    with pytest.raises(ExportError, match="'square' has NaN"):
        quantize(small_model(square=broken))


@given(st.integers(0, 10_000), st.sampled_from((PRODUCT_LIMIT, TABLE_LIMIT)))
def test_rounding_is_within_half_a_step(seed: int, limit: int) -> None:
    generator = np.random.default_rng(seed)
    weight = (generator.normal(size=(9, 5)) * 10 ** generator.uniform(-6, 6, size=5)).astype(np.float32)
    weight[:, 0] = 0
    rounded, scales = rounded_columns(weight, limit)
    assert rounded.dtype == np.int8
    assert np.abs(rounded).max() <= limit
    assert (np.abs(rounded * scales - weight) <= scales * (0.5 + 1e-3)).all()


def test_a_channel_that_is_far_larger_than_the_others_is_balanced() -> None:
    """The product is the same; what is rounded away is far less, in a head whose weight lies the other way round too."""
    table, square = TABLE.copy(), SQUARE.copy()
    table[:, 3] *= 300
    square[3] /= 300
    model = small_model(table=table, square=square)
    model.graph.node[2].input[0] = "rows"
    keep = {weight.name: 32 for weight in quantizable(model) if weight.name != "body.one"}
    factors = balanced(np.abs(table).max(axis=0), square)
    assert np.log(factors).mean() == pytest.approx(0, abs=1e-5)
    want = ReferenceEvaluator(model).run(None, {"ids": IDS})[0]
    plain, helped = (
        ReferenceEvaluator(quantize(model, bits=keep, balance=given)).run(None, {"ids": IDS})[0] for given in (None, {"body.one": factors})
    )
    assert np.abs(helped - want).max() < 0.2 * np.abs(plain - want).max()
    head = {"head": np.linspace(1, 4, WIDTH, dtype=np.float32)}
    keep = {weight.name: 32 for weight in quantizable(model) if weight.name != "head"}
    turned = ReferenceEvaluator(quantize(model, bits=keep, balance=head)).run(None, {"ids": IDS})[0]
    assert np.abs(turned - want).max() < 0.05 * np.abs(want).max()


def test_products_of_one_value_may_be_balanced_by_different_factors() -> None:
    model = small_model(other=SQUARE[::-1].copy())
    model.graph.node[2].input[:] = ["rows", "other"]
    keep = {weight.name: 32 for weight in quantizable(model) if weight.name not in ("body.one", "body.two")}
    balance = {"body.one": np.geomspace(0.5, 2, WIDTH, dtype=np.float32), "body.two": np.geomspace(2, 0.5, WIDTH, dtype=np.float32)}
    want = ReferenceEvaluator(model).run(None, {"ids": IDS})[0]
    found = ReferenceEvaluator(quantize(model, bits=keep, balance=balance)).run(None, {"ids": IDS})[0]
    assert np.abs(found - want).max() < 0.05 * np.abs(want).max()


@given(st.integers(0, 10_000))
def test_four_numbers_lie_in_three_bytes(seed: int) -> None:
    """Bit by bit, as the docstring says."""
    rounded = np.random.default_rng(seed).integers(-32, 32, size=(3, 8), dtype=np.int8)
    stored = packed(rounded)
    assert (stored.dtype, stored.shape) == (np.uint8, (3, 6))
    for row, numbers in zip(stored, rounded, strict=True):
        bits = "".join(f"{byte:08b}" for byte in row)
        bytes_ = [bits[at : at + 8] for at in range(0, 48, 8)]
        read = [byte[2:] for byte in bytes_] + ["".join(bytes_[at + third][:2] for third in (0, 2, 4)) for at in (0, 1)]
        assert [int(each, 2) - 32 for each in read] == numbers.tolist()


@pytest.mark.parametrize("opset", [17, 18])
def test_a_large_table_is_stored_in_six_bits_where_the_operator_set_can_read_them(opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "LARGE", TABLE.size)
    model = small_model()
    model.opset_import[0].version = opset
    made = quantize(model, bits={"body.one": 16, "head": 16})
    onnx.checker.check_model(made)
    six = opset == 18
    stored = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer if tensor.data_type != TensorProto.INT64}
    assert stored.pop("table_6bit" if six else "table_int8") == ((20, 3 * WIDTH // 4) if six else (20, WIDTH))
    assert params_of(made) == TABLE.size + sum(int(np.prod(shape)) for shape in stored.values())
    got = ReferenceEvaluator(made).run(None, {"ids": IDS})[0]
    table = by_columns(TABLE, PACKED_LIMIT if six else TABLE_LIMIT)
    as_stored = small_model(table=table.astype(np.float32), square=half(SQUARE), head=half(HEAD))
    want = ReferenceEvaluator(as_stored).run(None, {"ids": IDS})[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert [weight.bits for weight in quantizable(model)] == [6 if six else 8, 8, 8]
    wide = quantize(model, bits={"body.one": 16, "head": 16, "body.words": 8})
    assert "table_int8" in {tensor.name for tensor in wide.graph.initializer}
    as_stored = small_model(table=by_columns(TABLE, TABLE_LIMIT).astype(np.float32), square=half(SQUARE), head=half(HEAD))
    got, want = (ReferenceEvaluator(each).run(None, {"ids": IDS})[0] for each in (wide, as_stored))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_zero_is_a_value_of_its_own(low: float, width: float) -> None:
    step, zero = fixed_range(low, low + width)
    assert 0 <= zero <= 255
    assert step > 0
    # The whole range is covered to within a step.
    assert (0 - zero) * step <= min(low, 0) + step
    assert (255 - zero) * step >= max(low + width, 0) - step


def test_no_pair_of_products_overflows_16_bits() -> None:
    assert 2 * 255 * PRODUCT_LIMIT < 2**15


@pytest.mark.needs("onnxruntime")
@pytest.mark.parametrize("case", ["bert", "distilbert", "albert", "gpt2", "modernbert"])
def test_families_run_in_both(case: str, tmp_path: Path) -> None:
    model = build(case, "ForSequenceClassification")
    names, space = ModelView.of(model).inputs, sample_space(model.config)
    export_onnx(model, tmp_path / "model.onnx", inputs=names, space=space)
    proto = onnx.load(str(tmp_path / "model.onnx"))
    feeds = space.batch(3, 8, seed=0, names=names)
    want = OnnxSession(tmp_path / "model.onnx")(feeds)["logits"]
    for made, apart in ((quantize(proto), 0.5), (halve(proto), 0.05)):
        onnx.save_model(made, str(tmp_path / "low.onnx"))
        onnx.checker.check_model(str(tmp_path / "low.onnx"))
        got = OnnxSession(tmp_path / "low.onnx")(feeds)["logits"]
        assert got.dtype == np.float32
        assert 0 < np.abs(got - want).max() < apart * np.abs(want).max()
        assert weight_bytes(made) < weight_bytes(proto)
