"""The code of docs/deploy.md, run where it belongs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunekit.exporters.export import export
from prunekit.exporters.source import load_source
from tests.interop.run import PACKAGES
from tests.interop.runtimes import run as answer_of
from tests.lines import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
TEXTS = ["A first text.", "A second one, a little longer."]
HOME = Path(os.environ.get("PRUNEKIT_INTEROP", ROOT / ".interop"))
pytestmark = pytest.mark.needs("onnxruntime")


def code(title: str, language: str = "python") -> str:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run(command: list[str], where: Path) -> np.ndarray:
    return np.array(answer_of(command, where))


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    export(checkpoint("sequence"), folder / "slim", dtype="int8")
    return folder


def expected(folder: Path, output: str) -> np.ndarray:
    """What PyTorch gives."""
    source = load_source(folder)
    rows = source.tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=True)
    found: Any = source.model(**{name: rows[name] for name in source.inputs})
    answer: np.ndarray = getattr(found, output).detach().numpy()
    return answer


def test_plain_onnxruntime(where: Path) -> None:
    program = (
        code("onnxruntime and tokenizers")
        + "\nimport json, sys\nassert not {'torch', 'transformers'} & sys.modules.keys()\nprint(json.dumps(logits.tolist()))"
    )
    got = run([sys.executable, "-c", program], where)
    np.testing.assert_allclose(got, expected(checkpoint("sequence"), "logits"), atol=1e-4)


def test_the_oldest_onnxruntime_is_that_of_the_metadata() -> None:
    bound = re.search(r"^cpu =\n    onnxruntime>=([\d.]+)$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert bound is not None
    assert PACKAGES["oldest"][0] == f"onnxruntime=={bound[1]}.0"
    assert f"the oldest, {bound[1]}.0" in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.mark.needs("oldest")
@pytest.mark.parametrize("file", ["model.onnx", "model_quantized.onnx"])
def test_oldest(file: str, where: Path) -> None:
    program = code("onnxruntime and tokenizers").replace("model.onnx", file)
    program += "\nimport json\nprint(json.dumps(logits.tolist()))"
    old, new = (run([python, "-c", program], where) for python in (str(HOME / "oldest" / "bin" / "python"), sys.executable))
    # Both round in float32, and in int8 an activation may fall on the other side of a step.
    np.testing.assert_allclose(old, new, atol=1e-5 if file == "model.onnx" else 0.02 * np.abs(new).max())


@pytest.mark.needs("optimum")
@pytest.mark.parametrize("file", ["model.onnx", "model_quantized.onnx"])
def test_optimum(file: str, where: Path) -> None:
    program = code("optimum").replace('"model.onnx"', f'"{file}"') + "\nimport json\nprint(json.dumps(logits.tolist()))"
    got = run([str(HOME / "optimum" / "bin" / "python"), "-c", program], where)
    want = expected(checkpoint("sequence"), "logits")
    np.testing.assert_allclose(got, want, atol=1e-4 if file == "model.onnx" else 0.2 * np.abs(want).max())


@pytest.mark.needs("st")
def test_st(tmp_path: Path) -> None:
    export(checkpoint("base"), tmp_path / "slim", pooling="mean")
    program = code("sentence-transformers") + "\nimport json\nprint(json.dumps(embeddings.tolist()))"
    got = run([str(HOME / "st" / "bin" / "python"), "-c", program], tmp_path)
    want = expected(checkpoint("base"), "sentence_embedding")
    np.testing.assert_allclose(got / np.linalg.norm(got, axis=1, keepdims=True), want, atol=1e-4)


@pytest.mark.needs("tjs")
@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_tjs(dtype: str, where: Path) -> None:
    program = code("transformers.js", "javascript").replace('"fp32"', f'"{dtype}"') + "\nconsole.log(JSON.stringify(logits.tolist()));\n"
    (where / "load.mjs").write_text(program, encoding="utf-8")
    if not (where / "node_modules").exists():
        (where / "node_modules").symlink_to(HOME / "tjs" / "node_modules")
    got = run(["node", "load.mjs"], where)
    want = expected(checkpoint("sequence"), "logits")
    np.testing.assert_allclose(got, want, atol=1e-4 if dtype == "fp32" else 0.2 * np.abs(want).max())
