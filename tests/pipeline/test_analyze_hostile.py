"""Degenerate models and data through the whole of an analysis: a defined result, or one line and nothing left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunekit import cli
from prunekit.pipeline.analyze import Analysis, analyze
from prunekit.stats.record import Statistics
from tests import lines
from tests.lines import ROWS, checkpoint, data, sentences, write_rows

Change = Callable[[Any], None]


def changed(folder: Path, change: Change, outputs: int = 2) -> Path:
    """A fine-tuned model with some weights changed."""
    model = lines.balanced(lines.model_of("BertForSequenceClassification", outputs))
    with torch.no_grad():
        change(model)
    return lines.save(model, folder / "model")


def constant(model: Any) -> None:
    """Neuron 3 of layer 2 says the same of every row."""
    model.bert.encoder.layer[1].output.LayerNorm.weight[3] = 0.0


def equal(model: Any) -> None:
    """Neurons 0 and 1 of the embedding output are equal, bit by bit."""
    embeddings = model.bert.embeddings
    for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight[:, 1] = table.weight[:, 0]
    for parameter in embeddings.LayerNorm.parameters():
        parameter[1] = parameter[0]


def dead(model: Any) -> None:
    """No neuron of any layer varies."""
    for norm in (model.bert.embeddings.LayerNorm, *(layer.output.LayerNorm for layer in model.bert.encoder.layer)):
        norm.weight.zero_()


def broken(model: Any) -> None:
    """A weight is NaN."""
    model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")


def of(found: Analysis) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((found.path / "analysis.json").read_text())
    return read


def test_a_constant_neuron_is_in_no_cluster_and_in_no_ranking(tmp_path: Path) -> None:
    model = changed(tmp_path, constant)
    found = analyze(model, data("text"), compare=checkpoint("sequence"), rows=80, out=tmp_path / "a", pooling="mean")
    assert found.statistics is not None
    assert found.statistics.moments.variance[2 * 16 + 3] < 1e-12
    non_constant = set(np.flatnonzero(found.statistics.moments.non_constant(64)).tolist())
    assert 2 * 16 + 3 not in non_constant
    ranked = of(found)["analyzers"]["neurons"]["first"]
    assert all(set(ids) <= non_constant for ids in ranked.values())
    single = of(analyze(model, data("text"), analyzers=["clusters"], rows=80, out=tmp_path / "b", pooling="mean"))
    assert single["analyzers"]["clusters"]["counts"] == of(found)["analyzers"]["clusters"]["counts"]


def test_two_equal_neurons_are_one_cluster_at_any_distance(tmp_path: Path) -> None:
    found = analyze(changed(tmp_path, equal), data("text"), rows=80, out=tmp_path / "a", pooling="mean")
    read = Statistics.load(found.path / "statistics.safetensors")
    assert read.moments.variance[0] == read.moments.variance[1] > 0
    assert read.moments.correlation()[0, 1] == pytest.approx(1.0)
    assert of(found)["analyzers"]["clusters"]["counts"][0] < int(read.moments.non_constant(64).sum())
    assert all(np.isfinite(score) for trace in of(found)["analyzers"]["neurons"]["traces"].values() for _, score in trace)


def test_classes_that_were_never_seen_are_said(tmp_path: Path) -> None:
    rows = {
        name: [{"text": row["text"], "label": at % 2} for at, row in enumerate(lines.topic_rows(40, seed))]
        for seed, name in enumerate(ROWS)
    }
    found = analyze(changed(tmp_path, lambda _: None, outputs=3), lines.write_rows(tmp_path / "rows", rows), rows=40, out=tmp_path / "a")
    assert "no row of train that was drawn shows LABEL_2: no probe can tell what it never saw" in of(found)["notes"]
    assert 0 <= of(found)["analyzers"]["probes"]["model"]["upto"][-1] <= 1


def test_of_a_score_of_nothing_no_share_is_named(tmp_path: Path) -> None:
    # The two classes of train are not those of validation: whatever is predicted is wrong.
    rows = lines.topic_rows(60, 0)
    both = [{**row, "label": "abcd"[at % 2]} for at, row in enumerate(rows)]
    other = [{**row, "label": "cd"[at % 2]} for at, row in enumerate(rows)]
    train = [*both * 20, *other[:2]]
    folder = lines.write_rows(tmp_path / "rows", {"train": train, "validation": other, "test": other})
    found = analyze(checkpoint("base"), folder, analyzers=["neurons"], rows=30, out=tmp_path / "a")
    read = of(found)["analyzers"]["neurons"]
    assert read["oracle"] == 0.0
    assert all(size is None for sizes in read["fewest"].values() for size in sizes.values())
    assert found.results["neurons"].summary()[0].endswith("score 0.0%: there is nothing that a few could hold")


def texts(**splits: Callable[[int], object]) -> Callable[[Path], Path]:
    """Texts with labels by their number, one function a split."""
    label = next(iter(splits.values()))
    found = {
        name: [{"text": row["text"], "label": splits.get(name, label)(at)} for at, row in enumerate(lines.topic_rows(60, seed))]
        for seed, name in enumerate(ROWS)
    }
    return lambda folder: lines.write_rows(folder, found)


def tagged(tags: Callable[[list[str]], object]) -> Callable[[Path], Path]:
    """Sentences, the sixth of which has other tags."""
    found = {
        name: [
            {"tokens": words, "tags": tags(words) if at == 5 else [word[-3:] for word in words]}
            for at, words in enumerate(lines.sentences(20, seed))
        ]
        for seed, name in enumerate(ROWS)
    }
    return lambda folder: lines.write_rows(folder, found)


def unread(folder: Path) -> Path:
    """Texts of which each is read as one unknown token."""
    found = {name: [{"text": f"\u4e2d{at}\u4e2d", "label": at % 2} for at in range(60)] for name in ROWS}
    return lines.write_rows(folder, found)


@pytest.mark.parametrize(
    ("change", "rows", "options", "says"),
    [
        (broken, None, [], "NaN or infinity"),
        (dead, None, ["--pooling", "mean"], "No layer varies over these rows"),
        (None, unread, ["--analyzers", "neurons"], "No neuron varies: give rows that differ"),
        (None, None, ["--rows", "1"], "The 1 rows of train show one label only, .*Draw more"),
        (None, None, ["--rows", "1", "--analyzers", "cka"], "give more than one row"),
        (None, texts(train=lambda _: 0), [], "The label column 'label' of train holds one value only, 0"),
        (None, texts(train=lambda at: int(at == 3)), ["--rows", "5"], "The 5 rows of train show one label only, .*--rows"),
        (None, texts(train=lambda at: at % 2, validation=lambda _: 0), [], "The 60 rows of validation show one label only"),
        ("pairs", texts(train=lambda _: 1.5), ["--task", "regression"], "The label column 'label' of train holds one value only, 1.5"),
        (
            "pairs",
            texts(train=lambda at: at / 7, validation=lambda _: 1.5),
            ["--task", "regression"],
            "rows of validation are all 1.5: nothing .* Give more rows, or leave validation out.",
        ),
        ("base", tagged(lambda _: []), [], "The column 'tags' of train has not one tag a word in 1 row, first in row 6"),
        ("base", tagged(lambda _: None), [], "The column 'tags' of train has not one tag a word in 1 row, first in row 6"),
        (
            "base",
            tagged(lambda words: [None] * len(words)),
            [],
            "The column 'tags' of train has words without a tag in 1 row, first in row 6",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", "-".join(value) if isinstance(value, list) else ""),
)
def test_what_is_refused_leaves_nothing(
    change: Change | str | None,
    rows: Callable[[Path], Path] | None,
    options: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = changed(tmp_path, change) if callable(change) else checkpoint(change or "sequence")
    place = tmp_path / "place"
    place.mkdir()
    given = ["--data", str(data("text") if rows is None else rows(tmp_path / "rows"))]
    assert cli.main(["analyze", str(model), *given, "--rows", "80", *options, "-o", str(place / "a"), "-q"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"error: .*{says}.*\n", said.err), said.err
    assert not list(place.iterdir())


def test_control_labels_that_are_all_equal_are_left_out(tmp_path: Path) -> None:
    texts = sentences(102, 0)
    rows = [{"text": " ".join(words), "label": "ab"[at == 3]} for at, words in enumerate(texts)]
    held = [{"text": " ".join(words), "label": "ab"[at % 2]} for at, words in enumerate(sentences(20, 1))]
    folder = write_rows(tmp_path / "rows", {"train": rows, "validation": held, "test": held})
    controls = set()
    for seed in range(9):
        found = analyze(checkpoint("base"), folder, analyzers=["probes"], rows=102, seed=seed, out=tmp_path / f"{seed}", pooling="mean")
        page = (found.path / "analysis.json").read_text()
        controls.add(json.loads(page)["analyzers"]["probes"]["model"]["control"] is None)
    assert controls == {True, False}
