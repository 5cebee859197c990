"""Fewer dimensions: components keep products best, and the projection goes with the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD

import prunekit
from prunekit import cli
from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.pipeline.dimensions import components, fitted
from prunekit.report.model import Report
from prunekit.runtime.session import OnnxSession
from tests.lines import quick, write_rows
from tests.pipeline.test_embedding import dense, pairs, run, texts


def test_components_are_those_of_the_uncentred_singular_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(80, 9)) * np.arange(1, 10) + 1
    found = components(vectors, 4)
    assert np.allclose(found @ found.T, np.eye(4))
    reference = TruncatedSVD(4, algorithm="arpack", random_state=0).fit(vectors).components_
    assert np.allclose(np.abs((found * reference).sum(axis=1)), 1, atol=1e-6)
    # Nothing of as few dimensions keeps the products of all pairs better.
    products = vectors @ vectors.T
    missed = np.linalg.norm(products - (vectors @ found.T) @ (vectors @ found.T).T)
    for seed in range(20):
        other, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(9, 4)))
        assert missed <= np.linalg.norm(products - (vectors @ other) @ (vectors @ other).T)


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def test_a_fitted_projection_keeps_the_cosines_of_near_texts() -> None:
    """Texts stand in groups far apart, so that components hold the groups, and not what differs within them."""
    generator = np.random.default_rng(0)
    groups = generator.normal(size=(20, 24)) * np.repeat([3.0, 0.3], [8, 16])
    vectors = np.repeat(groups, 30, axis=0) + generator.normal(size=(600, 24)) * np.repeat([0.1, 1.0], [8, 16])
    start = components(vectors, 8)
    found = fitted(vectors, start, 0)
    assert np.array_equal(found, fitted(vectors, start, 0))
    assert np.linalg.norm(vectors @ found.T) == pytest.approx(np.linalg.norm(vectors @ start.T))
    fresh = np.repeat(groups, 30, axis=0) + generator.normal(size=(600, 24)) * np.repeat([0.1, 1.0], [8, 16])
    want, within = cosines(fresh), np.kron(np.eye(20), np.ones((30, 30))) > 0
    missed = [float(np.square(cosines(fresh @ each.T) - want)[within].mean()) for each in (found, start)]
    assert missed[0] < 0.95 * missed[1]
    assert np.array_equal(fitted(vectors[:2], start, 0), start)


@pytest.mark.needs("onnxruntime")
def test_fewer_dimensions_from_the_command_line(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", Embedding("mean", max_length=16))
    data = write_rows(tmp_path / "data", {"train": texts(150, 0), "test": pairs(30, 1)})
    out = tmp_path / "slim"
    named = ("--task", "embedding", "--data", data, "--dims", 5, "--keep", "70% params", "--recover", "none")
    assert run("compress", model, *named, "--out", out) == 0
    report = Report.from_json((out / "report.json").read_text())
    assert [each.name for each in report.dimensions] == ["all", "fitted", "components", "chosen", "truncation", "random"]
    assert [each.dims for each in report.dimensions] == [16, 5, 5, 5, 5, 5]
    assert report.dimensions[0].overlap == 1
    slim = prunekit.load(out)
    assert isinstance(slim, EmbeddingModel)
    assert slim.project is not None
    assert slim.project.weight.shape == (5, 16)
    file = OnnxSession(out / "onnx" / "model.onnx")
    given = {name: np.ones((2, 4), dtype=np.int64) for name in file.inputs}
    assert file(given)["sentence_embedding"].shape == (2, 5)
    assert "| `2_Dense/config.json` |" in (out / "README.md").read_text()


@pytest.mark.parametrize(("dims", "says"), [("16", "from 1 to 15, less than the model's 16"), ("0", "'dims'"), ("x", "dims")])
def test_dimensions_that_cannot_be(tmp_path: Path, capfd: pytest.CaptureFixture[str], dims: str, says: str) -> None:
    data = write_rows(tmp_path / "data", {"train": texts(60, 0)})
    with quick():
        named = ["--task", "embedding", "--data", str(data), "--out", str(tmp_path / "out"), "--dims", dims]
        assert cli.main(["compress", str(dense(tmp_path / "dense")), *named, "--quiet"]) == 2
    said = capfd.readouterr().err.strip()
    assert says in said
    assert said.count("\n") == 0
