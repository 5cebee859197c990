from __future__ import annotations

import copy
import functools
import itertools
import os
import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from transformers import TrainingArguments

from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.data.batches import Encoded
from prunekit.errors import DataError, ModelError, ParameterError, StatisticsError
from prunekit.plan import Plan, ReadoutPlan
from prunekit.training.buckets import Buckets
from prunekit.training.checkpoints import complete_checkpoint
from prunekit.training.distill import Recovered, recover
from prunekit.training.learner import Learner
from prunekit.training.loop import Distiller, Pace, make_arguments
from prunekit.training.objective import Objective, divergence
from prunekit.transforms.apply import apply
from tests import lines
from tests.models import build
from tests.training.rows import dense, encoded, gap, slim, task_data, training


def again(**changes: Any) -> Recovered:
    given: dict[str, Any] = {"effort": "3epochs", "plan": slim().plan, "validation": encoded("validation"), "learning_rate": 3e-3}
    return recover(slim().model, dense(), encoded("train"), **{**given, **changes})


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("unchecked")  # checks of items of a list draw from the generator that is looked at
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
    tuned = recover(slim().model, None, encoded("train"), effort="1epoch", task=task_data().task, learning_rate=3e-3)
    assert not tuned.distilled
    assert "training on the labels" in str(tuned)


def test_training_that_does_not_help_changes_nothing() -> None:
    found = recover(dense(), dense(), encoded("train"), effort="1epoch", validation=encoded("validation"))
    assert found.steps > 0
    assert found.after == found.before == pytest.approx(0, abs=1e-6)
    assert same(weights(found.model), weights(dense()))


def test_labels_count_beside_the_teacher_which_says_what_is_best() -> None:
    task, held = task_data().task, encoded("validation")
    found = again(task=task)
    assert found.metric == "accuracy"
    for model, said in ((slim().model, found.before), (found.model, found.after)):
        inputs = {name: torch.from_numpy(array) for name, array in held.batch(np.arange(len(held))).inputs.items()}
        with torch.no_grad():
            assert said == pytest.approx(task.score(model(**inputs).logits.numpy(), held.labels))
    assert not same(weights(found.model), weights(slim().model))
    assert gap(found.model, dense(), held) < 0.7 * gap(slim().model, dense(), held)


@pytest.mark.parametrize("which", ["slim", "teacher", "ids", "labels", "validation", "plan", "task"])
def test_a_run_of_other_models_rows_or_parameters_has_other_checkpoints(which: str, tmp_path: Path) -> None:
    def altered(rows: Encoded, name: str) -> Encoded:
        array = getattr(rows, name).copy()
        array[0] = 1 - array[0] if name == "labels" else array[0] + 1
        return replace(rows, **{name: array})

    def other(model: Any) -> Any:
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.classifier.bias[0] += 1e-3
        return model

    rows, held = encoded("train").take(np.arange(32)), encoded("validation").take(np.arange(16))
    given: dict[str, Any] = {"effort": "1epoch", "plan": slim().plan, "validation": held, "task": task_data().task}
    recover(slim().model, dense(), rows, **given, checkpoints=tmp_path)
    models = [other(model) if which == name else model for name, model in (("slim", slim().model), ("teacher", dense()))]
    if which in ("ids", "labels"):
        rows = altered(rows, which)
    changed = {"validation": altered(held, "ids"), "plan": None, "task": None}
    with pytest.raises(ParameterError, match=r"must be those of this very run .* Remove the directory to start anew\."):
        recover(*models, rows, **given | {which: changed[which]} if which in changed else given, checkpoints=tmp_path)


def test_labels_that_do_not_exclude_each_other_are_learned_one_by_one() -> None:
    teacher = copy.deepcopy(dense())
    teacher.config.problem_type = "multi_label_classification"
    inputs = {name: torch.from_numpy(array) for name, array in encoded("test").batch(np.arange(32)).inputs.items()}
    with torch.no_grad():
        # Neither yes nor no to everything.
        teacher.classifier.bias.sub_(teacher(**inputs).logits.mean(0))
    shifted = copy.deepcopy(teacher)
    with torch.no_grad():
        # A softmax does not feel it.
        shifted.classifier.bias.add_(3.0)
    found = recover(
        shifted, teacher, encoded("train"), effort="2epochs", learning_rate=3e-2, validation=encoded("test").take(np.arange(32))
    )
    with torch.no_grad():
        wanted, before, after = (torch.sigmoid(model(**inputs).logits) for model in (teacher, shifted, found.model))
    assert (after - wanted).abs().mean() < 0.9 * (before - wanted).abs().mean()
    with torch.no_grad():
        p, q = (Bernoulli(logits=model(**inputs).logits / 2) for model in (teacher, shifted))
    assert -found.before == pytest.approx(4 * float(kl_divergence(p, q).sum(-1).mean()), rel=1e-2)
    with pytest.raises(ParameterError, match=r"The 'task' parameter .* one for rows with any number of labels, as the model is"):
        recover(shifted, teacher, encoded("train"), task=task_data().task)
    with pytest.raises(ParameterError, match=r"The 'teacher' parameter .* a model with a head like the slim model's"):
        recover(shifted, dense(), encoded("train"))


