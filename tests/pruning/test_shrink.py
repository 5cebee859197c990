from __future__ import annotations

import copy
import weakref
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from prunekit.arch.count import count
from prunekit.arch.view import ModelView
from prunekit.budget import Budget, Unit, parse_budgets
from prunekit.errors import BudgetError, ModelError, ParameterError, StatisticsError
from prunekit.pipeline.apply import apply
from prunekit.plan import Plan, ReadoutPlan
from prunekit.pruning.iterative import IterativePruner
from prunekit.pruning.shrink import goal_of, prune_to_targets, shrink
from prunekit.transforms.readout_head import ReadoutModel, set_readout
from tests.models import FFN, HEADS, LAYERS, batch_of, build

HEAD = "ForSequenceClassification"


def rows(batches: int = 3, size: int = 10) -> list[dict[str, Tensor]]:
    return [batch_of(size, seed=seed) for seed in range(batches)]


def divergence(model: torch.nn.Module, other: torch.nn.Module, batches: list[dict[str, Tensor]]) -> float:
    """Mean Kullback-Leibler divergence of the other's predictions."""
    with torch.no_grad():
        p, q = (torch.cat([each(**batch).logits for batch in batches]).log_softmax(-1) for each in (model, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_the_model_given_is_left_as_it_is_and_the_result_is_the_same_again() -> None:
    model = build("bert", HEAD)
    before = copy.deepcopy(model.state_dict())
    config = copy.deepcopy(model.config.to_dict())
    one, two = (shrink(model, rows(), parse_budgets("40% params"), seed=3) for _ in range(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert one.plan.digest == two.plan.digest
    assert all(torch.equal(tensor, two.model.state_dict()[name]) for name, tensor in one.model.state_dict().items())


def test_choosing_by_cost_and_refitting_beat_their_rivals() -> None:
    scores: dict[str, list[float]] = {"cost": [], "random": [], "magnitude": [], "no refit": []}
    for seed in range(2):
        model, batches = build("bert", HEAD, seed=seed), rows(4, 16)
        fresh = [batch_of(64, seed=20)]
        for criterion in ("cost", "random", "magnitude"):
            found = shrink(model, batches, parse_budgets("50% params"), criterion=criterion, seed=seed)
            scores[criterion].append(divergence(model, found.model, fresh))
            if criterion == "cost":
                scores["no refit"].append(divergence(model, apply(model, found.plan), fresh))
    ours = np.mean(scores.pop("cost"))
    assert all(ours < np.mean(others) for others in scores.values()), (ours, scores)


def test_all_budgets_hold_at_once() -> None:
    model, batches = build("bert", HEAD), rows()
    found = shrink(model, batches, parse_budgets(["70% params", "50% macs"]))
    assert found.steps[-1]["params"] <= 0.7
    assert found.steps[-1]["macs"] <= 0.5
    only = shrink(model, batches, parse_budgets("70% params"))
    assert only.steps[-1]["macs"] > 0.5
    # Shares fall from step to step.
    assert all(a["params"] >= b["params"] for a, b in zip(found.steps, found.steps[1:], strict=False))


def test_a_budget_of_everything_removes_nothing() -> None:
    model = build("bert", HEAD)
    found = shrink(model, rows(), parse_budgets("100% params"))
    assert found.plan == Plan(source=ModelView.of(model).source)
    assert found.steps == ({"params": 1.0, "macs": 1.0},)


def test_next_to_nothing_is_left_and_still_finite() -> None:
    model = build("bert", HEAD)
    found = shrink(model, rows(), parse_budgets("8% params"))
    assert any(not units for units in (*found.plan.heads.values(), *found.plan.ffn.values()))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in found.model.parameters())


def test_fewer_tokens_than_neurons_give_the_damped_solution() -> None:
    model = build("bert", HEAD, intermediate_size=64)
    batches = [batch_of(2, length=4)]
    assert int(batches[0]["attention_mask"].sum()) < 64
    found = shrink(model, batches, parse_budgets("40% params"))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in found.model.parameters())


def test_progress_is_told_to_its_end() -> None:
    told: list[tuple[int, int]] = []
    shrink(build("bert", HEAD), rows(), parse_budgets("10% params"), progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 3) for step in (1, 2, 3)]


@pytest.mark.parametrize("case", ["bert", "llama"])
def test_uniform_keeps_equally_many_everywhere(case: str) -> None:
    model = build(case, HEAD)
    view = ModelView.of(model)
    batches = [{name: tensor for name, tensor in batch.items() if name in view.inputs} for batch in rows()]
    found = shrink(model, batches, [Budget(Unit.PARAMS, 0.86)], uniform=True)
    widths = {len(found.plan.ffn.get(block, range(FFN))) for block in range(LAYERS)}
    heads = {len(found.plan.heads.get(block, range(view.source.heads))) for block in range(LAYERS)}
    assert len(widths) == len(heads) == 1
    assert 0 not in widths | heads
    assert found.steps[-1]["params"] <= 0.86
    assert case == "llama" or heads == {HEADS}
    assert type(model)(found.model.config).state_dict().keys() == found.model.state_dict().keys()


@pytest.mark.parametrize("keep", ["70% params", "100% params"])
def test_widths_are_multiples(keep: str) -> None:
    found = shrink(build("bert", HEAD), rows(), parse_budgets(keep), multiple_of=8)
    widths = [len(found.plan.ffn.get(block, range(FFN))) for block in range(LAYERS)]
    assert {width % 8 for width in widths} == {0}
    assert found.steps[-1]["params"] <= float(keep.split("%")[0]) / 100


def test_what_cannot_be_reached_says_what_can() -> None:
    model = build("bert", HEAD)
    empty = dict.fromkeys(range(LAYERS), ())
    least = count(apply(model, Plan(source=ModelView.of(model).source, heads=empty, ffn=empty)), np.array([5])).params_layers
    share = least / count(model, np.array([5])).params_layers
    with pytest.raises(BudgetError, match=f"heads and FFN neurons: with as few as may be, {share:.1%} of the params is left"):
        shrink(model, rows(), [Budget(Unit.PARAMS, share * 0.99)])
    with pytest.raises(BudgetError, match="uniform widths cannot say that there are fewer"):
        shrink(model, rows(), parse_budgets("30% params"), uniform=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budgets": parse_budgets("10%")}, ParameterError, "shares of params or macs"),
        ({"budgets": ()}, ParameterError, "at least one"),
        ({"multiple_of": 0}, ParameterError, "a whole number from 1 to"),
        ({"multiple_of": 21}, ParameterError, "Got 21"),
        ({"batches": []}, StatisticsError, "no calibration rows"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        shrink(build("bert", HEAD), **{"batches": rows(1), "budgets": parse_budgets("50% params"), **arguments})


def test_broken_models_are_refused() -> None:
    model = build("bert", HEAD)
    model.bert.encoder.layer[1].output.dense.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"hold NaN or infinity in bert\.encoder\.layer\.1\.output\.dense\.weight"):
        shrink(model, rows(1), parse_budgets("50% params"))
    model = build("bert", HEAD)
    model.bert.encoder.layer = model.bert.encoder.layer[:-1]
    with pytest.raises(ModelError, match="has not the weights that its config describes"):
        shrink(model, rows(1), parse_budgets("50% params"))
    with pytest.raises(ModelError, match="has no numbers of its own"):
        shrink(build("bert", HEAD).to("meta"), rows(1), parse_budgets("50% params"))


def test_a_frozen_model_is_pruned_as_it_is_and_stays_frozen() -> None:
    model, frozen = build("bert", HEAD), build("bert", HEAD).requires_grad_(False)
    found, again = (shrink(each, rows(), parse_budgets("40% params")) for each in (model, frozen))
    assert found.plan.digest == again.plan.digest
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attention_mask": None}, "there is no attention_mask"),
        ({"input_ids": None}, "there is no input_ids"),
        ({"input_ids": torch.ones(10, 3, dtype=torch.int64)}, "attention_mask must be of the shape of input_ids"),
        ({"input_ids": torch.zeros(10)}, "input_ids must be rows of tokens"),
        ({"input_ids": torch.zeros(10, 0, dtype=torch.int64)}, "input_ids must be rows of tokens"),
    ],
)
def test_rows_that_the_model_cannot_read_are_refused(changes: dict[str, Tensor | None], says: str) -> None:
    batch = {name: tensor for name, tensor in {**rows(1)[0], **changes}.items() if tensor is not None}
    model = build("bert", HEAD)
    with pytest.raises(StatisticsError, match=f"Batch 2 of the calibration rows cannot be read: {says}"):
        shrink(model, [*rows(1), batch], parse_budgets("50% params"))
    with pytest.raises(StatisticsError, match=f"Batch 1 of the calibration rows cannot be read: {says}"):
        apply(model, Plan(source=ModelView.of(model).source), [batch])


