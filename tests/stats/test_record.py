from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from prunekit.errors import OutputError, StatisticsError
from prunekit.plan import Source
from prunekit.stats.moments import Moments
from prunekit.stats.record import Labelled, Statistics
from prunekit.stats.sample import Sample

SOURCE = Source(model_type="bert", layers=2, hidden=3, heads=1, ffn=4, vocabulary=9)
#: The label of a row is its id.
OUTPUTS = 60


def statistics(seed: int = 0, first: int = 0) -> Statistics:
    x = np.random.default_rng(seed).normal(size=(30, 9 + OUTPUTS)).astype(np.float32)
    ids = np.arange(first, first + 30)
    sample = Sample.empty(5, 9, seed=3).add(ids, x[:, :9])
    held = Labelled(Sample.empty(4, 9, seed=3).add(ids[:4], x[:4, :9]), ids[:4])
    return Statistics(Moments.of(x), Labelled(sample, sample.ids), SOURCE, OUTPUTS, "mean", {"data": "here"}, held)


def test_round_trip(tmp_path: Path) -> None:
    a = statistics()
    a.save(tmp_path / "s.safetensors")
    b = Statistics.load(tmp_path / "s.safetensors")
    assert b.moments.count == 30
    assert (a.moments.comoment == b.moments.comoment).all()
    assert (a.moments.mean == b.moments.mean).all()
    assert a.validation is not None
    assert b.validation is not None
    for one, other in ((a.train, b.train), (a.validation, b.validation)):
        assert (one.sample.ids == other.sample.ids).all()
        assert (one.sample.rows == other.sample.rows).all()
        assert (one.labels == other.labels).all()
    sample = b.train.sample
    assert (b.source, b.outputs, b.pooling, b.provenance, sample.seed, sample.size) == (SOURCE, OUTPUTS, "mean", {"data": "here"}, 3, 5)


def test_merged_after_loading(tmp_path: Path) -> None:
    a, b = statistics(0), statistics(1, first=30)
    a.save(tmp_path / "a")
    merged = Statistics.load(tmp_path / "a").merge(b)
    np.testing.assert_allclose(merged.moments.comoment, a.moments.merge(b.moments).comoment)
    assert merged.moments.count == 60
    assert merged.validation is not None
    for part in (merged.train, merged.validation):
        assert (part.labels == part.sample.ids).all()
    assert len({*(merged.train.labels < 30).tolist()}) == 2
    with pytest.raises(StatisticsError, match="cannot be merged"):
        a.merge(Statistics(b.moments, b.train, SOURCE, OUTPUTS, "cls"))


def test_a_split_is_as_a_run_left_it() -> None:
    a = statistics()
    train, held = a.split("train"), a.split("validation")
    assert train.moments is a.moments
    assert held.known is None
    for found, part in ((train, a.train), (held, a.validation)):
        assert part is not None
        assert (np.concatenate([chunk for _, chunk in found.rows.chunks()]) == part.sample.rows).all()
        assert (found.labels == part.labels).all()
    with pytest.raises(StatisticsError, match="no rows of validation"):
        Statistics(a.moments, a.train, SOURCE, OUTPUTS, "mean").split("validation")
    with pytest.raises(StatisticsError, match="labels of shape"):
        Labelled(a.train.sample, np.zeros(3))


@pytest.mark.parametrize("version", [1, 3])
def test_other_versions_are_rejected(version: int, tmp_path: Path) -> None:
    path = tmp_path / "s"
    statistics().save(path)
    with safe_open(path, framework="numpy") as file:
        meta = json.loads(file.metadata()["prunekit.statistics"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"prunekit.statistics": json.dumps({**meta, "version": version})})
    with pytest.raises(StatisticsError, match=f"version {version}"):
        Statistics.load(path)


def test_what_is_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="cannot be read"):
        Statistics.load(tmp_path / "absent")
    (tmp_path / "text").write_text("no")
    with pytest.raises(StatisticsError, match="cannot be read"):
        Statistics.load(tmp_path / "text")
    save_file({"x": np.ones(2)}, tmp_path / "other")
    with pytest.raises(StatisticsError, match="holds no statistics"):
        Statistics.load(tmp_path / "other")
    with pytest.raises(OutputError):
        statistics().save(tmp_path / "absent" / "s")


def test_statistics_of_another_shape() -> None:
    a = statistics()
    with pytest.raises(StatisticsError, match="9 neurons and the task 3 outputs"):
        Statistics(a.moments, a.train, SOURCE, 3, "mean")
