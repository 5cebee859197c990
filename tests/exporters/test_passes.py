from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

from prunekit.arch.view import ModelView
from prunekit.errors import ExportError
from prunekit.exporters.onnx import InputSpace, export_onnx, sample_space
from prunekit.exporters.parity import check_parity
from prunekit.exporters.passes import optimize
from prunekit.exporters.passes.base import GraphPass, TracedGraph
from prunekit.plan import Plan, ReadoutPlan
from prunekit.runtime.session import OnnxSession
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import set_readout
from tests.models import build

pytestmark = pytest.mark.needs("onnxruntime")

H = 4
SPACE = InputSpace(50, 0, max_length=40)


def graph(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray[Any, Any]], output: str = "out") -> onnx.ModelProto:
    """A graph of input_ids -> embeddings "x" (batch, length, H) -> nodes -> output."""
    table = np.random.default_rng(0).normal(size=(50, H)).astype(np.float32)
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in {"table": table, **weights}.items()]
    made = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["x"]), *nodes],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def save(proto: onnx.ModelProto, path: Path) -> None:
    onnx.save_model(proto, str(path))


def optimized(proto: onnx.ModelProto, tmp_path: Path, max_length: int = 40) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The graph after the exact passes, which must compute the same at lengths and batches that were not probed."""
    names = tuple(value.name for value in proto.graph.input)

    def draw(rows: int, length: int) -> Any:
        return SPACE.batch(rows, length, seed=0, names=names)

    before = onnx.ModelProto.FromString(proto.SerializeToString())
    found, counts = optimize(proto, "O1", draw, max_length, save)
    sessions = []
    for name, each in (("before", before), ("after", found)):
        save(each, tmp_path / f"{name}.onnx")
        sessions.append(OnnxSession(tmp_path / f"{name}.onnx"))
    for rows, length in ((1, 1), (4, 6), (2, min(max_length, 31))):
        batch = SPACE.batch(rows, length, seed=3, names=names)
        for want, got in zip(*(session(batch).values() for session in sessions), strict=True):
            assert want.shape == got.shape
            assert np.abs(want - got).max() <= 1e-6
    return found, counts


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def shapes_of(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}


POSITION = np.array(0, dtype=np.int64)
N = helper.make_node


@pytest.mark.parametrize(
    ("nodes", "narrowed"),
    [
        ([N("MatMul", ["x", "w"], ["y"]), N("Add", ["y", "b"], ["z"]), N("Gather", ["z", "zero"], ["out"], axis=1)], 1),
        # A residual: the sum is narrowed, and so is what goes into it.
        ([N("MatMul", ["x", "w"], ["y"]), N("Add", ["x", "y"], ["z"]), N("Gather", ["z", "zero"], ["out"], axis=1)], 1),
        # Scores against all positions: the left factor is narrowed, the right one is not.
        (
            [
                N("MatMul", ["x", "w"], ["q"]),
                N("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
                N("MatMul", ["q", "k"], ["s"]),
                N("Softmax", ["s"], ["p"], axis=-1),
                N("MatMul", ["p", "x"], ["y"]),
                N("Gather", ["y", "zero"], ["out"], axis=1),
            ],
            3,
        ),
        # Everybody reads all positions of y but one: it stays whole.
        (
            [
                N("MatMul", ["x", "w"], ["y"]),
                N("Gather", ["y", "zero"], ["one"], axis=1),
                N("ReduceSum", ["y", "axis"], ["all"], keepdims=0),
                N("Add", ["one", "all"], ["out"]),
            ],
            0,
        ),
        # A softmax over the positions needs them all.
        ([N("MatMul", ["x", "w"], ["y"]), N("Softmax", ["y"], ["z"], axis=1), N("Gather", ["z", "zero"], ["out"], axis=1)], 0),
        # Through the heads and back, where the shape names the length.
        (
            [
                N("MatMul", ["x", "w"], ["y"]),
                N("Reshape", ["y", "heads"], ["h"]),
                N("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
                N("Relu", ["t"], ["r"]),
                N("Transpose", ["r"], ["u"], perm=[0, 2, 1, 3]),
                N("Shape", ["x"], ["shape"]),
                N("Reshape", ["u", "shape"], ["v"]),
                N("Gather", ["v", "zero"], ["out"], axis=1),
            ],
            1,
        ),
    ],
)  # fmt: skip
def test_what_is_read_at_one_position_is_computed_there(nodes: list[onnx.NodeProto], narrowed: int, tmp_path: Path) -> None:
    weights = {"w": drawn(H, H), "b": drawn(H), "zero": POSITION, "axis": np.array([1]), "heads": np.array([0, -1, 2, 2])}
    used = {name for node in nodes for name in node.input}
    _, counts = optimized(graph(nodes, {name: array for name, array in weights.items() if name in used}), tmp_path)
    assert counts.get("matrix products for the positions read", 0) == narrowed


@pytest.mark.parametrize("given", ["y", "z"])
@pytest.mark.parametrize("axis", [1, 2])
def test_what_the_graph_gives_too_stays_whole(given: str, axis: int, tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["y"]), N("Add", ["y", "b"], ["z"]), N("Gather", ["z", "two"], ["out"], axis=axis)]
    proto = graph(nodes, {"w": drawn(H, H), "b": drawn(H), "two": np.array([0, 0], dtype=np.int64)})
    proto.graph.output.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, None))
    _, counts = optimized(proto, tmp_path)
    assert not counts.keys() & {"matrix products for the positions read", "matrix products for the neurons read"}


def test_the_last_position_is_found_too(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["y"]), N("Gather", ["y", "last"], ["out"], axis=1)]
    _, counts = optimized(graph(nodes, {"w": drawn(H, H), "last": np.array(-1)}), tmp_path)
    assert counts["matrix products for the positions read"] == 1


def test_neurons_that_are_read_are_columns_of_the_weights(tmp_path: Path) -> None:
    nodes = [
        N("MatMul", ["x", "w"], ["y"]),
        N("Add", ["y", "b"], ["z"]),
        N("Tanh", ["z"], ["t"]),
        N("Gather", ["t", "dims"], ["out"], axis=-1),
    ]
    proto, counts = optimized(graph(nodes, {"w": drawn(H, 9), "b": drawn(9), "dims": np.array([7, 2, -1])}), tmp_path)
    assert counts["matrix products for the neurons read"] == 1
    assert sorted(shapes_of(proto).values())[-2:] == [(4, 3), (50, 4)]


@pytest.mark.parametrize("normed", [False, True])
def test_neurons_of_a_mean_are_picked_before_it_if_a_weight_becomes_smaller(normed: bool, tmp_path: Path) -> None:
    nodes = [
        N("MatMul", ["x", "w"], ["y"]),
        *([N("LayerNormalization", ["y", "scale"], ["states"], axis=-1)] if normed else [N("Identity", ["y"], ["states"])]),
        N("MatMul", ["x", "v"], ["column"]),
        N("Transpose", ["column"], ["row"], perm=[0, 2, 1]),
        N("Softmax", ["row"], ["shares"], axis=-1),
        N("MatMul", ["shares", "states"], ["mean"]),
        N("Flatten", ["mean"], ["flat"], axis=1),
        N("Gather", ["flat", "picked"], ["out"], axis=1),
    ]
    weights = {"w": drawn(H, H), "v": drawn(H, 1), "picked": np.array([3, 0], dtype=np.int64), **({"scale": drawn(H)} if normed else {})}
    proto, counts = optimized(graph(nodes, weights), tmp_path)
    assert counts.get("matrix products for the neurons read", 0) == (0 if normed else 2)
    assert ((H, 2) in shapes_of(proto).values()) != normed


def test_a_norm_over_the_neurons_needs_them_all(tmp_path: Path) -> None:
    nodes = [
        N("MatMul", ["x", "w"], ["y"]),
        N("LayerNormalization", ["y", "b", "b"], ["z"], axis=-1),
        N("Gather", ["z", "dims"], ["out"], axis=-1),
    ]
    _, counts = optimized(graph(nodes, {"w": drawn(H, 9), "b": drawn(9), "dims": np.array([7, 2])}), tmp_path)
    assert "matrix products for the neurons read" not in counts


def test_equal_weights_and_values_are_there_once(tmp_path: Path) -> None:
    same = drawn(H, H)
    nodes = [N("MatMul", ["x", "w"], ["y"]), N("MatMul", ["x", "v"], ["z"]), N("Add", ["y", "z"], ["out"])]
    proto, _ = optimized(graph(nodes, {"w": same, "v": same.copy()}), tmp_path)
    assert [node.op_type for node in proto.graph.node].count("MatMul") == 1


def test_a_branch_gives_a_value_from_outside(tmp_path: Path) -> None:
    # What transformers 4 writes of DeBERTa, whose positions are scripted: a branch may not give an outer value but as its Identity.
    then, other = (
        helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])
        for name, node in (("added", N("Add", ["same", "w"], ["added"])), ("left", N("Identity", ["same"], ["left"])))
    )
    nodes = [
        N("Identity", ["x"], ["same"]),
        N("ReduceMax", ["input_ids"], ["largest"], keepdims=0),
        N("Less", ["largest", "bound"], ["small"]),
        N("If", ["small"], ["y"], then_branch=then, else_branch=other),
        N("Identity", ["y"], ["out"]),
    ]
    found, _ = optimized(graph(nodes, {"w": drawn(H), "bound": np.array(45)}), tmp_path)
    assert [node.op_type for node in found.graph.node] == ["Gather", "ReduceMax", "Less", "If"]


@pytest.mark.parametrize(("case", "longest"), [("bert", 40), ("roberta", 38), ("mpnet", 38), ("distilbert", 40), ("gpt2", 40)])
def test_positions_beyond_the_longest_row_are_cut(case: str, longest: int, tmp_path: Path) -> None:
    model = build(case, "ForSequenceClassification")
    view, space = ModelView.of(model), sample_space(model.config)
    assert space.max_length == longest
    short = InputSpace(space.vocab_size, space.pad_id, max_length=longest - 20, type_vocab_size=space.type_vocab_size)
    whole = export_onnx(model, tmp_path / "whole.onnx", inputs=view.inputs, space=space)
    cut = export_onnx(model, tmp_path / "cut.onnx", inputs=view.inputs, space=short)
    assert cut.passes["position embeddings cut"] == 20
    assert "position embeddings cut" not in whole.passes
    assert (40, 24) not in shapes_of(onnx.load(str(cut.path))).values()
    assert check_parity(cut.path, model, inputs=view.inputs, space=short).max_abs_difference < 2e-5


def test_a_readout_of_a_slim_model_is_hoisted(tmp_path: Path) -> None:
    model = build("bert", "ForSequenceClassification")
    view = ModelView.of(model)
    plan = Plan(source=view.source, heads={1: (0, 3)}, readout=ReadoutPlan(pooling="cls", neurons={1: (0, 3), 3: (4, 8)}))
    slim = apply(model, plan)
    set_readout(slim, torch.linspace(-1, 1, 12).reshape(3, 4), torch.ones(3))
    space = sample_space(model.config)
    files = {level: export_onnx(slim, tmp_path / f"{level}.onnx", inputs=view.inputs, space=space, level=level) for level in ("none", "O1")}  # type: ignore[arg-type]
    # Queries, scores, context, attention output, both FFN layers.
    assert files["O1"].passes["matrix products for the positions read"] == 6
    batch = space.batch(3, 17, seed=5, names=view.inputs)
    want, got = (OnnxSession(files[level].path)(batch)["logits"] for level in ("none", "O1"))
    assert np.abs(want - got).max() < 1e-5


MASK = [
    N("ReduceMax", ["x", "last"], ["most"], keepdims=0),
    N("Greater", ["most", "one"], ["mask"]),
    N("Unsqueeze", ["mask", "middle"], ["row"]),
    N("Shape", ["input_ids"], ["shape"]),
    N("Split", ["shape"], ["rows", "length"], num_outputs=2),
    N("Concat", ["rows", "length", "length"], ["square"], axis=0),
    N("Expand", ["row", "square"], ["repeated"]),
    N("And", ["true", "repeated"], ["both"]),
    N("Where", ["both", "zero", "low"], ["added"]),
    N("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
    N("MatMul", ["x", "k"], ["scores"]),
]


@pytest.mark.parametrize(
    ("nodes", "dropped"),
    [
        ([N("Add", ["scores", "added"], ["out"])], 2),
        # Some entries of an axis that is not repeated are picked first; of one that is, it must be.
        ([N("Gather", ["added", "start"], ["some"], axis=2), N("Add", ["scores", "some"], ["out"])], 2),
        ([N("Gather", ["added", "start"], ["some"], axis=1), N("Add", ["scores", "some"], ["out"])], 1),
        # Somebody sums over the repeats: only the conjunction goes.
        ([N("Add", ["scores", "added"], ["sum"]), N("ReduceSum", ["added"], ["all"]), N("Add", ["sum", "all"], ["out"])], 1),
        # Nothing else repeats it, and it is what the graph gives.
        ([N("Mul", ["added", "one"], ["out"])], 1),
    ],
)
def test_a_mask_is_repeated_where_it_is_added(nodes: list[onnx.NodeProto], dropped: int, tmp_path: Path) -> None:
    weights = {"last": np.array([2]), "middle": np.array([1]), "start": np.array([0]), "true": np.array(True)}
    numbers = {"zero": np.float32(0), "low": np.float32(-9), "one": np.float32(1)}
    made = graph([*MASK, *nodes], {**weights, **{name: np.array(number) for name, number in numbers.items()}})
    found, counts = optimized(made, tmp_path)
    assert counts.get("needless repeats dropped", 0) == dropped
    assert sum(node.op_type in ("Expand", "And") for node in found.graph.node) == 2 - dropped


def test_a_conjunction_that_repeats_stays(tmp_path: Path) -> None:
    nodes = [
        N("Greater", ["x", "zero"], ["seen"]),
        N("And", ["seen", "true"], ["both"]),
        N("Where", ["both", "x", "zero"], ["some"]),
        N("ReduceSum", ["some"], ["out"]),
    ]
    for shape, stays in (((1, 1, 1), False), ((3, 1, 1, 1), True)):
        weights = {"zero": np.array(0, dtype=np.float32), "true": np.ones(shape, dtype=bool)}
        found, _ = optimized(graph(nodes, weights), tmp_path)
        assert ("And" in {node.op_type for node in found.graph.node}) == stays


def test_a_pass_may_not_change_what_the_file_takes_or_gives(tmp_path: Path) -> None:
    class Rename(GraphPass):
        name = "rename"

        def call(self, traced: TracedGraph) -> int:
            traced.graph.outputs[0].name = "other"
            return 1

    class Break(GraphPass):
        name = "break"

        def call(self, traced: TracedGraph) -> int:
            loose = ir.Value(name="loose")
            traced.graph[-1].replace_input_with(0, loose)
            return 1

    model = ir.from_proto(graph([N("Relu", ["x"], ["out"])], {}))
    with pytest.raises(ExportError, match="'rename' has changed the inputs or outputs"):
        Rename()(TracedGraph(model, (), 40))
    with pytest.raises(ExportError, match="'break' has left 'loose' without a producer"):
        Break()(TracedGraph(model, (), 40))


def test_the_exact_level_writes_standard_operators_only(tmp_path: Path) -> None:
    model = build("bert", "ForSequenceClassification")
    view = ModelView.of(model)
    file = export_onnx(model, tmp_path / "model.onnx", inputs=view.inputs, space=sample_space(view.config), level="O1")
    assert {node.domain for node in onnx.load(str(file.path)).graph.node} == {""}


@pytest.mark.parametrize(
    ("heads", "dropped", "left"), [(1, 4, [[0, 1, 3, 2]]), (2, 0, [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3], [0, 2, 1, 3]])]
)
def test_the_axis_of_one_head_is_not_moved(heads: int, dropped: int, left: list[list[int]], tmp_path: Path) -> None:
    nodes = [
        *(node for at in "qkv" for node in (N("MatMul", ["x", f"w{at}"], [at]), N("Reshape", [at, "split"], [f"{at}h"]))),
        N("Transpose", ["qh"], ["qt"], perm=[0, 2, 1, 3]),
        N("Transpose", ["kh"], ["kt"], perm=[0, 2, 3, 1]),
        N("Transpose", ["vh"], ["vt"], perm=[0, 2, 1, 3]),
        N("MatMul", ["qt", "kt"], ["scores"]),
        N("Softmax", ["scores"], ["shares"], axis=-1),
        N("MatMul", ["shares", "vt"], ["mixed"]),
        N("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        N("Reshape", ["back", "merged"], ["out"]),
    ]
    weights = {f"w{at}": drawn(H, H) + place for place, at in enumerate("qkv")}
    shapes = {"split": np.array([0, 0, heads, H // heads]), "merged": np.array([0, 0, H])}
    proto, counts = optimized(graph(nodes, {**weights, **shapes}), tmp_path)
    assert counts.get("needless transposes dropped", 0) == dropped
    assert [list(node.attribute[0].ints) for node in proto.graph.node if node.op_type == "Transpose"] == left
    # No shape is made of a shape.
    makers = {node.output[0]: node.op_type for node in proto.graph.node}
    assert not [node for node in proto.graph.node if node.op_type == "Reshape" and makers.get(node.input[0]) == "Reshape"]
