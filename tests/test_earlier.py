"""What earlier versions wrote is still read; `tests/earlier` was written by the version of 21 November 2026 (commit e8e8881)."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

import prunekit
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.html import to_html
from prunekit.report.model import Report
from prunekit.stats.record import Statistics

HERE = Path(__file__).parent / "earlier"
ARTEFACT = HERE / "artefact"


@pytest.fixture(scope="module")
def report() -> Report:
    return Report.from_json((ARTEFACT / "report.json").read_text(encoding="utf-8"))


def test_a_plan_has_the_digest_that_it_had(report: Report) -> None:
    plan = Plan.load(ARTEFACT / "plan.json")
    assert plan.digest == report.plan_digest
    assert plan.readout is not None
    assert plan.readout.size == report.slim.neurons


def test_a_recipe_says_what_it_said() -> None:
    recipe = Recipe.load(ARTEFACT / "recipe.yaml")
    assert [str(budget) for budget in recipe.budgets] == ["60% params", "50% neurons"]
    assert (recipe.seed, recipe.threads, recipe.max_length) == (0, 1, 128)


def test_a_report_can_be_shown(report: Report) -> None:
    assert report.verdict in unescape(to_html(report))


def test_statistics_are_those_of_the_rows() -> None:
    statistics = Statistics.load(HERE / "statistics.safetensors")
    moments = statistics.moments
    # Four layers of 16 neurons, and the outputs of two classes.
    assert (moments.count, moments.width) == (40, 66)
    assert moments.mean[64:].sum() == pytest.approx(1.0)
    eigenvalues = np.linalg.eigvalsh(moments.comoment)
    assert eigenvalues.min() > -1e-9 * eigenvalues.max()


@pytest.mark.needs("onnxruntime")
def test_an_artefact_is_loaded_and_answers_as_its_file() -> None:
    import onnxruntime

    model = prunekit.load(ARTEFACT)
    session = onnxruntime.InferenceSession(str(ARTEFACT / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(5, 60, size=(4, 9))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds = {each.name: given[each.name] for each in session.get_inputs()}
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits
    np.testing.assert_allclose(logits.numpy(), session.run(["logits"], feeds)[0], atol=1e-4)
