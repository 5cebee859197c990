"""Distillation fine-tuning of a slim model: `recover(slim, teacher, data)`.

The slim model learns the outputs of the dense one (its softened class probabilities, Hinton et al. 2015) and its hidden states:
the target of each of its blocks is the output of the dense block that the refit matches to it (`refit.refit.matches`),
or, where the depth has changed, of the most similar one (CoFi, Xia et al., ACL 2022, section 3.3).
The loop is the Trainer of transformers.
"""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, create_model
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging

from prunekit.arch.config import positions_of, row_length
from prunekit.arch.live import check_weights
from prunekit.arch.load import class_names
from prunekit.arch.view import ModelView, answers_by_span
from prunekit.budget import Effort
from prunekit.data.batches import Encoded, encode
from prunekit.data.rows import Rows
from prunekit.errors import DataError, ParameterError
from prunekit.plan import Plan, kept_blocks
from prunekit.refit.refit import matches
from prunekit.tasks import Task
from prunekit.training.buckets import Buckets, tensors
from prunekit.training.checkpoints import claim, complete_checkpoint, fingerprint, place, read_outcome, write_outcome
from prunekit.training.freeze import freeze_blocks
from prunekit.training.learner import Learner
from prunekit.training.loop import Distiller, Pace, make_arguments
from prunekit.training.objective import Objective
from prunekit.training.pool import affordable, as_many, fewer, judgeable, pool, whole_lists
from prunekit.training.precision import chosen_dtype
from prunekit.training.teacher import Teacher, answer, outputs_of
from prunekit.training.tokens import occurring
from prunekit.validation.arguments import Place, Seed, Within, checked
from prunekit.validation.limits import POSITIONS

Progress = Callable[[int, int, str], None]

#: Environment variable of the precision to which accelerate casts forward passes.
_PRECISION = "ACCELERATE_MIXED_PRECISION"
#: Rows of a validation split that choose the best stop.
_MOST_JUDGED = 2048
#: And tokens: of long rows fewer tell as much, and 2,048 of them would take the time of the training.
_JUDGED_TOKENS = 2**17
_HELD_OUT, _MOST_HELD_OUT = 0.05, 1000
#: Learning rate, and that of vectors at 384 dimensions: at more it falls with the width (Yang et al. 2021, "Tensor Programs V", table 3),
#: to that of answers at 768. 5e-4 is better than 2e-4 at 384, and too high at 768 (docs/embeddings.md).
RATE, VECTOR_RATE, _WIDTH = 2e-4, 4e-4, 384


@dataclass(frozen=True, eq=False)
class Recovered:
    """A slim model after training.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode: the best on validation, which may be the initial one.
    metric : str
        Name of the score in `before` and `after`: the task's metric, or "minus divergence" (from the teacher).
    before, after : float
        On validation, higher is better.
    steps : int
        Optimizer steps.
    epochs, seconds : float
        Passes over the rows that are trained on, and wall-clock time, of all parts of an interrupted run together.
    precision : str
        Number format of the steps, "bfloat16" or "float32".
    effort : str
        The effort that was requested.
    distilled : bool
        Whether there was a teacher.
    """

    model: nn.Module
    metric: str
    before: float
    after: float
    steps: int
    epochs: float
    seconds: float
    precision: str
    effort: str
    distilled: bool

    def __str__(self) -> str:
        how = "distillation from the dense model" if self.distilled else "training on the labels"
        return (
            f"recovered by {how}, {self.effort} at most: {self.epochs:.2f} epochs, {self.steps} steps, {self.seconds:.0f} s "
            f"in {self.precision}; {self.metric} on validation {self.before:.4f} before, {self.after:.4f} after"
        )


#: Fields that are stored of a finished run, which is not trained again.
_KINDS: dict[str, Any] = {name: (kind, ...) for name, kind in get_type_hints(Recovered).items() if name != "model"}
_OUTCOME: type[BaseModel] = create_model("_Outcome", __config__=ConfigDict(strict=True, extra="forbid"), **_KINDS)


