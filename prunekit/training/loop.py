"""The training loop of a recovery: transformers' Trainer with the loss, the schedule and the evaluation of `training.distill`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, mse_loss
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from prunekit.arch.view import ModelView
from prunekit.budget import Effort
from prunekit.data.batches import Batch, Encoded
from prunekit.errors import DependencyError, StatisticsError
from prunekit.tasks import Task
from prunekit.training.checkpoints import load_model, load_optimizer, save_model, save_optimizer
from prunekit.training.matching import distance, match_layers, vector_distance
from prunekit.training.teacher import Answer, Outputs, Teacher, answer

#: Maximum number of rows of a batch, and of its padded tokens.
ROWS, TOKENS = 32, 4096
#: Number of stops at which a run is evaluated and saved, and of stops without a gain that end it.
STOPS, PATIENCE = 10, 4
WARM_UP = 0.05
_TEMPERATURE = 2.0
_HIDDEN, _LABELS = 1.0, 0.25
_CLOSE = "eval_close"
_NEVER = 10**9


@dataclass(eq=False)
class Objective:
    """Objective of the training.

    Attributes
    ----------
    task : Task or None
        Task whose labels are learned.
    teacher : Teacher or None
    layers : tuple of int
        For each block of the slim model, the block of the teacher whose output it learns; changed if `dynamic`.
    dims : Tensor or None
        Hidden dimensions of the teacher that the slim model keeps.
    dynamic : bool
        Whether the layers are matched again at every stop.
    outputs : {"classes", "labels", "values", "vectors"}
        Meaning of the logits.
    own_space : bool
        Whether only the similarities between vectors are learned, and not the teacher's vectors.
    lists : bool
        Whether values are scores of lists by query, whose order is learned.
    unit : float
        Variance of the teacher's values, in which their squared differences count, so that the unit of the labels does not matter.
    """

    task: Task | None = None
    teacher: Teacher | None = None
    layers: tuple[int, ...] = ()
    dims: Tensor | None = None
    dynamic: bool = False
    outputs: Outputs = "classes"
    own_space: bool = False
    lists: bool = False
    unit: float = 1.0

    @property
    def metric(self) -> str:
        """Name of the validation score."""
        return "minus divergence" if self.task is None else self.task.metric.value

    def target(self, states: tuple[Tensor, ...], layer: int) -> Tensor:
        """Return the target of a layer of the slim model."""
        return self.across(states[self.layers[layer]])

    def across(self, state: Tensor) -> Tensor:
        """Return the dimensions that the slim model has too."""
        return state if self.dims is None else state.index_select(-1, self.dims.to(state.device))

    def apart(self, ours: Tensor, theirs: Tensor, queries: Tensor | None) -> Tensor:
        """Return how far the outputs are from the teacher's: a scalar."""
        if self.outputs == "vectors":
            return vector_distance(ours, theirs, own_space=self.own_space)
        if self.lists and queries is not None:
            return listwise(ours, theirs, queries)
        apart = divergence(ours, theirs, self.outputs)
        return apart / self.unit if self.outputs == "values" else apart

    def loss(self, ours: Answer, theirs: Answer | None, labels: Tensor, mask: Tensor, queries: Tensor | None = None) -> Tensor:
        """Return a scalar: the divergence from the teacher, the distance of the hidden states, and the loss on the labels."""
        total = ours.logits.sum() * 0.0
        if theirs is not None:
            total = total + self.apart(ours.logits, theirs.logits, queries)
            if theirs.states and self.layers:
                distances = [distance(state, self.target(theirs.states, layer), mask) for layer, state in enumerate(ours.states)]
                total = total + _HIDDEN * torch.stack(distances).mean()
        # Values need not be on the scale of the labels, as a reranker's scores are not: a teacher's own stand for them.
        if self.task is not None and not (theirs is not None and self.task.kind.traits.values):
            weight = _LABELS if theirs is not None else 1.0
            if self.task.many:
                # Summed over the labels, as the divergence is.
                losses = binary_cross_entropy_with_logits(ours.logits, labels.float(), reduction="none")
                total = total + weight * losses.sum(dim=1).mean()
            elif self.task.kind.traits.values:
                total = total + weight * mse_loss(ours.logits[:, 0], labels.float())
            else:
                total = total + weight * cross_entropy(ours.logits, labels)
        return total


