from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded
from prunekit.errors import StatisticsError
from prunekit.stats.blocks import Site, sites
from prunekit.stats.units import removal_costs, unit_scores
from tests.models import build
from tests.stats.encodings import encoded_of


def _removal_by_least_squares(rows: np.ndarray, weight: np.ndarray, gone: list[int]) -> float:
    """Error of the best linear map (with bias) from the inputs that stay to what all gave."""
    target = (rows - rows.mean(0)) @ weight.T
    stay = np.delete(rows - rows.mean(0), gone, axis=1)
    solution = np.linalg.lstsq(stay, target, rcond=None)[0]
    return float(np.square(target - stay @ solution).sum() / len(rows))


@pytest.mark.parametrize("width", [1, 3])
def test_the_removal_cost_is_the_error_that_a_refit_leaves(width: int) -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((200, 12)) @ generator.standard_normal((12, 12)) + 3
    weight = generator.standard_normal((5, 12))
    covariance = np.cov(rows.T, bias=True)
    found = removal_costs(covariance, weight, 12 // width)
    expected = [_removal_by_least_squares(rows, weight, list(range(at, at + width))) for at in range(0, 12, width)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_constant_and_equal_units_cost_nothing() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((100, 6))
    rows[:, 2], rows[:, 4] = 1.0, rows[:, 0]
    found = removal_costs(np.cov(rows.T, bias=True), np.ones((3, 6)), 6)
    assert found[[0, 2, 4]] == pytest.approx(0.0, abs=1e-7)
    assert (found[[1, 3, 5]] > 1).all()


# Llama's norms work in single precision, whatever the model has.
@pytest.mark.parametrize(
    ("case", "step", "tolerance"), [("bert", 1e-4, 1e-6), ("xlnet", 1e-4, 1e-6), ("albert", 1e-4, 1e-6), ("llama", 1e-2, 2e-3)]
)
def test_fisher_is_that_of_an_explicit_mask(case: str, step: float, tolerance: float) -> None:
    """The gradient by a mask on the projection's input columns, row by row, against what the pass gives."""
    view = ModelView.of(build(case, "ForSequenceClassification").double())
    encoded = encoded_of(view, rows=2, seed=1)
    found = {(score.block, score.role): score for score in unit_scores(view, encoded, labelled=True)}
    for site in sites(view):
        projection = site.projection(view)
        assert projection is not None
        expected = _masked_fisher(view, encoded, site, step)
        score = found[site.block, site.role]
        assert score.fisher_labels is not None
        np.testing.assert_allclose(score.fisher_labels, expected, rtol=1e-5, atol=tolerance * expected.max())


def test_padding_counts_for_nothing_where_a_head_reads_it() -> None:
    """XLNet's head reads the last position: of rows padded on the right only the longest have a derivative in the last block."""
    view = ModelView.of(build("xlnet", "ForSequenceClassification"))
    encoded = encoded_of(view, rows=8, seed=2)
    encoded = replace(encoded, padding=replace(encoded.padding, left=False))
    longest = encoded.take(np.flatnonzero(encoded.lengths == encoded.lengths.max()))
    assert 0 < len(longest) < len(encoded)
    whole, alone = (unit_scores(view, each, labelled=True)[-1].fisher_labels for each in (encoded, longest))
    assert whole is not None
    assert alone is not None
    np.testing.assert_allclose(len(encoded) * whole, len(longest) * alone, rtol=1e-4)


def _masked_fisher(view: ModelView, encoded: Encoded, site: Site, step: float) -> np.ndarray:
    """Scale a unit's columns of the projection: the derivative of the loss at scale 1, by central differences in double."""
    model = view.model
    projection = site.projection(view)
    assert projection is not None
    weight, units = projection.weight, view.units(site.role, site.block)
    width = weight.shape[1] // units
    squares = np.zeros(units)
    whole = weight.clone()
    for row in range(len(encoded)):
        batch = encoded.batch(np.array([row]))
        tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items() if name in view.inputs}
        label = torch.from_numpy(batch.labels)
        for unit in range(units):
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[:, unit * width : (unit + 1) * width] *= 1 + sign * step
                    losses.append(float(torch.nn.functional.cross_entropy(model(**tensors).logits, label)))
                    weight.copy_(whole)
            squares[unit] += ((losses[0] - losses[1]) / (2 * step)) ** 2
    return squares / len(encoded)


def test_energy_is_what_a_unit_adds() -> None:
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    encoded = encoded_of(view, rows=6, seed=2)
    found = {(score.block, score.role): score for score in unit_scores(view, encoded, labelled=False)}
    site = Site(0, "ffn")
    seen: list[torch.Tensor] = []
    handle = view.blocks[0].get_submodule(view.spec.ffn.output).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    masks = []
    with torch.no_grad():
        for batch in encoded.batches():
            view.model(**{name: torch.from_numpy(array) for name, array in batch.inputs.items() if name in view.inputs})
            masks.append(torch.from_numpy(batch.attention_mask).bool())
    handle.remove()
    rows = torch.cat([value[mask] for value, mask in zip(seen, masks, strict=True)]).double()
    projection = site.projection(view)
    assert projection is not None
    expected = rows.square().mean(0) * projection.weight.double().square().sum(0)
    np.testing.assert_allclose(found[0, "ffn"].energy, expected.numpy(), rtol=1e-4)
    assert found[0, "ffn"].fisher_labels is None


def test_a_broken_model_is_an_error_of_one_line() -> None:
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    with torch.no_grad():
        view.model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(StatisticsError, match="not finite"):
        unit_scores(view, encoded_of(view, rows=3, seed=0), labelled=True)