@checked("recover")
def recover(
    slim: nn.Module,
    teacher: nn.Module | None,
    data: Encoded | Sequence[str],
    *,
    effort: str | Effort = "10min",
    plan: Plan | None = None,
    validation: Encoded | None = None,
    task: Task | None = None,
    tokenizer: Any | None = None,
    max_length: Annotated[int, Within(4, POSITIONS)] | None = None,
    freeze: str | None = None,
    learning_rate: float | None = None,
    seed: Seed = 0,
    checkpoints: Place | None = None,
    own_space: bool = False,
    memory: Annotated[int, Within(0, 2**62)] = 2**31,
    progress: Progress | None = None,
) -> Recovered:
    """Train a slim model to reproduce the outputs of the dense one.

    Parameters
    ----------
    slim : nn.Module
        With a head or a readout, still with the vocabulary of `data`; not changed.
    teacher : nn.Module or None
        The dense model, with the same outputs. None: the slim model is fine-tuned on the labels alone, which needs `task`.
    data : Encoded or sequence of str
        Rows to train on. Their labels count only where `task` is given; texts have none. Of more than 32,768 rows as many are drawn,
        each in proportion to its tokens; a limit of time takes fewer of many, or adds altered copies to few (`training.pool`).
    effort : str or Effort
        ``"10min"``, ``"90s"``, ``"3epochs"``: the maximum. The learning rate falls to 0 over it.
    plan : Plan, optional
        What the slim model keeps of the teacher; needed where the two differ in depth or hidden width.
    validation : Encoded, optional
        Selects the best of ten stops, by the divergence from the teacher if there is one; default: 5% of `data`, at most 1000 rows;
        no more are judged than take a fifth of a limit of time.
    task : Task, optional
        Scores validation, and adds the labels of `data` to the loss.
    tokenizer : PreTrainedTokenizerBase, optional
        Needed for texts.
    max_length : int, optional
        Tokens after which a text is cut; default: 128, or as many as the model has positions where that is less.
    freeze : str, optional
        ``"layers:0-3"``: blocks, in the teacher's numbering, that are not trained; with the lowest one the embeddings are not either.
    learning_rate : float, optional
        The maximum, after a warm-up of 5%; default: that of `default_rate`.
    seed : int
        Of the order of the rows.
    checkpoints : path, optional
        A directory from which an interrupted run is resumed. It is written ten times in a run.
    own_space : bool
        Of an embedder: learn only the similarities between the teacher's vectors, and not the vectors.
    memory : int
        Maximum bytes of cached outputs of the teacher, logits before hidden states; what does not fit is computed again.
    progress : callable, optional
        Called with (thousandths of the effort, 1000, the metric so far).

    Returns
    -------
    Recovered

    Raises
    ------
    ParameterError
        An effort of zero, a teacher with other labels, neither a teacher nor a task, checkpoints of another run.
    ModelError, StatisticsError
        Weights that are not those that the config describes, or hold NaN; a loss that is not finite.
    """
    effort = effort if isinstance(effort, Effort) else Effort.parse(effort, of="recover", parameter="effort")
    pace = Pace(effort, progress)
    positions = positions_of(ModelView.of(slim).config, int(getattr(tokenizer, "pad_token_id", None) or 0))
    rows, held = _rows_of(data, validation, tokenizer, row_length(positions, max_length, of="recover"), seed)
    model, teacher = _prepared(slim, teacher)
    view, dense = ModelView.of(model), None if teacher is None else ModelView.of(teacher)
    rate = default_rate(view) if learning_rate is None else learning_rate
    _check(view, dense, task, rate)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sample = tensors(next(iter(held.sample(min(32, len(held)), seed).batches())))
    precision, forward = (chosen_dtype(dense or view, sample, device, training=training) for training in (True, False))
    _freeze(view, freeze, _blocks(view, plan))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad or freeze is not None]
    objective = _objective(view, dense, plan, task, memory, forward)
    objective = replace(objective, own_space=own_space, lists=rows.queries is not None, unit=_check_answers(view, dense, sample))
    with place(checkpoints) as folder, _isolated():
        options = [asdict(effort), seed, rate, freeze, plan and plan.digest, task and asdict(task), *["own space"] * own_space]
        key = fingerprint([each for each in (model, teacher) if each is not None], [rows, held], options)
        amounts = claim(folder, key, lambda: _amounts(view, dense, (rows, held), effort, device, precision))
        rows, held = _chosen((rows, held), amounts, seed, pace)
        if (outcome := read_outcome(folder, model, _OUTCOME)) is not None:
            trained = Recovered(model=model, **outcome)
        else:
            with occurring(view, (rows, held)):
                arguments = make_arguments(folder, effort, rate, seed)
                trained, helped = _train(Learner(view, objective, Buckets(rows, seed), held, precision), pace, arguments)
            if not helped:
                model.load_state_dict(slim.state_dict())
            write_outcome(folder, model, {name: value for name, value in vars(trained).items() if name != "model"})
    _release(model, trainable)
    return replace(trained, model=model.cpu().eval())


def default_rate(view: ModelView) -> float:
    """Return the learning rate that suits what a model gives: 2e-4; for vectors 4e-4, beyond 384 dimensions less."""
    return VECTOR_RATE * min(1.0, _WIDTH / view.hidden_size) if outputs_of(view) == "vectors" else RATE