def test_divergences_are_those_of_the_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(6, 5, generator=generator, dtype=torch.float64), torch.randn(6, 5, generator=generator, dtype=torch.float64)
    p, q = (Categorical(logits=logits / 2) for logits in (theirs, ours))
    assert float(divergence(ours, theirs)) == pytest.approx(4 * float(kl_divergence(p, q).mean()))
    p, q = (Bernoulli(logits=logits / 2) for logits in (theirs, ours))
    assert float(divergence(ours, theirs, "labels")) == pytest.approx(4 * float(kl_divergence(p, q).sum(-1).mean()))
    assert float(divergence(ours, theirs, "values")) == pytest.approx(float((ours - theirs).square().mean()))


def test_answers_to_questions_are_learned_place_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunekit.training.distill.chosen_dtype", lambda *_, **__: None)
    teacher = build("bert", "ForQuestionAnswering")
    with torch.no_grad():
        teacher.qa_outputs.weight.mul_(20.0)
    model = copy.deepcopy(teacher)
    with torch.no_grad():
        model.qa_outputs.weight.zero_()
    rows = question_rows()
    found = recover(model, teacher, rows, effort="3epochs", validation=rows, learning_rate=2e-3)

    def oracle(other: Any) -> float:
        """Row by row, without padding: the divergence of start and end over the places."""
        total = 0.0
        for row in range(len(rows)):
            inputs = {name: torch.from_numpy(array) for name, array in rows.batch(np.array([row])).inputs.items()}
            with torch.no_grad():
                ours, theirs = other(**inputs), teacher(**inputs)
            for name in ("start_logits", "end_logits"):
                p, q = (Categorical(logits=answer[name] / 2) for answer in (theirs, ours))
                total += 4 * float(kl_divergence(p, q)) / 2
        return total / len(rows)

    assert -found.before == pytest.approx(oracle(model), rel=1e-3)
    assert -found.after == pytest.approx(oracle(found.model), rel=1e-3)
    assert found.after > found.before
    with pytest.raises(ParameterError, match=r"The 'task' parameter .* left out for a model that answers questions by places"):
        recover(model, teacher, rows, task=task_data().task)


def question_rows() -> Encoded:
    """Rows of 4 to 12 tokens of the tiny models' vocabulary."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 13, size=96)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(5, 50, size=offsets[-1]).astype(np.int32)
    like = encoded("train")
    return Encoded(ids, np.zeros_like(ids, dtype=np.int8), offsets, np.zeros(96), 0, 0, like.padding)


def test_where_two_gpus_are_visible_every_row_is_seen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = TrainingArguments._setup_devices

    def two(self: Any) -> torch.device:
        device: torch.device = made.func(self)
        self._n_gpu = 2
        return device

    seen = functools.cached_property(two)
    seen.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", seen)
    view, effort = ModelView.of(copy.deepcopy(slim().model)), Effort.parse("1epoch")
    learner = Learner(view, Objective(), Buckets(encoded("train"), 0), encoded("validation"), None)
    distiller = Distiller(learner, Pace(effort, None), make_arguments(tmp_path, effort, 1e-4, 0))
    assert sum(len(batch["labels"]) for batch in distiller.get_train_dataloader()) == len(encoded("train"))


def test_the_precision_of_the_environment_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    found = again(effort="1epoch")
    assert "forward" not in vars(found.model)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_time_is_an_effort_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten milliseconds pass between two looks at the clock.
    looks = itertools.count()
    monkeypatch.setattr("prunekit.training.loop.time", SimpleNamespace(perf_counter=lambda: next(looks) / 100))
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
    (tmp_path / "checkpoint-evil").mkdir()
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
    # Nor is what does not fit the model taken for its outcome.
    save_file({"evil": torch.zeros(1)}, tmp_path / "recovered.safetensors", metadata={"recovered": "{}"})
    with pytest.raises(ParameterError, match="The 'checkpoints' parameter of recover must be those of this very run"):
        again(checkpoints=tmp_path)


class _Evil:
    def __reduce__(self) -> Any:
        return (os._exit, (1,))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that is killed at its ninth step."""
    folder, loss, steps = tmp_path_factory.mktemp("stopped"), Distiller.compute_loss, 0

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 9:
            raise _Killed
        return loss(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distiller, "compute_loss", dying)
        with pytest.raises(_Killed):
            again(checkpoints=folder)
    return folder


