from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from prunekit.training.distill import recover
from prunekit.training.matching import distance, match_layers, vector_distance
from prunekit.training.objective import listwise
from tests import lines
from tests.training.rows import encoded


@pytest.mark.parametrize(("slim", "dense"), [(1, 1), (1, 5), (3, 3), (3, 6), (4, 7)])
def test_the_cheapest_of_all_increasing_assignments_is_found(slim: int, dense: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        costs = generator.random((slim, dense))
        every = [(*below, dense - 1) for below in combinations(range(dense - 1), slim - 1)]
        best = min(every, key=lambda chosen: sum(costs[row, column] for row, column in enumerate(chosen)))
        assert match_layers(costs) == best


def test_distance_is_that_of_real_tokens_in_units_of_the_teachers_variance() -> None:
    theirs = torch.randn(2, 5, 7)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    ours = theirs.clone()
    ours[~mask] += 100
    assert float(distance(ours, theirs, mask)) == 0
    rows = theirs[mask]
    mean = rows.mean(0).expand(2, 5, 7)
    assert float(distance(mean, theirs, mask)) == pytest.approx(1.0)
    assert float(distance(10 * mean, 10 * theirs, mask)) == pytest.approx(1.0)


def test_a_single_row_has_the_units_of_others() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(64, 16, generator=generator)
    ours = theirs + 0.1 * torch.randn(64, 16, generator=generator)
    together = float(vector_distance(ours, theirs, own_space=False))
    for size in (1, 2):
        few = [float(vector_distance(ours[at : at + size], theirs[at : at + size], own_space=False)) for at in range(64 - size)]
        assert max(few) < 20 * together
    query = torch.zeros(1, dtype=torch.int64)
    assert float(listwise(ours[:1, :1], theirs[:1, :1], query)) == pytest.approx(float((ours[0, 0] - theirs[0, 0]) ** 2))


def test_the_unit_of_values_does_not_matter() -> None:
    """Dollars or cents: what is learned of the values weighs as much beside the hidden states."""
    found = []
    for unit in (1.0, 100.0):
        teacher, model = (lines.model_of("BertForSequenceClassification", 1, seed=seed) for seed in (0, 1))
        for each in (teacher, model):
            with torch.no_grad():
                each.classifier.weight.mul_(unit)
                each.classifier.bias.mul_(unit)
        found.append(recover(model, teacher, encoded("train"), effort="1epoch", validation=encoded("validation")))
    assert found[0].before == pytest.approx(found[1].before, rel=1e-4)
    assert found[0].before < -0.1