def _amounts(
    view: ModelView, dense: ModelView | None, rows: tuple[Encoded, Encoded], effort: Effort, device: str, precision: torch.dtype | None
) -> tuple[int, int]:
    """Return how many rows to train on, altered ones among them, and how many to validate on, the time allows."""
    return affordable(view, dense, rows[0], effort, device, precision), judgeable(view, dense, rows[1], effort, device)


def _chosen(rows: tuple[Encoded, Encoded], amounts: tuple[int, int], seed: int, pace: Pace) -> tuple[Encoded, Encoded]:
    """Return as many rows to train on, and to validate on; let `pace` know of the first."""
    found = as_many(rows[0], amounts[0], seed)
    pace.count_rows(len(rows[0]), len(found))
    return found, fewer(rows[1], amounts[1], seed)


def _prepared(slim: nn.Module, teacher: nn.Module | None) -> tuple[nn.Module, nn.Module | None]:
    """Return a copy to train, in single precision, in which small steps do not vanish; and the teacher in evaluation mode.

    The teacher is in single precision too, on the CPU: a copy, unless it is that already.
    """
    check_weights(slim)
    model = copy.deepcopy(slim).float().eval()
    if teacher is None:
        return model, None
    check_weights(teacher)
    ready = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in teacher.parameters())
    ready = ready and not any(part.training for part in teacher.modules())
    return model, teacher if ready else copy.deepcopy(teacher).cpu().float().eval()


def _release(model: nn.Module, trainable: Collection[str]) -> None:
    """Restore which parameters are trainable, so that a part that was frozen for this training alone can be trained again."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
        parameter.grad = None


def _blocks(view: ModelView, plan: Plan | None) -> tuple[int, ...]:
    """Return the teacher's blocks that are kept."""
    return tuple(range(view.num_layers)) if plan is None else kept_blocks(plan)


def _freeze(view: ModelView, freeze: str | None, blocks: Sequence[int]) -> None:
    if freeze is None:
        return
    freeze_blocks(view, freeze, blocks)
    if not any(parameter.requires_grad for parameter in view.model.parameters()):
        raise ParameterError("freeze", "recover", "less than everything", freeze)


def _train(learner: Learner, pace: Pace, arguments: TrainingArguments) -> tuple[Recovered, bool]:
    """Train, and keep the best of the stops; return whether that is better than the initial weights, which are the caller's to restore."""
    distiller, model, objective, precision = Distiller(learner, pace, arguments), learner.view.model, learner.objective, learner.precision
    if objective.teacher is not None:
        objective.teacher.view.model.to(distiller.args.device)
    with learner.together():
        before, close = distiller.judge()
        distiller.rematch()
        done = distiller.train(resume_from_checkpoint=complete_checkpoint(Path(str(arguments.output_dir)), model))
        best = distiller.state.best_metric
        helped = best is not None and float(best) > close
        after = before
        if helped:
            # The best of an earlier part of the run is judged again.
            after = distiller.scores[best] if best in distiller.scores else distiller.judge()[0]
    if objective.teacher is not None:
        objective.teacher.view.model.cpu()
    return Recovered(
        model=model,
        metric=objective.metric,
        before=before,
        after=after,
        steps=int(done.global_step),
        epochs=float(distiller.state.epoch or 0.0),
        seconds=pace.elapsed,
        precision="float32" if precision is None else str(precision).removeprefix("torch."),
        effort=str(pace.effort),
        distilled=objective.teacher is not None,
    ), helped


def _rows_of(
    data: Encoded | Sequence[str], validation: Encoded | None, tokenizer: Any | None, max_length: int, seed: int
) -> tuple[Encoded, Encoded]:
    """Return rows to train on, and rows to validate on."""
    if not isinstance(data, Encoded):
        if isinstance(data, str) or not all(isinstance(text, str) for text in data):
            raise ParameterError("data", "recover", "tokenised rows or a list of texts", type(data).__name__)
        if not len(data):
            raise DataError("There are no rows to train on.")
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ParameterError("tokenizer", "recover", "given with texts, as a tokenizer of transformers", tokenizer)
        try:
            "".join(data).encode()
        except UnicodeEncodeError:
            raise DataError("A text holds half a character (a lone surrogate): leave it out.") from None
        data = encode(Rows(labels=np.zeros(len(data)), texts=tuple(data)), tokenizer, max_length=max_length, per_token=False)
    if validation is not None:
        # Hundreds of rows tell divergences apart; all of a large split, eleven times over, would leave no time to train.
        most = min(_MOST_JUDGED, int(_JUDGED_TOKENS / validation.lengths.mean()))
        return pool(data, seed), fewer(validation, most, seed)
    order = np.random.default_rng(seed).permutation(len(data))
    size = min(_MOST_HELD_OUT, int(len(data) * _HELD_OUT))
    if not size:
        raise DataError(f"5% of {len(data)} rows are none: give more rows, or a validation split.")
    held = np.sort(order[:size]) if data.queries is None else whole_lists(data, size, seed)
    rest = np.setdiff1d(order, held)
    if not len(rest):
        raise DataError("The rows are of one query: give more queries, or a validation split.")
    return pool(data.take(rest), seed), data.take(held)


