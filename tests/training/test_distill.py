from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunekit.data.batches import Encoded
from prunekit.errors import DataError, ParameterError, StatisticsError
from prunekit.plan import Plan, ReadoutPlan
from prunekit.training.distill import Recovered, recover
from prunekit.training.loop import Buckets, Distiller, divergence
from prunekit.transforms.apply import apply
from tests import lines
from tests.training.rows import dense, encoded, slim, task_data


def again(**changes: Any) -> Recovered:
    given: dict[str, Any] = {"effort": "3epochs", "plan": slim().plan, "validation": encoded("validation"), "learning_rate": 3e-3}
    return recover(slim().model, dense(), encoded("train"), **{**given, **changes})


def gap(model: nn.Module, other: nn.Module, rows: Encoded) -> float:
    """Mean divergence of the first model's answers from the second's."""
    total = 0.0
    with torch.no_grad():
        for batch in rows.batches():
            inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            total += float(divergence(model(**inputs).logits, other(**inputs).logits)) * len(batch.rows)
    return total / len(rows)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_unlabelled_rows_bring_the_slim_model_nearer_to_the_dense_one() -> None:
    teacher, before = dense(), weights(slim().model)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    found = again()
    assert gap(found.model, teacher, encoded("test")) < 0.7 * gap(slim().model, teacher, encoded("test"))
    # What is claimed of validation is so.
    assert -found.after == pytest.approx(gap(found.model, teacher, encoded("validation")), rel=1e-3)
    assert -found.before == pytest.approx(gap(slim().model, teacher, encoded("validation")), rel=1e-3)
    assert found.metric == "minus divergence"
    assert found.epochs == 3
    assert found.steps == 3 * len(Buckets(encoded("train"), 0))
    # The model given is left as it is, and so is the caller's randomness.
    assert same(before, weights(slim().model))
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.random.get_rng_state())
    assert not found.model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in found.model.parameters())


def test_texts_are_rows_and_labels_are_the_tasks() -> None:
    texts = [" ".join(words) for words in lines.sentences(120, 5)]
    found = again(effort="1epoch")
    assert found.metric == "minus divergence"
    given = recover(slim().model, dense(), texts, effort="1epoch", plan=slim().plan, tokenizer=lines.tokenizer_of())
    assert given.steps > 0
    labelled = again(effort="1epoch", task=task_data().task)
    assert labelled.metric == "accuracy"
    assert 0 <= labelled.before <= labelled.after <= 1
    tuned = recover(slim().model, None, encoded("train"), effort="1epoch", task=task_data().task, learning_rate=3e-3)
    assert not tuned.distilled
    assert "training on the labels" in str(tuned)


def test_training_that_does_not_help_changes_nothing() -> None:
    found = recover(dense(), dense(), encoded("train"), effort="1epoch", validation=encoded("validation"))
    assert found.steps > 0
    assert found.after == found.before == pytest.approx(0, abs=1e-6)
    assert same(weights(found.model), weights(dense()))


def test_the_precision_of_the_environment_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    found = again(effort="1epoch")
    assert "forward" not in vars(found.model)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_time_is_an_effort_too() -> None:
    seen: list[int] = []
    found = again(effort="0.5s", progress=lambda done, total, note: seen.append(done))
    assert found.steps >= 1
    assert seen == sorted(seen)
    assert seen[-1] == 1000


def test_frozen_blocks_stay_what_they_were() -> None:
    found = again(effort="1epoch", freeze="layers:0-1")
    before, after = weights(slim().model), weights(found.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith(("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1.")) for name in changed)
    assert any(name.startswith("bert.encoder.layer.2.") for name in changed)


def test_where_depth_has_changed_layers_are_matched() -> None:
    teacher = dense()
    plan = Plan(source=slim().plan.source, layers=(0, 2))
    cut = apply(teacher, plan)
    with pytest.raises(ParameterError, match="The 'plan' parameter of recover must be given where the slim model has 2 layers"):
        recover(cut, teacher, encoded("train"))
    found = recover(cut, teacher, encoded("train"), effort="3epochs", plan=plan, learning_rate=3e-3)
    assert gap(found.model, teacher, encoded("test")) < gap(cut, teacher, encoded("test"))


class _Killed(BaseException):
    pass


