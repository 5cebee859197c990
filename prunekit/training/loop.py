"""The training loop of a recovery: transformers' Trainer with the loss, the schedule and the evaluation of `training.distill`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from prunekit.budget import Effort
from prunekit.errors import DependencyError
from prunekit.training.buckets import tensors
from prunekit.training.checkpoints import load_model, load_optimizer, save_model, save_optimizer
from prunekit.training.learner import Learner
from prunekit.training.matching import distance, match_layers
from prunekit.training.teacher import answer

#: Number of stops at which a run is evaluated and saved. None ends it: most is gained as the learning rate falls.
STOPS = 10
WARM_UP = 0.05
_CLOSE = "eval_close"
_NEVER = 10**9


class Pace(TrainerCallback, ExportableState):
    """Share of the effort that is used: stops ten times to evaluate and save, and ends the run.

    Seconds count from when it is made, evaluations and what is measured before the first step included. The learning rate follows the
    share that is left for the steps, so that it has decayed whenever the time is up.
    """

    def __init__(self, effort: Effort, progress: Callable[[int, int, str], None] | None) -> None:
        self.effort, self._progress = effort, progress
        self._before, self._start, self._share, self._ready = 0.0, time.perf_counter(), 0.0, 0.0
        self.note = ""

    @property
    def elapsed(self) -> float:
        """Seconds of the training, those of interrupted parts of the run included."""
        return self._before + time.perf_counter() - self._start

    def count_rows(self, given: int, read: int) -> None:
        """Let a maximum of passes be over the `given` rows where others are read."""
        if self.effort.passes is not None:
            self.effort = replace(self.effort, passes=self.effort.passes * given / read)

    def rate(self, _: int) -> float:
        """Return the share of the learning rate: up in the first 5%, down to 0 at the end."""
        share = (self._share - self._ready) / max(1 - self._ready, 1e-9)
        return min(share / WARM_UP, (1 - share) / (1 - WARM_UP), 1.0) if share > 0 else 1e-3

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {"args": {}, "attributes": {"elapsed": self.elapsed, "ready": self._ready}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Continue from the seconds of a checkpoint."""
        stored: Mapping[str, Any] = dict(state.stateful_callbacks).get(type(self).__name__, {}) if state.global_step else {}
        known: Mapping[str, Any] = stored.get("attributes", {})
        self._before = float(known.get("elapsed", 0.0))
        self._share = self._used(state)
        self._ready = float(known.get("ready", 0.0)) if state.global_step else self._share

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate and save at each tenth; stop at the end."""
        before, self._share = self._share, self._used(state)
        # A run whose time was up before its first step is judged after it.
        late = self._share >= 1 and state.best_metric is None
        if late or int(self._share * STOPS) > int(before * STOPS):
            control.should_evaluate = control.should_save = True
        if self._share >= 1:
            control.should_training_stop = True
        if self._progress is not None:
            self._progress(int(1000 * min(self._share, 1.0)), 1000, ", ".join(filter(None, [f"step {state.global_step:,}", self.note])))

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the next tenth from here: an evaluation that takes as long must not be followed by another after one step."""
        self._share = self._used(state)

    def _used(self, state: Any) -> float:
        if self.effort.unit == "epochs":
            return min(1.0, float(state.global_step / state.max_steps))
        seconds = self.elapsed / self.effort.amount
        passes = 0.0 if self.effort.passes is None else float(state.epoch or 0.0) / self.effort.passes
        return min(1.0, max(seconds, passes))


