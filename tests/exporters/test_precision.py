from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from prunekit.errors import StatisticsError
from prunekit.exporters import quantize as quantizing
from prunekit.exporters.fidelity import Replies, fidelity, fidelity_of, replies
from prunekit.exporters.int8_gate import Int8Gate
from prunekit.exporters.onnx import InputSpace, OnnxFile, export_onnx, onnx_bytes, sample_space
from prunekit.exporters.precision import bytes_in, lower, ranges_of
from prunekit.exporters.quantize import quantizable
from prunekit.runtime.records import Fidelity
from prunekit.runtime.session import OnnxSession
from tests.models import build

pytestmark = pytest.mark.needs("onnxruntime")
NAMES = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    """A BERT of which one weight has an outlier in each column, so that int8 rounds the rest of it away."""
    model: Any = build("bert", "ForSequenceClassification")
    dense = model.bert.encoder.layer[2].intermediate.dense
    dense.weight.data[:, 5] *= 60
    return export_onnx(model, tmp_path_factory.mktemp("file") / "model.onnx", inputs=NAMES, space=sample_space(model.config))


def batches(count: int = 4) -> list[dict[str, np.ndarray]]:
    return [InputSpace(50, 1, max_length=20).batch(6, 8, seed=seed, names=NAMES) for seed in range(count)]


def test_the_weight_that_costs_above_its_share_stays(file: OnnxFile, tmp_path: Path) -> None:
    plain = lower(file, tmp_path / "plain.onnx", "int8", search=batches(), gate=Int8Gate(np.inf, 0))
    assert plain.fidelity is not None
    gate = Int8Gate(plain.fidelity.error / 8, 0)
    found = lower(file, tmp_path / "low.onnx", "int8", search=batches(), gate=gate)
    assert found.fidelity is not None
    assert gate.passes(found.fidelity)
    kept = {weight.name for weight in found.weights if weight.kept}
    names = {weight.name: weight for weight in quantizable(onnx.load(str(file.path)))}
    assert kept < {weight.name for weight in found.weights} == names.keys()
    stored = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in onnx.load(str(tmp_path / "low.onnx")).graph.initializer}
    assert {name for name in names if f"{names[name].initializer}_half" in stored} == kept
    errors = [weight.error for weight in found.weights]
    assert errors == sorted(errors, reverse=True)
    assert sum(weight.share for weight in found.weights) == pytest.approx(1)
    assert sum(weight.bytes_share for weight in found.weights) == pytest.approx(1)
    assert all(weight.share > weight.bytes_share for weight in found.weights if weight.kept)


def test_no_more_stays_than_there_is_room_for(tmp_path: Path) -> None:
    model: Any = build("bert", "ForSequenceClassification", intermediate_size=400)
    file = export_onnx(model, tmp_path / "model.onnx", inputs=NAMES, space=sample_space(model.config))
    plain = lower(file, tmp_path / "plain.onnx", "int8")
    gate = Int8Gate(0.0, 1)
    tight = lower(file, tmp_path / "tight.onnx", "int8", search=batches(), gate=gate, most=plain.file.bytes)
    free = lower(file, tmp_path / "free.onnx", "int8", search=batches(), gate=gate)
    # A weight that is small takes fewer bytes than the nodes that read it in int8.
    assert tight.file.bytes <= plain.file.bytes < free.file.bytes
    bits = {name: {each.name: each.bits or 0 for each in found.weights} for name, found in (("tight", tight), ("free", free))}
    assert all(bits["tight"][name] <= more for name, more in bits["free"].items() if more > 8)
    assert sum(bits["tight"].values()) < sum(bits["free"].values())


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int8-static"])
def test_the_bytes_of_a_file_in_lower_precision_are_known_beforehand(file: OnnxFile, dtype: Any, tmp_path: Path) -> None:
    made = lower(file, tmp_path / "low.onnx", dtype, calibration=batches())
    assert bytes_in(file, dtype) == made.file.bytes


def test_weights_stay_by_their_cost_per_byte(tmp_path: Path) -> None:
    """Wide FFNs cost more than projections of attention do, and save far more."""
    model: Any = build("bert", "ForSequenceClassification", intermediate_size=400)
    file = export_onnx(model, tmp_path / "model.onnx", inputs=NAMES, space=sample_space(model.config))
    plain = lower(file, tmp_path / "plain.onnx", "int8", search=batches(), gate=Int8Gate(np.inf, 0))
    assert plain.fidelity is not None
    found = lower(file, tmp_path / "low.onnx", "int8", search=batches(), gate=Int8Gate(plain.fidelity.error / 10, 0))
    per_byte = {kept: [weight.share / weight.bytes_share for weight in found.weights if weight.kept == kept] for kept in (True, False)}
    assert per_byte[True]
    assert min(per_byte[True]) >= max(per_byte[False])


