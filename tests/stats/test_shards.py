"""Parts of statistics: put together in any order they are those of the whole; what is not one whole is refused in one line."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from prunekit import cli
from prunekit.errors import StatisticsError
from prunekit.plan import Source
from prunekit.stats.header import KEY, Shard
from prunekit.stats.moments import Moments
from prunekit.stats.record import Labelled, Statistics, read_header
from prunekit.stats.sample import Sample
from prunekit.stats.shards import merge_parts

SOURCE = Source(model_type="bert", layers=2, hidden=3, heads=1, ffn=4, vocabulary=9)
NEURONS, ROWS, HELD = 9, 60, 7
KNOWN = {"weights": "w", "data": {"sha256": "d"}, "seed": 3, "max_length": 8, "prunekit": "1", "model": "here"}


def labelled(x: np.ndarray, ids: np.ndarray, size: int) -> Labelled:
    sample = Sample.empty(size, NEURONS, seed=3).add(ids, x[ids])
    return Labelled(sample, sample.ids % 2)


def statistics(owner: np.ndarray, part: int, *, parts: int, size: int = 1000, seed: int = 0) -> Statistics:
    """Of the rows that a part owns; train's and validation's are dealt out alike. Part 0: all."""
    x = np.random.default_rng(seed).normal(size=(ROWS, NEURONS)).astype(np.float32) * 3 + 50
    train = np.flatnonzero(owner == part) if part else np.arange(ROWS)
    held = train[train < HELD]
    rows: dict[Any, int] = {"train": len(train), "validation": len(held)}
    shard = Shard(index=part, of=parts, rows=rows, total={"train": ROWS, "validation": HELD}, tokens="a" * 64) if part else None
    moments = Moments.of(np.hstack([x[train], np.eye(2)[train % 2]]))
    known = {**KNOWN, "model": f"of part {part}"}
    return Statistics(moments, labelled(x, train, size), SOURCE, 2, "mean", known, labelled(x, held, size) if len(held) else None, shard)


def dealt(parts: int, seed: int = 0) -> np.ndarray:
    """A part for each row, at random; each has one at least."""
    owner = np.concatenate([np.arange(1, parts + 1), np.random.default_rng(seed).integers(1, parts + 1, ROWS - parts)])
    return np.random.default_rng(seed + 1).permutation(owner)


def written(folder: Path, owner: np.ndarray, parts: int, size: int = 1000) -> list[Path]:
    paths = [folder / f"part-{part}.safetensors" for part in range(1, parts + 1)]
    for part, path in enumerate(paths, 1):
        statistics(owner, part, parts=parts, size=size).save(path)
    return paths


def same(one: Statistics, other: Statistics, tolerance: float) -> None:
    scale = np.abs(one.moments.comoment).max()
    assert one.moments.count == other.moments.count
    np.testing.assert_allclose(one.moments.mean, other.moments.mean, rtol=tolerance)
    np.testing.assert_allclose(one.moments.comoment, other.moments.comoment, rtol=tolerance, atol=tolerance * scale)
    for ours, theirs in ((one.train, other.train), (one.validation, other.validation)):
        assert ours is not None
        assert theirs is not None
        assert np.array_equal(ours.sample.ids, theirs.sample.ids)
        assert np.array_equal(ours.sample.rows, theirs.sample.rows)
        assert np.array_equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("size", [1000, 5])
@pytest.mark.parametrize("parts", [2, 4, 11])
def test_parts_in_any_order_are_the_whole(parts: int, size: int, tmp_path: Path) -> None:
    paths = written(tmp_path, dealt(parts), parts, size)
    whole = statistics(dealt(parts), 0, parts=parts, size=size)
    first = merge_parts(paths)
    same(first, whole, 1e-10)
    assert first.shard is None
    assert first.provenance["model"] == "of part 1"
    for seed in range(3):
        shuffled = random.Random(seed).sample(paths, len(paths))
        found = merge_parts(shuffled)
        assert np.array_equal(found.moments.comoment, first.moments.comoment)
        assert np.array_equal(found.moments.mean, first.moments.mean)
        assert found.provenance == first.provenance
    # What was put together is as what was collected at once: in a file too.
    first.save(tmp_path / "whole")
    same(Statistics.load(tmp_path / "whole"), whole, 1e-10)
    assert read_header(tmp_path / "whole").shard is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.randoms(use_true_random=False))
def test_adding_up_is_associative_and_commutative(seed: int, parts: int, rng: random.Random) -> None:
    numbers = range(1, parts + 1)
    pieces = [replace(statistics(dealt(parts, seed), part, parts=parts, seed=seed), shard=None, validation=None) for part in numbers]
    whole = statistics(dealt(parts), 0, parts=parts, seed=seed)
    while len(pieces) > 1:
        one, other = (pieces.pop(rng.randrange(len(pieces))) for _ in range(2))
        pieces.append(one.merge(other))
    same(replace(pieces[0], validation=whole.validation), whole, 1e-10)


def other_shard(part: Statistics, **changes: Any) -> Statistics:
    assert part.shard is not None
    return replace(part, shard=part.shard.model_copy(update=changes))


def known(part: Statistics, **changes: Any) -> Statistics:
    return replace(part, provenance={**part.provenance, **changes})


def second_again(part: Statistics) -> Statistics:
    """The rows of part 2, which says that it is part 3."""
    found = statistics(dealt(4), 2, parts=4)
    assert found.shard is not None
    return other_shard(found, index=3)


def renumbered(part: Statistics, ids: np.ndarray) -> Statistics:
    return replace(part, train=replace(part.train, sample=replace(part.train.sample, ids=ids)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda part: known(part, weights="v"), "part-1.*part-3.* are of different models"),
        (lambda part: replace(part, source=SOURCE.model_copy(update={"vocabulary": 8})), "are of different models"),
        (lambda part: known(part, data={"sha256": "e"}), "are of different data"),
        (lambda part: known(part, data="here"), "are of different data"),
        (lambda part: other_shard(part, tokens="b" * 64), "are of different tokens"),
        (lambda part: other_shard(part, total={"train": ROWS + 1, "validation": HELD}), "are of different data"),
        (lambda part: known(part, seed=4), "are of different seeds"),
        (lambda part: known(part, max_length=9), "are of different max_length"),
        (lambda part: known(part, prunekit="2"), "are of different versions of prunekit"),
        (lambda part: replace(part, pooling="cls"), "are of different pooling"),
        (lambda part: other_shard(part, of=5), "are of different numbers of parts"),
        (lambda part: other_shard(part, index=2), r"part-2.*part-3.* overlap: both are part 2 of 4"),
        (lambda part: replace(part, shard=None), "part-3.* are no part: they are of all the data"),
        (second_again, "A row was sampled twice"),
        (lambda part: renumbered(part, part.train.sample.ids + 100), "do not hold the 60 rows of train"),
        (lambda part: renumbered(part, -part.train.sample.ids[::-1] - 1), "do not hold the 60 rows of train"),
    ],
)
def test_what_is_not_one_whole_is_refused(change: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, dealt(4), 4)
    change(statistics(dealt(4), 3, parts=4)).save(paths[2])
    refused(paths, tmp_path / "out", says, capsys)


def refused(paths: list[Path], out: Path, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StatisticsError, match=says):
        merge_parts(paths)
    assert cli.main(["merge", *map(str, paths), "-o", str(out)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert not said.out
    assert not out.exists()


def test_a_part_twice_and_parts_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, dealt(4), 4)
    refused([*paths, paths[1]], tmp_path / "out", "part-2.* is named twice", capsys)
    refused([paths[0], paths[3]], tmp_path / "out", "Of 4 parts 2 are missing: 2, 3", capsys)
    refused(paths[1:], tmp_path / "out", "Of 4 parts 1 is missing: 1", capsys)
    refused([*paths[:3], tmp_path / "absent"], tmp_path / "out", "absent.* cannot be read", capsys)


def labels_of(path: Path) -> np.ndarray:
    return load_file(path)["train.labels"]


def as_sets(path: Path) -> dict[str, np.ndarray]:
    return {name: np.zeros((len(array), 2), dtype=bool) for name, array in load_file(path).items() if name.endswith(".labels")}


def resaved(path: Path, **changes: Any) -> None:
    """The same file with other tensors or another header."""
    raw = path.read_bytes()
    meta = json.loads(json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])["__metadata__"][KEY])
    meta = {**meta, **changes.pop("meta", {})}
    save_file({**load_file(path), **changes}, path, metadata={KEY: json.dumps(meta)})


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be read"),
        (lambda path: path.write_bytes(b"no statistics"), "cannot be read"),
        (lambda path: resaved(path, mean=np.full(11, np.nan)), "mean holds NaN or infinity"),
        (lambda path: resaved(path, comoment=np.zeros((10, 11))), r"the tensor comoment must be F64 of shape \[11, 11\]"),
        (lambda path: resaved(path, meta={"shard": {"index": 3}}), "shard.of: Field required"),
        (lambda path: resaved(path, meta={"shard": "3/4"}), "shard: Input should be"),
        (lambda path: resaved(path, meta={"count": 59}), "shard: it says another number of rows than the moments"),
        (lambda path: resaved(path, meta={"shard": None}), "are no part"),
        (lambda path: resaved(path, mean=np.full(11, 1e308)), "its moments are larger than those of any neurons"),
        (lambda path: resaved(path, comoment=np.full((11, 11), -1.0)), "a variance is below 0"),
        (lambda path: resaved(path, **{"train.labels": labels_of(path) + 9}), "the labels of train are outside its 2 outputs"),
        (lambda path: resaved(path, **{"train.labels": labels_of(path).astype(np.float64)}), r"train\.labels must be I64"),
        (lambda path: resaved(path, **as_sets(path)), "labels of different kinds"),
    ],
)
def test_a_broken_part_is_refused(broken: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, dealt(4), 4)
    broken(paths[2])
    refused(paths, tmp_path / "out", says, capsys)


def test_parts_are_not_merged_one_by_one(tmp_path: Path) -> None:
    one, other = (statistics(dealt(2), part, parts=2) for part in (1, 2))
    with pytest.raises(StatisticsError, match="merged all at once"):
        one.merge(other)


def test_where_a_merge_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in written(tmp_path, dealt(2), 2)]
    out = tmp_path / "whole.safetensors"
    assert cli.main(["merge", *reversed(paths), "-o", str(out), "-q"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    before = out.read_bytes()
    assert cli.main(["merge", *paths, "-o", str(out)]) == 2
    assert "Add --overwrite" in capsys.readouterr().err
    assert cli.main(["merge", *paths, "-o", str(out), "--overwrite"]) == 0
    assert out.read_bytes() == before
    assert cli.main(["merge", *paths, "-o", paths[0], "--overwrite"]) == 2
    assert "another file than the parts" in capsys.readouterr().err
    (tmp_path / "notes").write_text("mine")
    assert cli.main(["merge", *paths, "-o", str(tmp_path / "notes"), "--overwrite"]) == 2
    assert "prunekit did not write what is there" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine"