def _check(view: ModelView, dense: ModelView | None, task: Task | None, learning_rate: float) -> None:
    if not 0 < learning_rate < 1:
        raise ParameterError("learning_rate", "recover", "between 0 and 1", learning_rate)
    if view.body is view.model:
        raise ParameterError("slim", "recover", "a model with a head or a readout", type(view.model).__name__)
    outputs = int(view.config.num_labels)
    if dense is None:
        if task is None:
            raise ParameterError("teacher", "recover", "given where there is no task whose labels could be learned", None)
    else:
        theirs = int(dense.config.num_labels)
        names = [class_names(each.config) for each in (view, dense)]
        if theirs != outputs or names[0] != names[1]:
            must = f"a model with the slim model's labels, {', '.join(names[0])}"
            raise ParameterError("teacher", "recover", must, ", ".join(names[1]))
    if task is None:
        return
    if answers_by_span(view.model):
        must = "left out for a model that answers questions by places, which learns from a teacher alone"
        raise ParameterError("task", "recover", must, task.kind.value)
    if task.many != (outputs_of(view) == "labels"):
        must = "one for rows with any number of labels" if outputs_of(view) == "labels" else "one for rows with a label each"
        raise ParameterError("task", "recover", f"{must}, as the model is", task.kind.value)
    if task.outputs != outputs:
        raise ParameterError("task", "recover", f"one with the model's {outputs} outputs", f"{task.outputs} outputs")


def _check_answers(view: ModelView, dense: ModelView | None, sample: dict[str, Any]) -> float:
    """Return the variance of the teacher's answers, 1 without a teacher or where they are all alike.

    Refuse models that answer for different positions: a head for rows and one for tokens cannot learn from each other.
    """
    if dense is None:
        return 1.0
    with torch.no_grad():
        ours, theirs = (answer(each, sample, sample["first"], states=False).logits for each in (view, dense))
    if ours.shape != theirs.shape or outputs_of(view) != outputs_of(dense):
        names = [type(each.model).__name__ for each in (view, dense)]
        raise ParameterError("teacher", "recover", f"a model with a head like the slim model's, {names[0]}", names[1])
    return float(theirs.double().var(correction=0)) or 1.0


def _objective(
    view: ModelView,
    dense: ModelView | None,
    plan: Plan | None,
    task: Task | None,
    memory: int,
    precision: torch.dtype | None,
) -> Objective:
    if dense is None:
        return Objective(task=task)
    blocks, total = _blocks(view, plan), dense.num_layers
    if plan is None and view.num_layers != total:
        must = f"given where the slim model has {view.num_layers} layers and the teacher {total}"
        raise ParameterError("plan", "recover", must, None)
    if plan is not None and len(blocks) != view.num_layers:
        raise ParameterError(
            "plan", "recover", f"that of the slim model, which has {view.num_layers} layers", f"one that keeps {len(blocks)}"
        )
    has_readout = plan is not None and plan.readout is not None
    pairs = matches(blocks, total, fill=not has_readout)
    teacher = Teacher(dense, limit=memory, precision=precision)
    dims = None if plan is None or plan.hidden is None else torch.tensor(plan.hidden)
    # A readout reads certain layers, each of which must keep its meaning.
    dynamic = bool(blocks) and len(blocks) < total and not has_readout
    layers = tuple(pair.output for pair in pairs)
    return Objective(task=task, teacher=teacher, layers=layers, dims=dims, dynamic=dynamic, outputs=outputs_of(view))


@contextmanager
def _isolated() -> Iterator[None]:
    """Restore the process's random generators, verbosity and environment, which the Trainer changes or reads.

    The precision in the environment is switched off: `Distiller` has its own.
    """
    precision = os.environ.get(_PRECISION)
    os.environ[_PRECISION] = "no"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers does not annotate it
    kept: Mapping[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Transformers 4 warns where 5 logs: of how it sorts checkpoints.
        warnings.filterwarnings("ignore", message="mtime may not be reliable")
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if precision is None:
                del os.environ[_PRECISION]
            else:
                os.environ[_PRECISION] = precision
            random.setstate(kept["python"])
            np.random.set_state(kept["numpy"])