@pytest.mark.parametrize("change", [lambda ids: ids + 10**6, lambda ids: -1 - ids, lambda ids: ids.float()])
def test_tokens_that_the_model_does_not_embed_are_refused(change: Any) -> None:
    batch = rows(1)[0]
    with pytest.raises(StatisticsError, match="input_ids must be whole numbers from 0 to"):
        shrink(build("bert", HEAD), [{**batch, "input_ids": change(batch["input_ids"])}], parse_budgets("50% params"))


@pytest.mark.parametrize("lengths", [[], [[5, 6]], [0], [2**62], ["5"], [5.5]])
def test_lengths_that_no_row_has_are_refused(lengths: list[Any]) -> None:
    with pytest.raises(ParameterError, match="The 'lengths' parameter of shrink must be one whole number from 1 to"):
        shrink(build("bert", HEAD), rows(1), parse_budgets("50% macs"), lengths=np.array(lengths))


@pytest.mark.parametrize(("case", "top"), [*product(("bert", "deberta-v2", "llama"), (0, 2, LAYERS)), ("albert", 2), ("albert", LAYERS)])
def test_a_model_that_reads_neurons_can_be_shrunk(case: str, top: int) -> None:
    model = build(case)
    view = ModelView.of(model)
    readout = ReadoutPlan(pooling="mean", neurons={0: (1, 2), top: tuple(range(5))} if top else {0: (1, 2)})
    reader = apply(model, Plan(source=view.source, readout=readout))
    assert isinstance(reader, ReadoutModel)
    generator = torch.Generator().manual_seed(0)
    set_readout(reader, torch.randn(reader.readout.weight.shape, generator=generator), torch.zeros(reader.readout.out_features))
    batches = [{name: tensor for name, tensor in batch.items() if name in view.inputs} for batch in rows()]
    start = count(model, np.array([5]))
    found = shrink(reader, batches, [Budget(Unit.PARAMS, 0.4)], start=start)
    whole = Plan(source=view.source, heads=found.plan.heads, ffn=found.plan.ffn, readout=readout)
    if case == "albert" and 0 < top < LAYERS:
        # All blocks of the source share what is kept, those above the readout too.
        whole = whole.model_copy(
            update={role: {block: getattr(whole, role)[0] for block in range(LAYERS)} for role in ("heads", "ffn") if getattr(whole, role)}
        )
    planned = apply(model, whole)
    assert {name: tensor.shape for name, tensor in planned.state_dict().items()} == {
        name: tensor.shape for name, tensor in found.model.state_dict().items()
    }
    assert count(found.model, np.array([5])).params_layers <= 0.4 * start.params_layers


