"""Only the embeddings of tokens that occur are trained."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prunekit.arch.view import ModelView
from prunekit.training import distill
from prunekit.training.tokens import Occurring, occurring
from tests.models import CASES, batch_of, build
from tests.training.rows import dense, encoded, slim


def table(model: Any) -> torch.nn.Embedding:
    return model.get_input_embeddings()


def trained(monkeypatch: pytest.MonkeyPatch | None = None) -> Any:
    """A slim model after training on some rows, with tables of the tokens that occur or, under the patch, with the whole one."""
    if monkeypatch is not None:
        monkeypatch.setattr(distill, "occurring", lambda *_: nullcontext())
    rows = encoded("train").take(np.arange(12))
    held = encoded("validation").take(np.arange(6))
    return distill.recover(slim().model, dense(), rows, plan=slim().plan, effort="6epochs", validation=held).model


def test_what_occurs_is_trained_as_in_the_whole_table_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    found = trained()
    whole = trained(monkeypatch)
    seen = np.unique(np.concatenate([encoded(name).take(np.arange(n)).ids for name, n in (("train", 12), ("validation", 6))]))
    before, after, wanted = (table(model).weight.detach() for model in (slim().model, found, whole))
    rest = np.setdiff1d(np.arange(len(before)), [*seen, encoded("train").padding.token])
    assert len(rest) > 0
    assert torch.equal(after[rest], before[rest])
    assert not torch.equal(after[seen], before[seen])
    torch.testing.assert_close(after[seen], wanted[seen], atol=1e-5, rtol=1e-4)
    assert {name for name, _ in found.named_parameters()} == {name for name, _ in slim().model.named_parameters()}
    assert type(table(found)) is type(table(slim().model))


@pytest.mark.parametrize("case", CASES)
def test_every_family_answers_the_same_with_it(case: str) -> None:
    model = build(case)
    batch = batch_of()
    view = ModelView.of(model)
    inputs = {name: batch[name] for name in view.inputs if name in batch}
    with torch.no_grad():
        before = model(**inputs)[0]
        state = copy.deepcopy(model.state_dict())
        split: Any = SimpleNamespace(
            ids=batch["input_ids"].numpy().ravel(), padding=SimpleNamespace(token=int(model.config.pad_token_id or 0))
        )
        with occurring(view, (split,)):
            assert any(isinstance(module, Occurring) for module in model.modules())
            torch.testing.assert_close(model(**inputs)[0], before)
    assert not any(isinstance(module, Occurring) for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_table_that_is_not_trained_stays_where_it_is() -> None:
    model = copy.deepcopy(slim().model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with occurring(ModelView.of(model), (encoded("validation").take(np.arange(2)),)):
        assert not any(isinstance(module, Occurring) for module in model.modules())
