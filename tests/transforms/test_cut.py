"""A cut of a site is checked before and after, like every change of a model."""

from __future__ import annotations

import copy

import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan
from prunekit.stats.blocks import ROLES, Role, Site
from prunekit.transforms import cut as module
from prunekit.transforms.apply import apply
from prunekit.transforms.cut import cut, prunable
from tests.models import build


def view_of(case: str = "bert") -> ModelView:
    return ModelView.of(copy.deepcopy(build(case)))


@pytest.mark.parametrize("case", ["bert", "mpnet", "xlnet"])
@pytest.mark.parametrize("role", ROLES)
def test_what_is_gone_has_no_units_and_may_be_removed_again(role: Role, case: str) -> None:
    view = view_of(case)
    site, units = Site(1, role), view.units(role, 1)
    cut(view, site, (), units)
    assert not prunable(view, site)
    before = {name: tensor.clone() for name, tensor in view.model.state_dict().items()}
    with pytest.raises(UnsupportedError, match=f"{case} model, {role}: block 1 has none left"):
        cut(view, site, (0,), units)
    cut(view, site, (), units)
    # The bias of the projection stays in the place of the sub-block.
    after = view.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_affine_map_has_no_neurons_and_is_removed_as_a_whole() -> None:
    model = build("bert")
    view = ModelView.of(apply(model, Plan(source=ModelView.of(model).source, affine=(1,))))
    with pytest.raises(UnsupportedError, match="block 1 has none left"):
        cut(view, Site(1, "ffn"), (0,), 1)
    cut(view, Site(1, "ffn"), (), 1)
    assert not [name for name in view.model.state_dict() if name.startswith("encoder.layer.1.output.dense.weight")]


@pytest.mark.parametrize("stay", [(1, 0), (0, 0), (0, 4), (-1, 0)])
def test_positions_are_increasing_and_among_the_units(stay: tuple[int, ...]) -> None:
    view = view_of()
    with pytest.raises(AssertionError, match="increasing positions among 4"):
        cut(view, Site(0, "heads"), stay, 4)


@pytest.mark.parametrize("step", ["slice_units", "remove"])
def test_a_cut_that_does_not_happen_is_noticed(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, step, lambda *_: None)
    with pytest.raises(AssertionError, match="does not have"):
        cut(view_of(), Site(0, "heads"), (1, 2) if step == "slice_units" else (), 4)
