"""A training that several processes divide is that of one, but for the order in which sums are taken."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.errors import ProcessError, StatisticsError
from prunekit.tasks import TaskKind
from prunekit.training import learner as learning
from prunekit.training.distill import recover
from prunekit.training.learner import Learner
from prunekit.training.objective import Objective
from prunekit.training.teacher import Teacher, outputs_of
from tests.models import batch_of, build
from tests.processes import divided
from tests.training.rows import dense, encoded, slim, task_data


def rows_of(head: str, count: int = 5) -> dict[str, Any]:
    """A batch as it is trained on, with padding, of which no two rows have as many tokens."""
    batch: dict[str, Any] = {"number": 0, **batch_of(rows=count, length=9), "queries": None, "first": None}
    mask = (torch.arange(9) < torch.arange(9, 9 - count, -1)[:, None]).long()
    batch["attention_mask"] = mask
    batch["labels"] = torch.arange(count) % 2
    if "Token" in head or "Question" in head:
        # Not the first token, which is read of no row, and of the last row none at all.
        read = mask.bool() & (torch.arange(9) > 0) & (torch.arange(count) < count - 1)[:, None]
        batch["first"] = read.nonzero()
        batch["labels"] = torch.arange(len(batch["first"])) % 2
    return batch


def gradients(view: ModelView, objective: Objective, batch: dict[str, Any], size: int) -> tuple[float, dict[str, Tensor | None]]:
    """Gradients of one step by so many processes."""
    learner = Learner(view, objective, [batch], None, None)  # type: ignore[arg-type]  # rows are numbered, that is all
    view.model.zero_grad()
    with divided(size), learner.together():
        learner.begin(0, 1)
        loss = learner.loss(batch, 1)
        loss.backward()  # type: ignore[no-untyped-call]
        learner.finish()
    return loss.item(), {name: parameter.grad for name, parameter in view.model.named_parameters()}


CASES = {
    "classes": ("bert", "ForSequenceClassification", {"num_labels": 2}),
    "labels": ("bert", "ForSequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
    "values": ("roberta", "ForSequenceClassification", {"num_labels": 1}),
    "tokens": ("distilbert", "ForTokenClassification", {"num_labels": 2}),
    "spans": ("electra", "ForQuestionAnswering", {}),
    "lists": ("bert", "ForSequenceClassification", {"num_labels": 1}),
    "embedder": ("mpnet", "Model", {}),
    "own space": ("mpnet", "Model", {}),
    "shared weights": ("albert", "ForSequenceClassification", {"num_labels": 2}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2, 7])
def test_gradients_add_up_to_those_of_one_process(case: str, size: int) -> None:
    family, head, changes = CASES[case]
    models = [build(family, head, seed=seed, **changes) for seed in range(2)]
    if head == "Model":
        models = [EmbeddingModel(model, Embedding(pooling="mean", normalize=True)).eval() for model in models]
    view, teacher = map(ModelView.of, models)
    batch = rows_of(head)
    task: Any = None
    if case in ("classes", "tokens"):
        task = SimpleNamespace(many=False, kind=TaskKind.CLASSIFICATION)
    if case == "labels":
        task, batch["labels"] = SimpleNamespace(many=True, kind=TaskKind.CLASSIFICATION), torch.arange(15).reshape(5, 3) % 2
    if case == "lists":
        batch["queries"] = torch.tensor([4, 4, 4, 9, 9])
    lists, own_space = case == "lists", case == "own space"
    given = Objective(task=task, layers=tuple(range(view.num_layers)), outputs=outputs_of(view), own_space=own_space, lists=lists, unit=2.0)

    def of(size: int) -> tuple[float, dict[str, Tensor | None]]:
        return gradients(view, replace(given, teacher=Teacher(teacher, limit=2**30, precision=None)), batch, size)

    (loss, alone), (_, together) = of(1), of(size)
    assert loss > 0
    largest = max(float(grad.abs().max()) for grad in alone.values() if grad is not None)
    for name, grad in alone.items():
        other = together[name]
        # What does not take part is not stepped, and does not decay.
        assert (grad is None) == (other is None), name
        if grad is not None and other is not None:
            assert float((grad - other).abs().max()) <= 1e-5 * largest, name


def trained(size: int, **changes: Any) -> Any:
    rows = encoded("train").take(np.arange(100))
    given: dict[str, Any] = {"effort": "3epochs", "plan": slim().plan, "validation": encoded("validation"), "learning_rate": 1e-3}
    with divided(size):
        return recover(slim().model, dense(), rows, **{**given, **changes})


def apart(one: nn.Module, other: nn.Module) -> float:
    # What is added to every key changes no answer: its gradient is rounding alone, which AdamW takes for a direction.
    weights = [{name: value for name, value in each.state_dict().items() if not name.endswith("key.bias")} for each in (one, other)]
    return max(float((value - weights[1][name]).abs().max()) for name, value in weights[0].items())


@pytest.mark.parametrize("memory", [2**31, 4_000, 0])
def test_weights_after_a_training_are_those_of_one_process(memory: int) -> None:
    alone, three = (trained(size, task=task_data().task, memory=memory) for size in (1, 3))
    assert alone.steps == three.steps > 10
    # They have moved by far more than that.
    assert apart(alone.model, slim().model) > 3e-3
    assert apart(alone.model, three.model) < 1e-5
    assert (three.before, three.after) == pytest.approx((alone.before, alone.after), abs=1e-6)


def test_an_error_of_another_process_is_that_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Learner.loss

    def broken(self: Learner, *args: Any) -> Tensor:
        if self.rank and args[1] == 3:
            raise StatisticsError("NaN in another process.")
        return loss(self, *args)

    monkeypatch.setattr(Learner, "loss", broken)
    with pytest.raises(StatisticsError, match="NaN in another process"):
        trained(2)


def test_other_weights_at_the_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    write = learning._Flat.write

    def wrong(self: Any) -> None:
        self.tensor[0] += 1e-7
        write(self)

    monkeypatch.setattr(learning._Flat, "write", wrong)
    with pytest.raises(ProcessError, match=r"weights of process 2 of 2 \(rank 1\) are not those of rank 0 at the end of the training"):
        trained(2, effort="1epoch")


def test_the_rows_of_a_batch_are_shared_out_evenly() -> None:
    batch = rows_of("Token")
    parts = [learning._OwnRows.of(batch, rank, 7) for rank in range(7)]
    assert [part.empty for part in parts] == [False] * 5 + [True] * 2
    assert [len(learning._OwnRows.of(batch, rank, 2).mask) for rank in range(2)] == [3, 2]
    second = learning._OwnRows.of(batch, 1, 2)
    assert second.first is not None
    assert torch.equal(second.first, batch["first"][batch["first"][:, 0] > 2] - torch.tensor([3, 0]))
    assert torch.equal(second.inputs["input_ids"], batch["input_ids"][3:])
