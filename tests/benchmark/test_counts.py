from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from prunekit.benchmark.counts import macs_of

pytestmark = pytest.mark.needs("onnxruntime")
WIDTH = 8


def test_fused_attention_of_one_position_reads_all_of_them(tmp_path: Path) -> None:
    """Each query is multiplied with every key, and each weight with every value."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "end"], ["column"]),
        helper.make_node("MatMul", ["column", "wide"], ["states"], name="widen"),
        helper.make_node("Gather", ["states", "first"], ["query"], axis=1),
        helper.make_node(
            "MultiHeadAttention", ["query", "states", "states"], ["logits"], name="attention", domain="com.microsoft", num_heads=2
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", 1, WIDTH])],
        [
            numpy_helper.from_array(np.array([2]), "end"),
            numpy_helper.from_array(np.array([0]), "first"),
            numpy_helper.from_array(np.ones((1, WIDTH), dtype=np.float32), "wide"),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    rows, length = 3, 7
    found = macs_of(path, {"input_ids": np.ones((rows, length), dtype=np.int64)})
    assert found == rows * length * WIDTH + 2 * rows * 1 * length * WIDTH
