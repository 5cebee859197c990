"""Sensitivity and refit of several processes are those of one, but for the order in which float64 sums are taken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from prunekit.arch.view import ModelView
from prunekit.refit.refit import refit
from prunekit.stats.comoment import ComomentSum
from prunekit.stats.sensitivity import READ, sensitivity
from tests.models import batch_of, build
from tests.processes import divided


def batches(count: int = 5) -> list[dict[str, Tensor]]:
    return [batch_of(rows=3 + number % 2, length=9 + number, seed=number) for number in range(count)]


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


@pytest.mark.parametrize(
    ("case", "head", "changes"),
    [
        ("bert", "ForSequenceClassification", {"num_labels": 3}),
        ("bert", "ForSequenceClassification", {"num_labels": 2}),
        ("roberta", "ForSequenceClassification", {"num_labels": 1}),
        ("bert", "ForSequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
        ("distilbert", "ForTokenClassification", {"num_labels": 3}),
        ("electra", "ForQuestionAnswering", {}),
        ("mpnet", "Model", {}),
        ("albert", "ForSequenceClassification", {"num_labels": 3}),
        ("xlnet", "ForSequenceClassification", {"num_labels": 3}),
    ],
)
@pytest.mark.parametrize("processes", [2, 7])
def test_sensitivity(case: str, head: str, changes: dict[str, Any], processes: int) -> None:
    view, rows = ModelView.of(build(case, head, **changes)), batches()
    if "Question" in head:
        rows = [{**row, READ: row["attention_mask"]} for row in rows]
    alone = sensitivity(view, rows, seed=3, units=True)
    with divided(processes):
        together = sensitivity(view, rows, seed=3, units=True)
    assert list(together) == list(alone)
    for site, one in alone.items():
        other = together[site]
        assert all(torch.equal(a, b) or close(a, b, 1e-6) for a, b in zip(one.weights, other.weights, strict=True))
        assert close(other.metric, one.metric, 1e-12)
        assert one.units is not None
        assert other.units is not None
        assert close(other.units.xx, one.units.xx, 1e-10)
        assert close(other.units.mean_x, one.units.mean_x, 1e-10)
        assert other.units.rows == one.units.rows


@pytest.mark.parametrize("case", ["bert", "albert", "deberta-v2"])
def test_refit(case: str) -> None:
    dense, rows = ModelView.of(build(case, "ForSequenceClassification")), batches()
    first = ModelView.of(build(case, "ForSequenceClassification", seed=1))
    slims = [ModelView.of(copy.deepcopy(first.model)) for _ in range(2)]
    weights = {site: measured.weights for site, measured in sensitivity(dense, rows).items()}
    alone = refit(slims[0], dense, rows, weights=weights)
    with divided(3):
        together = refit(slims[1], dense, rows, weights=weights)
    assert together == alone
    for name, one in slims[0].model.state_dict().items():
        assert close(slims[1].model.state_dict()[name].double(), one.double() + 1e-30, 1e-6), name


def test_sums_about_different_means_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator).double() + 3, torch.randn(40, 2, generator=generator).double() - 2
    weights = torch.rand(40, generator=generator).double()
    whole, parts = ComomentSum(), [ComomentSum() for _ in range(4)]
    whole.add(x, y, weights)
    for number, part in enumerate(parts[:3]):
        part.add(x[number::3] + 0, y[number::3], weights[number::3])
    found, expected = ComomentSum.of(parts).finish(), whole.finish()
    assert found.rows == expected.rows
    for name in ("weight", "mean_x", "mean_y", "xx", "yx", "yy"):
        assert torch.allclose(torch.as_tensor(getattr(found, name)), torch.as_tensor(getattr(expected, name)), rtol=1e-12), name