def test_a_model_that_is_trained_afterwards_is_solved_anew_in_the_last_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches, goal = build("bert", HEAD), rows(4, 16), parse_budgets("12% params")[0]
    steps: dict[bool, list[str]] = {}
    found = {}
    for trained in (False, True):
        work = IterativePruner(model, batches)
        done = steps.setdefault(trained, [])
        for name in ("step", "trim"):
            taken = getattr(work, name)
            monkeypatch.setattr(work, name, lambda *args, taken=taken, name=name, done=done: (done.append(name), taken(*args))[1])
        prune_to_targets(work, [goal_of(goal, work.start, work.lengths)], trained=trained)
        found[trained] = work.result()
        assert count(found[trained].model, work.lengths).params_layers <= 0.12 * work.start.params_layers
    assert steps == {False: ["step"] * 3, True: ["trim", "trim", "step"]}
    cut = apply(model, found[True].plan)
    assert divergence(model, found[True].model, batches) < divergence(model, cut, batches)


def test_statistics_that_were_forgotten_are_computed_again() -> None:
    model, batches, goal = build("bert", HEAD), rows(4, 16), parse_budgets("40% params")[0]
    start = IterativePruner(model, batches)
    whole = [goal_of(goal, start.start, start.lengths)]
    first = start.fork()
    held = weakref.ref(start._dense_calls)
    start.forget()
    assert held() is not None
    first.step(whole)
    del first._dense_calls
    assert held() is None
    second = IterativePruner(model, batches)
    second.forget()
    forked = second.fork()
    forked.step(whole)
    assert forked.kept == first.kept
    for name, tensor in forked.view.model.state_dict().items():
        torch.testing.assert_close(tensor, first.view.model.state_dict()[name], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("taken", ["step", "trim"])
def test_a_fork_of_a_model_that_was_cut_leaves_it_as_it_is(taken: str) -> None:
    work = IterativePruner(build("bert", HEAD), rows())
    first, second = ([goal_of(parse_budgets(text)[0], work.start, work.lengths)] for text in ("70% params", "40% params"))
    work.step(first)
    kept, weights = work.kept, copy.deepcopy(work.view.model.state_dict())
    forked = work.fork()
    getattr(forked, taken)(second)
    assert second[0].met(forked.view)
    assert work.kept == kept
    for name, tensor in work.view.model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0.0, atol=0.0)


