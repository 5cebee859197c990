from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback, TrainingArguments

import prunekit
from prunekit.arch.view import ModelView
from prunekit.errors import BudgetError, ParameterError, UnsupportedError
from prunekit.plan import Plan
from prunekit.training.callback import PruneCallback
from prunekit.training.live import Live
from prunekit.training.masks import Masks
from prunekit.transforms.apply import apply
from tests.models import FFN, LAYERS, batch_of, build

HEAD = "ForSequenceClassification"


@pytest.fixture(autouse=True)
def _precision(monkeypatch: pytest.MonkeyPatch) -> None:
    # Transformers 4 leaves a Trainer's precision in the environment, for the next Trainer to find.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def rows() -> list[dict[str, torch.Tensor]]:
    """Rows one by one, of one length, so that the default collator does."""
    batch = batch_of(64)
    labels = torch.arange(64) % 3
    return [{**{name: tensor[row] for name, tensor in batch.items()}, "labels": labels[row]} for row in range(64)]


def trainer_of(callback: PruneCallback, folder: Path, *others: TrainerCallback, model: Any = None, **arguments: Any) -> Trainer:
    judge = arguments.pop("judge", None)
    # No dropout: equal runs are then equal, in one process or in two.
    model = model or build("bert", HEAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    given: dict[str, Any] = {"max_steps": 10, "per_device_train_batch_size": 8, "save_steps": 4, "learning_rate": 1e-3, **arguments}
    made = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False, **given
    )
    judged: dict[str, Any] = {} if judge is None else {"eval_dataset": rows()[:8], "compute_metrics": judge}
    return Trainer(model, made, train_dataset=rows(), callbacks=[callback, *others], **judged)  # type: ignore[arg-type]


def train(callback: PruneCallback, folder: Path, *others: TrainerCallback, resume: bool = False, **arguments: Any) -> Trainer:
    trainer = trainer_of(callback, folder, *others, **arguments)
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def pruner(**changes: Any) -> PruneCallback:
    return PruneCallback(**{"keep": "40% params", "start": 0.0, "end": 0.9, "steps": 3, **changes})


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(**batch_of()).logits
    return logits


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step: int, what: Callable[..., None]) -> None:
        self._step, self._what = step, what

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == self._step:
            self._what(**given)


def test_the_model_shrinks_in_steps_to_the_budget_and_is_written_and_read(tmp_path: Path) -> None:
    dense = build("bert", HEAD)
    callback = pruner()
    trainer = train(callback, tmp_path / "run", model=copy.deepcopy(dense), gradient_accumulation_steps=2, bf16=True)
    assert [cut["step"] for cut in callback.history] == [3, 6, 9]
    shares = [cut["kept"] for cut in callback.history]
    # Cubic: (2/3)^3 and (1/3)^3 of the 60% that go are still there.
    assert all(have <= 0.4 + 0.6 * left for have, left in zip(shares, [8 / 27, 1 / 27, 0.0], strict=True))
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > 0.3
    # What is left is a plain slim model of that plan, and nothing else stays behind.
    slim: Any = trainer.model
    assert {name: t.shape for name, t in apply(dense, callback.plan).state_dict().items()} == {
        n: t.shape for n, t in slim.state_dict().items()
    }
    callback.save(tmp_path / "slim")
    vars(slim).pop("forward", None)
    torch.testing.assert_close(answers(prunekit.load(tmp_path / "slim")), answers(slim))
    trainer.save_model(str(tmp_path / "stock"))


