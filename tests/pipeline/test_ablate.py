from __future__ import annotations

import numpy as np
import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded
from prunekit.pipeline.ablate import ablate
from prunekit.plan import Plan
from prunekit.transforms.apply import apply
from tests.models import LAYERS, build
from tests.stats.encodings import encoded_of


def _answers(view: ModelView, plan: Plan, encoded: Encoded) -> np.ndarray:
    """The model that the plan leaves, run as a whole, row by row."""
    slim = ModelView.of(apply(view.model, plan)).model.eval()
    found = []
    for row in range(len(encoded)):
        batch = encoded.batch(np.array([row]))
        with torch.no_grad():
            found.append(slim(**{name: torch.from_numpy(array) for name, array in batch.inputs.items() if name in view.inputs}).logits)
    return torch.cat(found).numpy()


@pytest.mark.parametrize("case", ["bert", "xlnet", "gpt2", "modernbert", "deberta-v2", "distilbert"])
def test_every_ablation_is_the_model_that_a_plan_leaves(case: str) -> None:
    view = ModelView.of(build(case, "ForSequenceClassification"))
    encoded = encoded_of(view, rows=5, seed=0)
    found = ablate(view, encoded, 3)
    everything = tuple(range(LAYERS))
    for k in range(1, LAYERS + 1):
        plan = Plan(source=view.source, layers=everything[:k])
        np.testing.assert_allclose(found.kept[k], _answers(view, plan, encoded), atol=1e-5)
    for gone in range(LAYERS):
        layers = tuple(layer for layer in everything if layer != gone)
        np.testing.assert_allclose(found.layers[gone], _answers(view, Plan(source=view.source, layers=layers), encoded), atol=1e-5)
        for given, role in ((found.ffn, "ffn"), (found.attention, "heads")):
            if given is not None:
                plan = Plan(source=view.source, **{role: {gone: ()}})
                np.testing.assert_allclose(given[gone], _answers(view, plan, encoded), atol=1e-5)


def test_shared_blocks_are_left_out_one_pass_at_a_time() -> None:
    view = ModelView.of(build("albert", "ForSequenceClassification"))
    encoded = encoded_of(view, rows=4, seed=0)
    found = ablate(view, encoded, 3)
    assert found.ffn is not None
    np.testing.assert_allclose(found.kept[LAYERS], _answers(view, Plan(source=view.source), encoded), atol=1e-5)
    np.testing.assert_allclose(found.kept[2], _answers(view, Plan(source=view.source, layers=(0, 1)), encoded), atol=1e-5)
    # Passes are alike, but what they are given is not.
    assert np.abs(found.ffn[0] - found.ffn[3]).max() > 1e-6


def test_the_model_is_as_before() -> None:
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    encoded = encoded_of(view, rows=3, seed=0)
    before = _answers(view, Plan(source=view.source), encoded)
    ablate(view, encoded, 3)
    assert all("forward" not in vars(block) for block in view.blocks)
    np.testing.assert_array_equal(_answers(view, Plan(source=view.source), encoded), before)