class Distiller(Trainer):
    """Trainer of a slim model on an objective, which evaluates it and keeps the best.

    Parameters
    ----------
    view : ModelView
        Of the slim model.
    objective : Objective
    rows : Buckets
        To train on.
    held : Encoded
        To evaluate on.
    pace : Pace
    arguments : TrainingArguments
    precision : torch.dtype or None
        Of autocast.

    Attributes
    ----------
    scores : dict
        The metric at each stop of this process, by the score that selects the best.
    """

    def __init__(self, learner: Learner, pace: Pace, arguments: TrainingArguments) -> None:
        self.learner, self._pace = learner, pace
        self.scores: dict[float, float] = {}
        view = learner.view
        parameters = [parameter for parameter in view.model.parameters() if parameter.requires_grad]
        # Without the fused kernel, a step over the embeddings of a small model takes as long as its forward and backward passes.
        optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, weight_decay=0.01, fused=True)
        super().__init__(
            model=view.model,
            args=arguments,
            data_collator=_only,
            train_dataset=learner.rows,
            eval_dataset=learner.rows,  # never read: `evaluate` has its own
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, pace.rate)),
            callbacks=[pace],
        )
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the objective on one batch; raise StatisticsError if it is not finite."""
        # Dropout does not help a short training of a small model.
        model.eval()
        return self.learner.loss(inputs, self.state.global_step + 1, model)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Compute the gradients of a batch, with the other processes of the run."""
        self.learner.begin(inputs["number"], self.state.global_step + 1)
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        self.learner.finish()
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate, match the layers again, and notify the callbacks."""
        score, close = self.judge()
        metrics = {_CLOSE: close}
        self.scores[close] = score
        self._pace.note = f"{self.learner.objective.metric} {score:.4f}"
        self.rematch()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def judge(self) -> tuple[float, float]:
        """Return the task's metric on the validation rows, and the score that selects the best: minus the divergence from the teacher.

        Hundreds of rows distinguish divergences much better than accuracies. Without a task both are minus the divergence, without a
        teacher both are the metric. In single precision, in which the model ships.
        """
        task, teacher = self.learner.objective.task, self.learner.objective.teacher
        outputs: list[np.ndarray[Any, Any]] = []
        labels: list[np.ndarray[Any, Any]] = []
        total, rows = 0.0, 0
        for batch, inputs, ours, theirs in self.learner.judged():
            if theirs is not None:
                # Rounding must not make a divergence negative.
                total += max(float(self.learner.objective.apart(ours, theirs, inputs["queries"])), 0.0) * len(ours)
            rows += len(ours)
            outputs.append(ours.cpu().numpy())
            labels.append(batch.labels)
        close = -total / rows
        score = close
        if task is not None:
            targets = np.concatenate(labels)
            score = task.score(task.tuned(np.concatenate(outputs), targets), targets)
        return score, score if teacher is None else close

    def rematch(self) -> None:
        """Match each layer to the most similar one of the teacher, in order, where the depth has changed."""
        teacher = self.learner.objective.teacher
        if teacher is None or not self.learner.objective.dynamic:
            return
        batch = next(iter(self.learner.held.sample(min(64, len(self.learner.held)), 0).batches(max_rows=64)))
        inputs = self._prepare_inputs(tensors(batch))
        mask = inputs["attention_mask"].bool()
        with torch.no_grad(), self.learner.autocast():
            ours = answer(self.learner.view, inputs, inputs["first"], states=True)
            theirs = answer(teacher.view, inputs, inputs["first"], states=True)
        costs = [[float(distance(a, self.learner.objective.across(b), mask)) for b in theirs.states] for a in ours.states]
        self.learner.objective.layers = match_layers(np.array(costs))

    # The methods below keep pickles out of the checkpoints, and the Trainer from reading files itself.

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_model(self.learner.view.model, Path(output_dir or str(self.args.output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # The scheduler follows `Pace`, whose seconds are in the Trainer's state.
        assert self.optimizer is not None
        save_optimizer(self.optimizer, Path(output_dir))

    def _save_rng_state(self, output_dir: str) -> None:
        # Only the order of the batches is random, and it follows from the seed and the epoch.
        pass

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.learner.view.model, Path(resume_from_checkpoint))
        # As at the stop that wrote it.
        self.rematch()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert self.optimizer is not None
        if checkpoint is not None:
            load_optimizer(self.optimizer, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        pass

    def _load_best_model(self) -> None:
        load_model(self.learner.view.model, Path(str(self.state.best_model_checkpoint)))


def _only(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the only batch: a row of the data set is a complete batch, and more than one would be lost."""
    (batch,) = batches
    return batch


def make_arguments(folder: Path, effort: Effort, learning_rate: float, seed: int) -> TrainingArguments:
    """Return the Trainer's arguments; raise DependencyError if accelerate is missing."""
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=effort.amount if effort.unit == "epochs" else _NEVER,
            per_device_train_batch_size=1,  # a row of this data set is a complete batch
            learning_rate=learning_rate,
            use_cpu=not torch.cuda.is_available(),
            seed=seed % 2**31,
            eval_strategy="steps",
            eval_steps=_NEVER,  # `Pace` decides when
            save_strategy="steps",
            save_steps=_NEVER,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model=_CLOSE,
            greater_is_better=True,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
    except ImportError as error:
        raise DependencyError("Training needs accelerate: pip install 'accelerate>=1.1'.") from error
    if arguments.n_gpu > 1:
        # One process uses one of the visible GPUs: on several the Trainer would split the data set's batches across them.
        arguments._n_gpu = 1
    return arguments