def test_what_moments_weigh_is_known_beforehand() -> None:
    work = IterativePruner(build("bert", HEAD), rows(4, 16))
    held = work._measure_sensitivities().by_site.values()
    assert work.moment_bytes == sum(each.covariance.nbytes for each in held if each.covariance is not None)


def test_a_model_in_training_mode_is_pruned_without_dropout() -> None:
    batches = [batch_of(12, seed=seed) for seed in range(2)]
    model = build("bert", "ForSequenceClassification", hidden_dropout_prob=0.5)
    found = shrink(model, batches, parse_budgets("50% params"))
    again = shrink(model.train(), batches, parse_budgets("50% params"))
    assert model.training
    assert again.plan == found.plan
    for name, tensor in again.model.state_dict().items():
        torch.testing.assert_close(tensor, found.model.state_dict()[name])


def test_a_head_and_a_class_of_ones_own_are_taken() -> None:
    class WeightedForSequenceClassification(transformers.BertForSequenceClassification):
        def __init__(self, config: Any, weights: Tensor) -> None:
            super().__init__(config)
            self.weights = weights

    own = WeightedForSequenceClassification(build("bert", HEAD).config, torch.ones(2))
    model = build("bert", HEAD)
    model.classifier = torch.nn.Sequential(torch.nn.Linear(24, 24), model.classifier)
    for each in (own, model):
        assert shrink(each, rows(1), parse_budgets("50% params")).plan.heads


def test_a_head_that_is_lost_and_labels_that_are_not_there_are_one_line() -> None:
    headless, unnamed = build("bert", HEAD), build("bert", HEAD)
    headless.classifier = None
    unnamed.config.id2label = None
    without = build("bert", HEAD)
    without.config = None
    no_labels = "has a config without labels"
    for model, says in ((headless, "has lost its classifier"), (unnamed, no_labels), (without, no_labels)):
        with pytest.raises(ModelError, match=says):
            shrink(model, rows(1), parse_budgets("50% params"))