def divergence(ours: Tensor, theirs: Tensor, outputs: Outputs = "classes") -> Tensor:
    """Return how far logits (k, C) are from the teacher's: a scalar, the mean over k.

    T^2 KL at temperature T = 2 (Hinton et al. 2015) of the distribution over C classes; with C independent labels the sum of those of C
    yes-or-no distributions; of values the squared error.
    """
    if outputs == "values":
        return mse_loss(ours, theirs)
    if outputs == "labels":
        # The softmax of (x, 0) is (sigmoid(x), 1 - sigmoid(x)).
        ours, theirs = (torch.stack([logits, torch.zeros_like(logits)], dim=-1) for logits in (ours, theirs))
    soft = (theirs / _TEMPERATURE).log_softmax(-1)
    kl = kl_div((ours / _TEMPERATURE).log_softmax(-1), soft, reduction="batchmean", log_target=True)
    return _TEMPERATURE**2 * kl


def listwise(ours: Tensor, theirs: Tensor, queries: Tensor) -> Tensor:
    """Return how far scores (k, 1) are from the teacher's, as orders of lists: a scalar.

    The Kullback-Leibler divergence of the softmax over the rows of each query (ListNet, Cao et al. 2007), mean over the queries, and the
    squared difference in units of the teacher's variance, so that scores keep their level.

    Parameters
    ----------
    ours, theirs : Tensor
    queries : Tensor
        (k,) int64, the query of each row.
    """
    _, groups = torch.unique(queries, return_inverse=True)
    count = int(groups.max()) + 1

    def normalised(scores: Tensor) -> Tensor:
        top = torch.full((count,), -torch.inf).to(scores).scatter_reduce(0, groups, scores.detach(), "amax")
        shifted = scores - top[groups]
        return shifted - torch.zeros(count).to(scores).index_add(0, groups, shifted.exp()).log()[groups]

    log_targets, log_outputs = normalised(theirs[:, 0]), normalised(ours[:, 0])
    # A single score has no variance: it counts in units of the logits, as the divergence does.
    spread = (theirs - theirs.mean()).square().mean().clamp_min(1e-3) if len(theirs) > 1 else theirs.new_ones(())
    return (log_targets.exp() * (log_targets - log_outputs)).sum() / count + mse_loss(ours, theirs) / spread


class Buckets(Dataset[dict[str, Any]]):
    """Length-bucketed batches; rows of equal length are distributed at random; the rows of a query stay together."""

    def __init__(self, encoded: Encoded, seed: int) -> None:
        lists = encoded.queries is not None
        self._encoded = encoded if lists else encoded.take(np.random.default_rng(seed).permutation(len(encoded)))
        self._rows = encoded.list_batches(TOKENS, ROWS) if lists else [batch.rows for batch in self._encoded.batches(TOKENS, ROWS)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"number": number, **tensors(self._encoded.batch(self._rows[number]), self._encoded.queries)}