def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = again()
    steps = 0
    loss = Distiller.compute_loss

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 9:
            raise _Killed
        return loss(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Distiller, "compute_loss", dying)
        with pytest.raises(_Killed):
            again(checkpoints=tmp_path)
    # A checkpoint that was not written to its end does not count.
    broken = tmp_path / "checkpoint-999"
    broken.mkdir()
    (broken / "trainer_state.json").write_text("{", encoding="utf-8")
    found = again(checkpoints=tmp_path)
    assert steps == 9
    assert found.steps == whole.steps
    assert same(weights(found.model), weights(whole.model))
    # A run that has come to its end is not trained again.
    third = again(checkpoints=tmp_path)
    assert same(weights(third.model), weights(whole.model))
    assert str(third) == str(found)
    with pytest.raises(ParameterError, match="The 'checkpoints' parameter of recover must be those of this very run"):
        again(checkpoints=tmp_path, seed=1)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    broken = copy.deepcopy(slim().model)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(StatisticsError, match=r"The loss of the recovery is not finite at step 1: lower the learning rate"):
        recover(broken, dense(), encoded("train"), plan=slim().plan, effort="1epoch")


def test_mistakes_are_one_line() -> None:
    teacher = dense()
    renamed = copy.deepcopy(teacher)
    renamed.config.id2label = {0: "no", 1: "yes"}
    with pytest.raises(ParameterError, match="The 'teacher' parameter of recover must be a model with the slim model's labels"):
        again_with(renamed)
    with pytest.raises(ParameterError, match="The 'teacher' parameter of recover must be a model with the slim model's labels"):
        again_with(lines.dense("tokens"))
    with pytest.raises(ParameterError, match="The 'teacher' parameter of recover must be given where there is no task"):
        again_with(None)
    with pytest.raises(ParameterError, match="The 'effort' parameter of recover must be a time or a number of epochs above 0"):
        again(effort="0min")
    with pytest.raises(ParameterError, match="The 'freeze' parameter of recover must be blocks of the model"):
        again(freeze="layers:")
    with pytest.raises(ParameterError, match="The 'freeze' parameter of recover must be blocks that are kept"):
        again(freeze="layers:0-9")
    with pytest.raises(ParameterError, match="The 'learning_rate' parameter of recover must be between 0 and 1"):
        again(learning_rate=0.0)
    with pytest.raises(ParameterError, match="The 'tokenizer' parameter of recover must be given with texts"):
        recover(slim().model, teacher, ["a text"], plan=slim().plan)
    with pytest.raises(DataError, match="5% of 3 rows are none"):
        recover(slim().model, teacher, encoded("train").take(np.arange(3)), plan=slim().plan)
    with pytest.raises(ParameterError, match="The 'slim' parameter of recover must be a model with a head or a readout"):
        recover(lines.dense("base"), teacher, encoded("train"))


def again_with(teacher: Any) -> Recovered:
    return recover(slim().model, teacher, encoded("train"), plan=slim().plan)


def test_a_readout_is_recovered_and_keeps_its_own_layers() -> None:
    teacher = dense()
    plan = Plan(source=slim().plan.source, readout=ReadoutPlan(pooling="cls", neurons={1: (0, 3), 2: tuple(range(16))}))
    model = apply(teacher, plan)
    # Its classifier alone is trained, a convex problem.
    given: dict[str, Any] = {"freeze": "layers:0-1", "learning_rate": 5e-2, "validation": encoded("validation")}
    found = recover(model, teacher, encoded("train"), effort="4epochs", plan=plan, **given)
    assert found.after > found.before
    assert -found.after == pytest.approx(gap(found.model, teacher, encoded("validation")), rel=1e-3)


def test_of_many_rows_some_are_drawn_the_long_ones_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encoded("train")
    monkeypatch.setattr("prunekit.training.distill.POOL", len(rows) // 2)
    seen: list[int] = []
    load = Buckets.__getitem__

    def watched(self: Buckets, number: int) -> dict[str, Any]:
        batch = load(self, number)
        seen.extend(batch["attention_mask"].sum(1).tolist())
        return batch

    monkeypatch.setattr(Buckets, "__getitem__", watched)
    again(effort="1epoch")
    assert len(seen) == len(rows) // 2
    assert np.mean(seen) > rows.lengths.mean()
