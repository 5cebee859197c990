from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

TEST = """
import sys

def test_speed(prunekit_bench):
    assert not {"torch", "onnxruntime", "numpy"} & set(sys.modules)
    ratio = prunekit_bench("m.onnx", "m.onnx", length=5, time_budget=0.001)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value > 100, "shown with the tables"
"""


def model(path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", 2])],
        [helper.make_tensor("table", TensorProto.FLOAT, [9, 2], [float(at) for at in range(18)])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


@pytest.mark.needs("onnxruntime")
def test_the_fixture_gives_a_ratio_and_pytest_starts_without_us(tmp_path: Path, root: Path) -> None:
    model(tmp_path / "m.onnx")
    (tmp_path / "test_speed.py").write_text(TEST, encoding="utf-8")
    argv = [sys.executable, "-m", "pytest", "-p", "prunekit.benchmark.pytest_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*argv, "-q", "--junitxml", "junit.xml", "test_speed.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == 1
    assert "shown with the tables" in done.stdout
    assert "| batch 1, 5 tokens: m |" in done.stdout
    assert 'name="prunekit_ratio"' in (tmp_path / "junit.xml").read_text(encoding="utf-8")