def test_a_large_table_has_eight_bits_before_it_has_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model: Any = build("bert", "ForSequenceClassification", vocab_size=400)
    file = export_onnx(model, tmp_path / "model.onnx", inputs=NAMES, space=sample_space(model.config))
    names = {weight.name: weight for weight in quantizable(onnx.load(str(file.path)))}
    (table,) = (name for name in names if name.endswith("word_embeddings"))
    monkeypatch.setattr(quantizing, "LARGE", names[table].elements)

    def wide(trial: Path) -> bool:
        stored = {tensor.name for tensor in onnx.load(str(trial)).graph.initializer}
        return not any(name.endswith(quantizing.SIX_BITS) for name in stored)

    found = lower(file, tmp_path / "low.onnx", "int8", search=batches(), gate=Int8Gate(np.inf, 0), accept=wide)
    assert [(weight.bits, weight.kept) for weight in found.weights if weight.name == table] == [(8, False)]
    assert f"{names[table].initializer}_int8" in {tensor.name for tensor in onnx.load(str(found.file.path)).graph.initializer}


def test_nothing_stays_where_the_tolerance_allows_it(file: OnnxFile, tmp_path: Path) -> None:
    loose = lower(file, tmp_path / "loose.onnx", "int8", search=batches(), gate=Int8Gate(np.inf, 0))
    assert not any(weight.kept for weight in loose.weights)
    assert loose.fidelity is not None
    strict = lower(file, tmp_path / "strict.onnx", "int8", search=batches(), gate=Int8Gate(loose.fidelity.error / 2, 0))
    assert strict.fidelity is not None
    assert strict.fidelity.error < loose.fidelity.error
    # Balancing takes nodes, which in a file this small weigh more than a weight or two.
    assert loose.file.bytes < min(strict.file.bytes, file.bytes)
    assert loose.file.bytes == onnx_bytes(tmp_path / "loose.onnx")
    blind = lower(file, tmp_path / "blind.onnx", "int8")
    assert (blind.weights, blind.fidelity) == ((), None)
    assert (tmp_path / "blind.onnx").read_bytes() == (tmp_path / "loose.onnx").read_bytes()


def test_inputs_are_balanced_where_that_is_less_of_an_error(file: OnnxFile, tmp_path: Path) -> None:
    plain = lower(file, tmp_path / "plain.onnx", "int8", search=batches(), gate=Int8Gate(np.inf, 0))
    assert plain.fidelity is not None
    found = lower(file, tmp_path / "low.onnx", "int8", search=batches(), gate=Int8Gate(0.99 * plain.fidelity.error, 0))
    assert found.fidelity is not None
    assert found.fidelity.error < plain.fidelity.error
    balances = {tensor.name for tensor in onnx.load(str(found.file.path)).graph.initializer if tensor.name.endswith("_balance")}
    # Query, key and value read one input, which is balanced once.
    products = [weight for weight in quantizable(onnx.load(str(file.path))) if weight.kind == "product"]
    assert set(found.balanced) == {weight.name for weight in products}
    assert len(balances) == len({weight.inputs for weight in products}) < len(products)
    assert plain.balanced == ()
    assert found.weights == ()
    static = lower(file, tmp_path / "static.onnx", "int8-static", search=batches(), calibration=batches(), gate=Int8Gate(0.0, 1))
    assert not any(weight.balanced for weight in static.weights)
    assert static.balanced == ()


def test_weights_stay_until_the_file_is_accepted(file: OnnxFile, tmp_path: Path) -> None:
    seen: list[Path] = []

    def third(trial: Path) -> bool:
        seen.append(trial)
        return len(seen) > 3

    found = lower(file, tmp_path / "low.onnx", "int8", search=batches(), gate=Int8Gate(np.inf, 0), accept=third)
    # All in int8, all balanced, and then one after the other.
    assert len(seen) == 4
    assert 1 <= sum(weight.kept for weight in found.weights) <= 2


def test_static_ranges_are_those_of_the_rows(file: OnnxFile, tmp_path: Path) -> None:
    proto = onnx.load(str(file.path))
    found = ranges_of(proto, tmp_path, batches())
    values = {name for weight in quantizable(proto) if weight.kind == "product" for name in weight.inputs}
    assert found.keys() == values
    assert all(low < high for low, high in found.values())
    few = ranges_of(proto, tmp_path, batches(1))
    assert all(found[name][0] <= few[name][0] and few[name][1] <= found[name][1] for name in values)
    made = lower(file, tmp_path / "static.onnx", "int8-static", search=batches(), calibration=batches())
    kinds = {node.op_type for node in onnx.load(str(made.file.path)).graph.node}
    assert "QuantizeLinear" in kinds
    assert "DynamicQuantizeLinear" not in kinds
    assert made.fidelity is not None
    assert made.fidelity.error < 0.1


