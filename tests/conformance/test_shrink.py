"""Every family can be shrunk and refitted, or says what it cannot."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.budget import Budget, Unit, parse_budgets
from prunekit.exporters.checkpoint import load, save_checkpoint
from prunekit.pipeline.apply import apply
from prunekit.plan import Plan
from prunekit.pruning.costs import unit_price
from prunekit.pruning.shrink import Shrunk, shrink
from prunekit.stats.blocks import sites
from prunekit.transforms.cut import cut, prunable
from tests.models import CASES, FFN, LAYERS, batch_of, build

model_of = cache(build)


def rows_of(view: ModelView, batches: int = 3, rows: int = 8) -> list[dict[str, Tensor]]:
    return [
        {name: tensor for name, tensor in batch_of(rows, seed=seed).items() if name in view.inputs or name == "attention_mask"}
        for seed in range(batches)
    ]


def states(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    view = ModelView.of(model)
    with torch.no_grad():
        return torch.cat([view.hidden_states(batch)[-1][batch["attention_mask"].bool()] for batch in batches])


@cache
def shrunk(case: str, head: str, keep: str) -> Shrunk:
    model = model_of(case, head)
    return shrink(model, rows_of(ModelView.of(model)), parse_budgets(keep))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("head", "keep"), [("ForSequenceClassification", "60% params"), ("ForTokenClassification", "50% macs")])
def test_a_budget_is_met_and_the_plan_says_how(case: str, head: str, keep: str, tmp_path: Path) -> None:
    model = model_of(case, head)
    view = ModelView.of(model)
    batches = rows_of(view)
    result = shrunk(case, head, keep)
    (budget,) = parse_budgets(keep)
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).numpy()
    now, before = count(result.model, lengths), count(model, lengths)
    left = now.params_layers / before.params_layers if budget.unit is Unit.PARAMS else now.macs / before.macs
    assert left <= budget.amount
    assert left == result.steps[-1][budget.unit.value]
    slim = ModelView.of(result.model)
    assert result.plan.source == view.source
    planned = apply(model, result.plan)
    assert {name: tensor.shape for name, tensor in planned.state_dict().items()} == {
        name: tensor.shape for name, tensor in result.model.state_dict().items()
    }
    assert all(bool(torch.isfinite(parameter).all()) for parameter in result.model.parameters())
    save_checkpoint(result.model, None, result.plan, tmp_path)
    with torch.no_grad():
        batch = {name: batches[0][name] for name in slim.inputs}
        assert torch.equal(load(tmp_path)(**batch).logits, result.model(**batch).logits)


@pytest.mark.parametrize("case", CASES)
def test_refit_comes_closer_to_the_dense_model(case: str) -> None:
    model = model_of(case, "ForSequenceClassification")
    batches = rows_of(ModelView.of(model), 6)
    plan = shrunk(case, "ForSequenceClassification", "60% params").plan
    dense = states(model, batches)
    cut_only, solved = states(apply(model, plan), batches), states(apply(model, plan, batches), batches)
    assert float((solved - dense).square().mean()) < 0.8 * float((cut_only - dense).square().mean())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("head", ["Model", "ForQuestionAnswering"])
def test_refit_of_an_unpruned_model_changes_nothing(case: str, head: str) -> None:
    head = "ForQuestionAnsweringSimple" if case == "xlnet" and head == "ForQuestionAnswering" else head
    model = model_of(case, head)
    view = ModelView.of(model)
    same = apply(model, Plan(source=view.source), rows_of(view))
    for name, parameter in same.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_dropped_blocks_are_made_up_for(case: str) -> None:
    model = model_of(case, "ForSequenceClassification")
    view = ModelView.of(model)
    batches = rows_of(view, 6)
    dense = states(model, batches)
    for kept in ((0, 1), (0, 3)):
        plan = Plan(source=view.source, layers=kept)
        cut_only, solved = states(apply(model, plan), batches), states(apply(model, plan, batches), batches)
        assert float((solved - dense).square().mean()) < 0.95 * float((cut_only - dense).square().mean())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("unit", [Unit.PARAMS, Unit.MACS])
def test_the_price_of_a_unit_is_what_removing_it_frees(case: str, unit: Unit) -> None:
    lengths = np.array([3, 5, 9])
    for number in range(2):
        model = build(case)
        view = ModelView.of(model)
        site = sites(view)[number]
        assert prunable(view, site)
        units = view.units(site.role, site.block)
        price = unit_price(view, site, units, unit, lengths)
        before = count(view, lengths)
        cut(view, site, tuple(range(units - 1)), units)
        after = count(view, lengths)
        freed = before.params_layers - after.params_layers if unit is Unit.PARAMS else before.macs - after.macs
        assert price == pytest.approx(freed)


@pytest.mark.parametrize("case", CASES)
def test_uniform_widths_load_with_stock_classes(case: str, tmp_path: Path) -> None:
    model = model_of(case, "ForSequenceClassification")
    view = ModelView.of(model)
    result = shrink(model, rows_of(view), [Budget(Unit.PARAMS, 0.9)], uniform=True, multiple_of=6)
    widths = {len(result.plan.ffn.get(block, range(FFN))) for block in range(LAYERS)}
    assert len(widths) == 1
    assert widths <= {6, 12, 18}
    assert save_checkpoint(result.model, None, result.plan, tmp_path).name == "model.safetensors"