def test_a_head_that_answers_questions_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(64)
    places = {"start_positions": torch.arange(64) % 3, "end_positions": torch.arange(64) % 3 + 1}
    asked = [{name: tensor[row] for name, tensor in {**batch, **places}.items()} for row in range(64)]
    monkeypatch.setitem(globals(), "rows", lambda: asked)
    model = build("bert", "ForQuestionAnswering", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    callback = pruner()
    slim: Any = train(callback, tmp_path / "run", model=model).model
    assert callback.history[-1]["kept"] <= 0.4
    callback.save(tmp_path / "slim")
    vars(slim).pop("forward", None)
    with torch.no_grad():
        ours, theirs = (each.eval()(**batch_of()) for each in (prunekit.load(tmp_path / "slim"), slim))
    for name in ("start_logits", "end_logits"):
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("masks", [False, True])
def test_a_run_that_was_interrupted_between_cuts_ends_in_the_same_plan_and_weights(masks: bool, tmp_path: Path) -> None:
    def stop(**_: Any) -> None:
        raise KeyboardInterrupt

    whole = pruner(masks=masks)
    done = train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(pruner(masks=masks), tmp_path / "cut", At(5, stop))
    again = pruner(masks=masks)
    resumed = train(again, tmp_path / "cut", resume=True)
    assert [cut["step"] for cut in again.history] == [6, 9]
    assert again.plan.digest == whole.plan.digest
    ours, theirs = done.model.state_dict(), resumed.model.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_masks_say_what_the_slices_say() -> None:
    model = build("bert", HEAD)
    source = ModelView.of(model).source
    plan = Plan(source=source, heads={0: (1, 3), 2: ()}, ffn={1: tuple(range(0, FFN, 3)), 3: ()})
    live = Live(model)
    masks = Masks(live.view, live.blocks, live.plan, plan)
    masked = answers(model)
    masks.remove()
    assert not torch.allclose(answers(model), masked, atol=1e-2)
    torch.testing.assert_close(answers(apply(model, plan)), masked, atol=1e-4, rtol=1e-4)
    live.move(plan)
    torch.testing.assert_close(answers(model), masked, atol=1e-4, rtol=1e-4)
    other = Live(build("xlnet", HEAD))
    with pytest.raises(UnsupportedError, match="heads cannot be masked"):
        Masks(other.view, other.blocks, other.plan, Plan(source=other.plan.source, heads={0: (0,), 1: (0,)}))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("case", ["bert", "albert", "llama", "gpt2", "mpnet"])
def test_moments_and_averages_follow_by_the_indices_that_are_kept(case: str, kind: Any) -> None:
    model = build(case, HEAD)
    heads, every = ModelView.of(model).source.heads, case == "albert"
    average = AveragedModel(model)
    # MPNet's forward pass takes no token types in transformers 4.
    batch = {name: tensor for name, tensor in batch_of().items() if name in ModelView.of(model).inputs}
    names = ("exp_avg", "exp_avg_sq") if kind is torch.optim.AdamW else ("momentum_buffer",)
    foreign = nn.Parameter(torch.ones(()))
    groups = [*({"params": [p for p in model.parameters() if p.ndim == size]} for size in (1, 2)), {"params": [foreign]}]
    optimizer = kind(groups, lr=1e-3, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    had = {name for name, parameter in model.named_parameters() if parameter in optimizer.state}
    optimizer.state[foreign][names[0]] = torch.ones(())

    def mark() -> None:
        # Whatever happens to a weight must happen to what has its place.
        for number, name in enumerate(names):
            for parameter, state in optimizer.state.items():
                if name in state and parameter is not foreign:
                    state[name].copy_(parameter.detach() * (number + 2))
        for theirs, ours in zip(average.module.parameters(), model.parameters(), strict=True):
            theirs.data.copy_(ours.detach() * 7)

    mark()
    live = Live(model, average)
    blocks = range(LAYERS) if every else (0, 3)
    kept = {block: tuple(range(1, heads)) for block in blocks} | ({2: (2, 3)} if case == "mpnet" else {})
    plan = Plan(
        source=live.plan.source,
        layers=None if every else (0, 2, 3),
        heads=kept,
        ffn={block: (2, 5, 7) for block in blocks} | ({} if every else {2: ()}),
    )
    dense = copy.deepcopy(model)
    live.move(plan, optimizer)
    assert {name: t.shape for name, t in apply(dense, plan).state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    # Every parameter once, and what is not the model's stays.
    known = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(known) == sorted(id(parameter) for parameter in (*model.parameters(), foreign))
    assert {id(parameter) for parameter in optimizer.state} <= set(known)
    assert optimizer.state[foreign][names[0]].item() == 1.0
    trained = [parameter for name, parameter in model.named_parameters() if name in had]
    assert len(trained) > len(had) // 2
    for number, name in enumerate(names):
        for parameter in trained:
            torch.testing.assert_close(optimizer.state[parameter][name], parameter.detach() * (number + 2))
    for theirs, ours in zip(average.module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours * 7)
    # It trains on.
    model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()


def test_an_average_changes_by_what_a_refit_changes() -> None:
    model, solved = build("bert", HEAD), build("bert", HEAD, seed=1)
    average = AveragedModel(build("bert", HEAD, seed=2))
    before, averaged = copy.deepcopy(model), copy.deepcopy(average.module)
    Live(model, average).load(solved)
    for name, theirs in solved.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), theirs)
        change = theirs - before.get_parameter(name)
        torch.testing.assert_close(average.module.get_parameter(name), averaged.get_parameter(name) + change)


def test_state_of_another_shape_is_refused() -> None:
    model = build("bert", HEAD)
    optimizer = torch.optim.Adafactor(model.parameters())
    model(**batch_of(), labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()
    live = Live(model)
    with pytest.raises(UnsupportedError, match=r"Adafactor keeps .* in another shape"):
        live.move(Plan(source=live.plan.source, ffn={0: (1,)}), optimizer)


def test_layers_and_ffn_blocks_go_before_training_and_frozen_blocks_stay(tmp_path: Path) -> None:
    dense = build("bert", HEAD)
    callback = PruneCallback(layers="0-2", ffn_blocks="0,2", freeze="layers:0")
    trainer = train(callback, tmp_path, model=copy.deepcopy(dense), max_steps=2)
    assert callback.plan == Plan(source=ModelView.of(dense).source, layers=(0, 1, 2), ffn={1: ()})
    before, after = apply(dense, callback.plan).state_dict(), trainer.model.state_dict()  # type: ignore[union-attr]
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("bert.encoder.layer.2.") for name in changed)
    assert not any(name.startswith(("bert.embeddings.", "bert.encoder.layer.0.")) for name in changed)


def test_blocks_and_budgets_work_together(tmp_path: Path) -> None:
    callback = pruner(keep="30% params", layers="0,2,3", ffn_blocks="0,2", steps=2, schedule="linear", freeze="layers:0")
    trainer = train(callback, tmp_path)
    assert callback.plan.layers == (0, 2, 3)
    assert callback.plan.ffn[3] == ()
    assert callback.history[-1]["kept"] <= 0.3
    callback.save(tmp_path / "slim")
    torch.testing.assert_close(answers(prunekit.load(tmp_path / "slim")), answers(trainer.model))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "The 'keep' parameter of PruneCallback must be given where no layers, ffn_blocks or freeze are"),
        ({"keep": "10%"}, "The 'keep' parameter of PruneCallback must be shares of params or macs"),
        ({"keep": "0% params"}, "The 'keep' parameter of PruneCallback must be a percentage"),
        ({"keep": "40% params", "start": 0.7, "end": 0.7}, "The 'start' parameter of PruneCallback must be a share of the training below"),
        ({"keep": "40% params", "schedule": "square"}, "The 'schedule' parameter of PruneCallback must be one of cubic, linear"),
        ({"keep": "40% params", "steps": 0}, "The 'steps' parameter of PruneCallback must be a whole number from 1 to 1,000"),
        ({"keep": "40% params", "steps": 1.5}, "The 'steps' parameter of PruneCallback must be a whole number from 1 to 1,000"),
        ({"keep": "40% params", "seed": "0"}, "The 'seed' parameter of PruneCallback must be a whole number from 0 to"),
        ({"keep": "40% params", "start": "0"}, "The 'start' parameter of PruneCallback must be a finite number"),
        ({"keep": 5}, "The 'keep' parameter of PruneCallback must be text or a sequence of text"),
        ({"keep": "40% params", "average": "ema"}, "The 'average' parameter of PruneCallback must be a torch Module"),
        ({"keep": "40% params", "calibration": [1]}, "The 'calibration' parameter of PruneCallback must be a sequence of a mapping"),
        ({"keep": "40% params", "seed": 2**32}, "The 'seed' parameter of PruneCallback must be a whole number from 0 to"),
        ({"keep": "40% params", "steps": 10**30}, "The 'steps' parameter of PruneCallback must be a whole number from 1 to 1,000"),
        ({"keep": "40% params", "masks": "no"}, "The 'masks' parameter of PruneCallback must be True or False"),
        ({"keep": "40% params", "freeze": "evil"}, "The 'freeze' parameter of PruneCallback must be blocks of the model"),
        ({"layers": 3}, "The 'layers' parameter of PruneCallback must be text"),
        ({"layers": "3-0"}, "The 'layers' parameter of PruneCallback must be blocks, increasing"),
        ({"layers": "0-9"}, "The 'layers' parameter of PruneCallback must be of the model's blocks 0-3"),
        ({"layers": "0-1", "ffn_blocks": "3"}, "The 'ffn_blocks' parameter of PruneCallback must be among the layers that are kept"),
        ({"layers": "0-1", "freeze": "layers:3"}, "The 'freeze' parameter of PruneCallback must be blocks that are kept"),
    ],
)
def test_mistakes_are_one_line(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        train(PruneCallback(**given), tmp_path, max_steps=1)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        train(pruner(keep="1% params"), tmp_path)
    with pytest.raises(ParameterError, match="The 'callbacks' parameter of Trainer must be given the callback when it is made"):
        assert pruner().plan
    with pytest.raises(ParameterError, match=r"The 'optim' parameter of TrainingArguments must be .* Got 'Adafactor' instead"):
        train(pruner(), tmp_path, optim="adafactor")


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_sharded_training_is_refused_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = pruner()
    given = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(ParameterError, match=f"The '{name}' parameter of TrainingArguments must be left out with a PruneCallback"):
        callback.on_init_end(given, None, None, model=build("bert", HEAD))


def test_a_head_of_one_output_is_trained_and_each_cut_is_in_the_log(tmp_path: Path) -> None:
    callback = pruner()
    model = build("bert", HEAD, num_labels=1)
    model.config.problem_type = "regression"
    data = [{**row, "labels": row["labels"].float()} for row in rows()]
    made = TrainingArguments(
        str(tmp_path), max_steps=10, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no"
    )
    trainer = Trainer(model, made, train_dataset=data, callbacks=[callback])  # type: ignore[arg-type]
    trainer.train()
    said = [entry for entry in trainer.state.log_history if "prune/kept" in entry]
    assert [(entry["step"], entry["prune/kept"]) for entry in said] == [(cut["step"], cut["kept"]) for cut in callback.history]
    assert said[-1]["prune/parameters"] == sum(parameter.numel() for parameter in model.parameters())


class Reporter(TrainerCallback):
    """Stands for TensorBoard, W&B and MLflow, which a Trainer asks before the user's own callbacks."""

    seen: list[tuple[int, dict[str, Any]]]

    def __init__(self) -> None:
        self.seen = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.seen.append((state.global_step, dict(logs)))


@pytest.mark.parametrize("when", ["no", "steps"])
def test_reporters_see_each_cut_and_the_losses_that_were_due(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, callback, lines = Reporter(), pruner(), []
    monkeypatch.setattr("prunekit.training.callback.logger.info", lambda text, *given: lines.append(text % given))
    given: dict[str, Any] = {
        "max_steps": 10,
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "logging_steps": 3,
        "logging_strategy": when,
    }
    made = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **given,
    )
    trainer = Trainer(build("bert", HEAD), made, train_dataset=rows(), callbacks=[callback])  # type: ignore[arg-type]
    trainer.callback_handler.callbacks.insert(0, reporter)
    trainer.train()
    said = [(step, logs) for step, logs in reporter.seen if "prune/kept" in logs]
    assert [(step, logs["prune/kept"]) for step, logs in said] == [(cut["step"], cut["kept"]) for cut in callback.history]
    assert all({"prune/parameters", "prune/seconds"} <= logs.keys() for _, logs in said)
    # A cut is no reason to lose the loss of a step, or to log one that was not asked for.
    losses = [step for step, logs in reporter.seen if "loss" in logs]
    assert losses == ([3, 6, 9] if when == "steps" else [])
    assert [line.partition(":")[0] for line in lines] == [f"PruneCallback, step {step}" for step in (3, 6, 9)]
    # What the lines say adds up to what the plan has lost.
    for word, role in (("head", "heads"), ("FFN neuron", "ffn")):
        numbers = [int(number) for line in lines for number in re.findall(rf"(\d+) {word}s?\b", line)]
        whole, kept = getattr(callback.plan.source, role), getattr(callback.plan, role)
        assert sum(numbers) == sum(whole - len(units) for units in kept.values())


def test_an_optimizer_that_lost_its_parameters_to_a_checkpoint_is_refused(tmp_path: Path) -> None:
    train(pruner(), tmp_path, max_steps=5)
    model = build("bert", HEAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    made = TrainingArguments(str(tmp_path), max_steps=10, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = Trainer(model, made, train_dataset=rows(), callbacks=[pruner()])  # type: ignore[arg-type]
    # Made before the checkpoint is read, and not known to the callback.
    trainer.create_optimizer()
    with pytest.raises(ParameterError, match="The 'optimizers' parameter of Trainer must be one that the Trainer makes"):
        trainer.train(resume_from_checkpoint=True)


def test_an_optimizer_of_the_users_own_holds_the_parameters_of_a_resumed_run(tmp_path: Path) -> None:
    def run(resume: bool) -> tuple[Any, Any]:
        model = build("bert", HEAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        made = TrainingArguments(
            str(tmp_path),
            max_steps=8 if resume else 5,
            per_device_train_batch_size=8,
            save_steps=5,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        callback = pruner(steps=1, end=0.3)
        trainer = Trainer(model, made, train_dataset=rows(), callbacks=[callback], optimizers=(optimizer, None))  # type: ignore[arg-type]
        trainer.train(resume_from_checkpoint=resume or None)
        return model, optimizer

    run(resume=False)
    model, optimizer = run(resume=True)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    assert all(optimizer.state[parameter]["step"] == 8 for parameter in model.parameters() if parameter in optimizer.state)


def test_a_model_that_training_makes_anew_is_refused(tmp_path: Path) -> None:
    made = TrainingArguments(str(tmp_path), max_steps=4, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = Trainer(model_init=lambda: build("bert", HEAD), args=made, train_dataset=rows(), callbacks=[pruner()])  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="The 'model_init' parameter of Trainer must be left out with a PruneCallback"):
        trainer.train()


def test_training_goes_on_after_it_has_ended(tmp_path: Path) -> None:
    callback = pruner()
    trainer = train(callback, tmp_path)
    plan = callback.plan
    trainer.train()
    assert callback.plan == plan
    loaded = prunekit.load(callback.save(tmp_path / "slim").parent)
    torch.testing.assert_close(answers(loaded), answers(trainer.model))  # type: ignore[arg-type]


def test_heads_that_are_gone_from_all_blocks_narrow_the_shared_table(tmp_path: Path) -> None:
    model = build("mpnet", HEAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    callback = pruner(keep="6% params", steps=1, end=0.5)
    train(callback, tmp_path, model=model)
    assert len(set().union(*callback.plan.heads.values())) < callback.plan.source.heads