def test_half_precision_keeps_types_and_answers(file: OnnxFile, tmp_path: Path) -> None:
    made = lower(file, tmp_path / "half.onnx", "fp16", search=batches())
    assert made.fidelity is not None
    assert made.fidelity.error < 1e-4
    assert made.fidelity.agreement == 1
    session = OnnxSession(made.file.path)
    assert session.inputs == NAMES
    assert session(batches(1)[0])["logits"].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["half.onnx"]


@pytest.mark.parametrize("family", ["modernbert", "llama"])
def test_angles_of_far_positions_stay_in_single_precision(family: str, tmp_path: Path) -> None:
    # One head of 64 dimensions has 32 frequencies, most of which float16 does not hold.
    sizes: dict[str, int] = {"hidden_size": 64, "num_attention_heads": 1, "max_position_embeddings": 4096}
    more = {"num_key_value_heads": 1, "head_dim": 64} if family == "llama" else {}
    names, space = NAMES[:2], InputSpace(50, 1, max_length=4096)
    model = build(family, "ForTokenClassification", **sizes, **more)
    file = export_onnx(model, tmp_path / "model.onnx", inputs=names, space=space)
    long = [space.batch(1, 3000, seed=0, names=names)]
    made = lower(file, tmp_path / "half.onnx", "fp16", search=long)
    got, want = (OnnxSession(path)(long[0])["logits"] for path in (made.file.path, file.path))
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in onnx.load(str(made.file.path)).graph.initializer}


def test_fidelity_is_the_share_of_what_varies() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(3, 2, size=1000)
    noise = generator.normal(0, 0.2, size=1000)
    want = Replies({"logits": values}, np.arange(1000) % 4)
    got = Replies({"logits": values + noise}, np.where(np.arange(1000) < 100, 4, np.arange(1000) % 4))
    found = fidelity(got, want)
    assert found.error == pytest.approx(float((noise**2).mean() / values.var()))
    assert found.agreement == pytest.approx(0.9)
    same = fidelity(want, want)
    assert (same.error, same.agreement) == (0, 1)
    assert fidelity(Replies(want.values, None), Replies(want.values, None)).agreement is None


def test_an_answer_is_not_sought_in_padding() -> None:
    class Spans:
        outputs, per_token, path = ("start_logits", "end_logits"), frozenset({"start_logits", "end_logits"}), Path("spans.onnx")

        def __call__(self, feeds: Any) -> dict[str, np.ndarray]:
            logits = feeds["input_ids"].astype(np.float32)
            return {"start_logits": logits, "end_logits": -logits}

    ids = np.array([[0, 3, 5, 9], [9, 4, 7, 6]])
    session: Any = Spans()
    found = replies(session, [{"input_ids": ids, "attention_mask": np.array([[1, 1, 1, 0], [0, 1, 1, 1]])}])
    assert found.choices is not None
    assert found.choices.tolist() == [2, 2, 0, 1]
    assert found.values["start_logits"].tolist() == [0, 3, 5, 4, 7, 6]


def test_answers_that_are_not_finite_stop(tmp_path: Path) -> None:
    model: Any = build("bert", "ForSequenceClassification")
    model.classifier.bias.data[1] = np.nan
    file = export_onnx(model, tmp_path / "model.onnx", inputs=NAMES, space=sample_space(model.config))
    with pytest.raises(StatisticsError, match="NaN or infinity"):
        lower(file, tmp_path / "half.onnx", "fp16", search=batches())
    assert not (tmp_path / "half.onnx").exists()


def test_batch_by_batch_fidelity_is_that_of_all_batches(file: OnnxFile, tmp_path: Path) -> None:
    made = lower(file, tmp_path / "low.onnx", "int8", search=batches(), gate=Int8Gate(np.inf, 0))
    low, plain = (OnnxSession(path) for path in (made.file.path, file.path))
    want = fidelity(replies(low, batches()), replies(plain, batches()))
    found = fidelity_of(low, plain, batches())
    assert found.error == pytest.approx(want.error, rel=1e-9)
    assert found.agreement == want.agreement
    assert fidelity_of(plain, plain, batches()) == Fidelity(error=0.0, agreement=1.0)
