"""What a Trainer reads back of a model that was cut on the way: the best checkpoint, and one to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

import prunekit
from prunekit.errors import BudgetError, ParameterError
from prunekit.training.callback import PruneCallback
from prunekit.training.schedule import check_judged
from tests.models import build
from tests.training.test_callback import HEAD, At, answers, pruner, rows, train, trainer_of


@pytest.fixture(autouse=True)
def _precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def scores(*given: float) -> Callable[[Any], dict[str, float]]:
    """Metrics that are given, one an evaluation."""
    left = iter(given)
    return lambda _: {"score": next(left)}


def best(*given: float, **changes: Any) -> dict[str, Any]:
    """Arguments of a run that is judged and saved at every step, with these scores, and gives its best back."""
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 6}
    return {**often, "load_best_model_at_end": True, "metric_for_best_model": "score", "judge": scores(*given), **changes}


def is_checkpoint(trainer: Trainer, step: int) -> bool:
    """Whether a Trainer's model is that of the checkpoint of a step."""
    model: Any = trainer.model
    saved = load_file(f"{trainer.args.output_dir}/checkpoint-{step}/model.safetensors")
    return all(name in saved and torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("masks", [False, True])
def test_the_best_is_the_best_of_those_that_keep_the_budget(masks: bool, tmp_path: Path) -> None:
    # Cuts after the steps 2 and 3. What was better before them is larger than what was asked for.
    callback = pruner(steps=2, end=0.5, masks=masks)
    trainer = train(callback, tmp_path / "run", **best(0.9, 0.8, 0.3, 0.6, 0.5, 0.4))
    assert trainer.state.best_global_step == 4
    assert is_checkpoint(trainer, 4)
    assert not is_checkpoint(trainer, 6)
    assert callback.history[-1]["kept"] <= 0.4
    slim: Any = trainer.model
    vars(slim).pop("forward", None)
    loaded: nn.Module = prunekit.load(callback.save(tmp_path / "slim").parent)
    torch.testing.assert_close(answers(loaded), answers(slim))


def loads(folder: Path, trainer: Trainer) -> bool:
    """Whether a directory holds the model of a Trainer."""
    model: Any = trainer.model
    vars(model).pop("forward", None)
    return torch.equal(answers(prunekit.load(folder)), answers(model))


def test_stopping_early_waits_again_after_a_cut_and_a_budget_that_was_not_reached_is_an_error(tmp_path: Path) -> None:
    # A cut costs more than patience allows, and is no reason to stop.
    callback = pruner(steps=2, end=0.9)
    trainer = trainer_of(callback, tmp_path, EarlyStoppingCallback(2), **best(0.8, 0.9, 0.85, 0.3, 0.5, 0.4, 0.4, max_steps=10))
    with pytest.raises(BudgetError) as caught:
        trainer.train()
    assert [cut["step"] for cut in callback.history] == [4]
    assert (trainer.state.global_step, trainer.state.best_global_step) == (7, 5)
    assert is_checkpoint(trainer, 5)
    kept = callback.history[-1]["kept"]
    assert str(caught.value) == (
        f"Training ended at step 7, before the last cut of PruneCallback at step 9: {kept:.1%} of the params left; "
        "40% params was asked for. "
        f"The model as it is was written to {str(tmp_path / 'unmet')!r}: prunekit.load reads it."
    )
    assert loads(tmp_path / "unmet", trainer)


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 5


def test_a_best_that_nothing_was_judged_for_is_an_error(tmp_path: Path) -> None:
    trainer = trainer_of(pruner(steps=1, end=0.4), tmp_path, Stop(), **best(0.5, eval_steps=3, save_steps=3, max_steps=10))
    with pytest.raises(BudgetError, match=r"no checkpoint judged after the last cut .*: the model is that of step 5"):
        trainer.train()
    assert loads(tmp_path / "unmet", trainer)


def test_masked_units_are_gone_from_a_model_that_was_stopped_before_they_are_sliced(tmp_path: Path) -> None:
    callback = pruner(steps=2, masks=True)
    trainer = trainer_of(callback, tmp_path, Stop(), save_strategy="no")
    with pytest.raises(BudgetError, match=r"Training ended at step 5, before the last cut .* at step 9"):
        trainer.train()
    assert loads(tmp_path / "unmet", trainer)


def test_evaluations_that_begin_after_training_are_refused_before_it(tmp_path: Path) -> None:
    trainer = trainer_of(pruner(), tmp_path, **best(eval_delay=7))
    with pytest.raises(ParameterError, match=r"'eval_steps' .* from the last cut .* on, at step 5 of 6. Got '1, from step 7"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("every", [2, 5, 9, 10])
def test_what_is_judged_with_or_after_the_last_cut_is_not_refused(every: int, tmp_path: Path) -> None:
    args = TrainingArguments(
        str(tmp_path), max_steps=10, eval_strategy="steps", eval_steps=every, save_steps=every, load_best_model_at_end=True, use_cpu=True
    )
    check_judged(args, TrainerState(max_steps=10, eval_steps=every, global_step=0), 9)


def test_blocks_that_are_dropped_before_training_leave_every_checkpoint_to_choose_from(tmp_path: Path) -> None:
    trainer = train(PruneCallback(layers="0-2", ffn_blocks="0"), tmp_path, **best(0.5, 0.9, 0.7, max_steps=3))
    assert is_checkpoint(trainer, 2)


def test_a_run_that_goes_on_knows_the_best_so_far(tmp_path: Path) -> None:
    def stop(**_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pruner(steps=1, end=0.3), tmp_path, At(5, stop), **best(0.9, 0.3, 0.7, 0.6))
    trainer = train(pruner(steps=1, end=0.3), tmp_path, resume=True, **best(0.5, 0.4))
    assert trainer.state.best_global_step == 3
    assert is_checkpoint(trainer, 3)


@pytest.mark.parametrize("every", [3, 4])
def test_the_process_that_was_interrupted_goes_on_unless_the_checkpoint_keeps_more_than_the_model(every: int, tmp_path: Path) -> None:
    def stop(**_: Any) -> None:
        raise KeyboardInterrupt

    # Cuts after the steps 4 and 9.
    callback, interrupts = pruner(steps=2), At(5, stop)
    model = build("bert", HEAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    made = TrainingArguments(
        str(tmp_path), max_steps=10, per_device_train_batch_size=8, save_steps=every, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = Trainer(model, made, train_dataset=rows(), callbacks=[callback, interrupts])  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(interrupts)
    if every == 4:
        trainer.train(resume_from_checkpoint=True)
        assert [cut["step"] for cut in callback.history] == [4, 9]
        return
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with pytest.raises(ParameterError, match=r"'resume_from_checkpoint' parameter of Trainer\.train must be a checkpoint .* keeps more"):
        trainer.train(resume_from_checkpoint=True)
    assert shapes == {name: tensor.shape for name, tensor in model.state_dict().items()}


def test_weights_of_the_dense_model_are_not_taken_for_those_of_its_blocks(tmp_path: Path) -> None:
    dense = build("bert", HEAD)
    model = build("bert", HEAD)
    callback = PruneCallback(layers="1-3")

    def load(**_: Any) -> None:
        own = {name: tensor for name, tensor in model.state_dict().items() if name != "prunekit_plan"}
        model.load_state_dict(own, strict=False)
        with pytest.raises(ParameterError, match=r"'resume_from_checkpoint' .* Got 'one of another shape' instead"):
            # Block 0 of these is not block 0 of the model, of which torch sees nothing.
            model.load_state_dict(dense.state_dict(), strict=False)

    train(callback, tmp_path, At(1, load), model=model, max_steps=1)


def test_evaluations_of_epochs_that_begin_after_training_are_refused_before_it(tmp_path: Path) -> None:
    options = best(eval_strategy="epoch", save_strategy="epoch", eval_delay=9)
    trainer = trainer_of(pruner(), tmp_path, **options)
    with pytest.raises(ParameterError, match=r"'eval_delay' .* from the last cut .* on, at step 5 of 6. Got '9 epochs of "):
        trainer.train()
    assert trainer.state.global_step == 0
