"""The rows on which heads and FFN neurons are chosen: bounded in number and in tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from prunekit.data.batches import Encoded, _Padding
from prunekit.pipeline.inputs import CALIBRATION, LEAST, TOKENS, TOKENS_TRAINED, calibration, load_inputs
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from tests.lines import checkpoint, data


def rows(lengths: np.ndarray) -> Encoded:
    total = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids, kinds = np.ones(total, dtype=np.int32), np.zeros(total, dtype=np.int8)
    return Encoded(ids, kinds, offsets, np.zeros(len(lengths), dtype=np.int64), 0, 0, _Padding(0, 0, False))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("length", "number"), [(4, 5000), (128, 3000), (2000, 100), (16, 40)])
def test_calibration_rows_are_bounded_by_number_and_by_tokens(trained: bool, length: int, number: int) -> None:
    generator = np.random.default_rng(length)
    encoded = rows(generator.integers(max(1, length // 2), length + 1, size=number))
    most = TOKENS_TRAINED if trained else TOKENS
    batches = calibration(encoded, 0, trained=trained)
    drawn = sum(len(batch["input_ids"]) for batch in batches)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert drawn <= min(CALIBRATION, number)
    assert tokens <= 1.2 * most or drawn == LEAST
    # Nothing is left out that there was room for.
    assert drawn in (CALIBRATION, number, LEAST) or tokens >= 0.8 * most


def test_of_a_large_validation_split_some_rows_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(model=str(checkpoint("sequence")), data=str(data("text")), keep=("60% params",))
    whole = load_inputs(recipe, None, Stages())
    monkeypatch.setattr("prunekit.pipeline.inputs.VALIDATION", 25)
    found = load_inputs(recipe, None, Stages())
    assert len(found.encoded["validation"]) == len(found.data.validation) == 25
    assert set(found.data.validation.texts) <= set(whole.data.validation.texts)
    assert found.data.test.texts == whole.data.test.texts
    assert "validation: 25 of 60 rows, drawn at random, choose" in found.notes
    assert not any("drawn at random, choose" in note for note in whole.notes)


def test_many_rows_that_are_cut_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    monkeypatch.setattr(Stages, "say", lambda _, line: said.append(line))
    for length, shown in ((8, True), (64, False)):
        found = load_inputs(Recipe(model=str(checkpoint("sequence")), data=str(data("text")), max_length=length), None, Stages())
        assert bool(said) == any("rows were cut at 8 tokens (--max-length reads more, 64 at most)" in note for note in found.notes) == shown
        said.clear()


def test_a_head_that_is_not_used_leaves_no_kind_of_problem() -> None:
    found = load_inputs(Recipe(model=str(checkpoint("pairs")), data=str(data("topics")), text="text"), None, Stages())
    assert not found.own_head
    assert found.loaded.config.problem_type is None
    assert found.loaded.config.num_labels == 2


def test_a_classifier_that_is_a_pickle_is_said(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("base"), tmp_path / "setfit"))
    recipe = Recipe(model=str(folder), data=str(data("text")))
    assert not any("pickle" in note for note in load_inputs(recipe, None, Stages()).notes)
    (folder / "model_head.pkl").write_bytes(b"never read")
    assert any("(model_head.pkl) is a pickle and was not read" in note for note in load_inputs(recipe, None, Stages()).notes)