def test_a_checkpoint_holds_no_pickle(stopped: Path) -> None:
    assert {path.suffix for path in stopped.rglob("*") if path.is_file()} == {".safetensors", ".json"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer_state.json"])
@pytest.mark.parametrize("content", ["pickle", "empty", "deep", "list", "other"])
def test_a_hostile_checkpoint_counts_as_not_there(name: str, content: str, stopped: Path, tmp_path: Path) -> None:
    model = training()
    shutil.copytree(stopped, tmp_path / "run")
    for file in (tmp_path / "run").glob("checkpoint-*/trainer_state.json"):
        file.write_text(file.read_text(encoding="utf-8").replace(str(stopped), str(tmp_path / "run")), encoding="utf-8")
    assert complete_checkpoint(tmp_path / "run", model) is not None
    for file in (tmp_path / "run").glob(f"checkpoint-*/{name}"):
        if content == "other" and name.endswith("safetensors"):
            save_file({"0.exp_avg": torch.zeros(1)}, file)
        else:
            texts = {
                "pickle": pickle.dumps(_Evil()),
                "empty": b"",
                "deep": b"[" * 100_000,
                "list": b"[]",
                "other": b'{"global_step": "evil"}',
            }
            file.write_bytes(texts[content])
    assert complete_checkpoint(tmp_path / "run", model) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"key": 5}', pickle.dumps({"key": "x"})])
def test_a_hostile_claim_is_refused_in_one_line(content: bytes, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    (tmp_path / "run" / "recover.json").write_bytes(content)
    with pytest.raises(ParameterError, match="The 'checkpoints' parameter of recover must be those of this very run"):
        again(checkpoints=tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    broken = copy.deepcopy(slim().model)
    not_finite = r"The loss of the recovery is not finite at step 1: lower the learning rate"
    for value, error, says in ((3e38, StatisticsError, not_finite), (float("nan"), ModelError, "hold NaN or infinity")):
        with torch.no_grad():
            next(broken.parameters()).fill_(value)
        with pytest.raises(error, match=says):
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
    with pytest.raises(ParameterError, match="The 'effort' parameter of recover must be 'auto', or a time or a number of epochs above 0"):
        again(effort="0min")
    with pytest.raises(ParameterError, match="The 'freeze' parameter of recover must be blocks of the model"):
        again(freeze="layers:")
    with pytest.raises(ParameterError, match="The 'freeze' parameter of recover must be blocks that are kept"):
        again(freeze="layers:0-9")
    with pytest.raises(ParameterError, match="The 'learning_rate' parameter of recover must be between 0 and 1"):
        again(learning_rate=0.0)
    with pytest.raises(ParameterError, match="The 'tokenizer' parameter of recover must be given with texts"):
        recover(slim().model, teacher, ["a text"], plan=slim().plan, tokenizer="bert")
    with pytest.raises(DataError, match="half a character"):
        recover(slim().model, teacher, ["a\ud800"], plan=slim().plan, tokenizer=lines.tokenizer_of())
    with pytest.raises(DataError, match="5% of 3 rows are none"):
        recover(slim().model, teacher, encoded("train").take(np.arange(3)), plan=slim().plan)
    with pytest.raises(ParameterError, match="The 'slim' parameter of recover must be a model with a head or a readout"):
        recover(lines.dense("base"), teacher, encoded("train"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"effort": 5}, "The 'effort' parameter of recover must be text or a prunekit Effort"),
        ({"effort": None}, "The 'effort' parameter of recover must be text or a prunekit Effort"),
        ({"freeze": "evil"}, "The 'freeze' parameter of recover must be blocks of the model"),
        ({"freeze": 5}, "The 'freeze' parameter of recover must be text"),
        ({"learning_rate": "fast"}, "The 'learning_rate' parameter of recover must be a finite number"),
        ({"learning_rate": True}, "The 'learning_rate' parameter of recover must be a finite number"),
        ({"learning_rate": 1.5}, "The 'learning_rate' parameter of recover must be between 0 and 1"),
        ({"seed": 1.5}, "The 'seed' parameter of recover must be a whole number from 0 to"),
        ({"seed": -1}, "The 'seed' parameter of recover must be a whole number from 0 to"),
        ({"memory": "2 GiB"}, "The 'memory' parameter of recover must be a whole number from 0 to"),
        ({"plan": "plan.json"}, "The 'plan' parameter of recover must be a prunekit Plan"),
        ({"task": "sst2"}, "The 'task' parameter of recover must be a prunekit Task"),
        ({"validation": [1]}, "The 'validation' parameter of recover must be a prunekit Encoded"),
        ({"checkpoints": 5}, "The 'checkpoints' parameter of recover must be text or a path that can exist"),
    ],
)
def test_parameters_of_another_kind_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        again(**given)
    with pytest.raises(ParameterError, match="The 'slim' parameter of recover must be a torch Module"):
        recover("slim", dense(), encoded("train"))  # type: ignore[arg-type]


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
    rows, load, seen = encoded("train"), Buckets.__getitem__, list[int]()
    monkeypatch.setattr("prunekit.training.pool.POOL", len(rows) // 2)

    def watched(self: Buckets, number: int) -> dict[str, Any]:
        batch = load(self, number)
        seen.extend(batch["attention_mask"].sum(1).tolist())
        return batch

    monkeypatch.setattr(Buckets, "__getitem__", watched)
    again(effort="1epoch")
    assert len(seen) == len(rows) // 2
    assert np.mean(seen) > rows.lengths.mean()