def tensors(batch: Batch, queries: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Return a batch as tensors: inputs, labels, the positions that are read, and the queries of its rows."""
    converted: dict[str, Any] = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    converted["labels"] = torch.from_numpy(np.ascontiguousarray(batch.labels))
    converted["first"] = None if batch.first is None else torch.from_numpy(batch.first)
    converted["queries"] = None if queries is None else torch.from_numpy(queries[batch.rows])
    return converted


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
        if int(self._share * STOPS) > int(before * STOPS):
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


class Patience(EarlyStoppingCallback):
    """Early stopping whose count an interrupted run goes on with."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue from the count of a checkpoint."""
        super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]  # transformers does not annotate it
        stored: Mapping[str, Any] = dict(state.stateful_callbacks).get(type(self).__name__, {}) if state.global_step else {}
        self.early_stopping_patience_counter = int(stored.get("attributes", {}).get("early_stopping_patience_counter") or 0)


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

    def __init__(
        self,
        view: ModelView,
        objective: Objective,
        rows: Buckets,
        held: Encoded,
        pace: Pace,
        arguments: TrainingArguments,
        precision: torch.dtype | None,
    ) -> None:
        self.view, self._objective, self._held, self._pace, self._precision = view, objective, held, pace, precision
        self.scores: dict[float, float] = {}
        parameters = [parameter for parameter in view.model.parameters() if parameter.requires_grad]
        # Without the fused kernel, a step over the embeddings of a small model takes as long as its forward and backward passes.
        optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, weight_decay=0.01, fused=True)
        super().__init__(
            model=view.model,
            args=arguments,
            data_collator=_only,
            train_dataset=rows,
            eval_dataset=rows,  # never read: `evaluate` has its own
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, pace.rate)),
            callbacks=[pace, Patience(PATIENCE)],
        )
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the objective on one batch; raise StatisticsError if it is not finite."""
        # Dropout does not help a short training of a small model.
        model.eval()
        teacher, first = self._objective.teacher, inputs["first"]
        theirs = None if teacher is None else teacher(inputs["number"], inputs, first)
        states = theirs is not None and bool(theirs.states)
        with self._autocast():
            ours = answer(self.view, inputs, first, states=states, through=model)
        loss = self._objective.loss(ours, theirs, inputs["labels"], inputs["attention_mask"].bool(), inputs["queries"])
        if not bool(torch.isfinite(loss)):
            raise StatisticsError(
                f"The loss of the recovery is not finite at step {self.state.global_step + 1}: lower the learning rate, "
                "or look for values that are not finite in the model."
            )
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate, match the layers again, and notify the callbacks."""
        score, close = self.judge()
        metrics = {_CLOSE: close}
        self.scores[close] = score
        self._pace.note = f"{self._objective.metric} {score:.4f}"
        self.rematch()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def judge(self) -> tuple[float, float]:
        """Return the task's metric on the validation rows, and the score that selects the best: minus the divergence from the teacher.

        Hundreds of rows distinguish divergences much better than accuracies. Without a task both are minus the divergence, without a
        teacher both are the metric. In single precision, in which the model ships.
        """
        task, teacher = self._objective.task, self._objective.teacher
        self.view.model.eval()
        outputs: list[np.ndarray[Any, Any]] = []
        labels: list[np.ndarray[Any, Any]] = []
        total, rows = 0.0, 0
        with torch.no_grad():
            queries = self._held.queries
            batches = self._held.batches() if queries is None else map(self._held.batch, self._held.list_batches(TOKENS, ROWS))
            for number, batch in enumerate(batches):
                inputs = self._prepare_inputs(tensors(batch, queries))
                ours = answer(self.view, inputs, inputs["first"], states=False)
                if teacher is not None:
                    theirs = teacher(-1 - number, inputs, inputs["first"], states=False)
                    # Rounding must not make a divergence negative.
                    total += max(float(self._objective.apart(ours.logits, theirs.logits, inputs["queries"])), 0.0) * len(ours.logits)
                rows += len(ours.logits)
                outputs.append(ours.logits.cpu().numpy())
                labels.append(batch.labels)
        close = -total / rows
        score = close
        if task is not None:
            targets = np.concatenate(labels)
            score = task.score(task.tuned(np.concatenate(outputs), targets), targets)
        return score, score if teacher is None else close

    def rematch(self) -> None:
        """Match each layer to the most similar one of the teacher, in order, where the depth has changed."""
        teacher = self._objective.teacher
        if teacher is None or not self._objective.dynamic:
            return
        batch = next(iter(self._held.sample(min(64, len(self._held)), 0).batches(max_rows=64)))
        inputs = self._prepare_inputs(tensors(batch))
        mask = inputs["attention_mask"].bool()
        with torch.no_grad(), self._autocast():
            ours = answer(self.view, inputs, inputs["first"], states=True)
            theirs = answer(teacher.view, inputs, inputs["first"], states=True)
        costs = [[float(distance(a, self._objective.across(b), mask)) for b in theirs.states] for a in ours.states]
        self._objective.layers = match_layers(np.array(costs))

    def _autocast(self) -> Any:
        return torch.autocast(self.args.device.type, dtype=self._precision, enabled=self._precision is not None)

    # The methods below keep pickles out of the checkpoints, and the Trainer from reading files itself.

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_model(self.view.model, Path(output_dir or str(self.args.output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # The scheduler follows `Pace`, whose seconds are in the Trainer's state.
        assert self.optimizer is not None
        save_optimizer(self.optimizer, Path(output_dir))

    def _save_rng_state(self, output_dir: str) -> None:
        # Only the order of the batches is random, and it follows from the seed and the epoch.
        pass

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.view.model, Path(resume_from_checkpoint))
        # As at the stop that wrote it.
        self.rematch()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert self.optimizer is not None
        if checkpoint is not None:
            load_optimizer(self.optimizer, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        pass

    def _load_best_model(self) -> None:
        load_model(self.view.model, Path(str(self.state.best_model_checkpoint)))


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
