"""One step of a training, which the processes of one run divide: the rows of each batch, and the batches of an evaluation.

Rank 0 has the Trainer: it decides what is computed next, steps, and sends the weights along with what is to be computed, so that all
have the same ones. The loss is that of the whole batch in each process, differentiated by its own rows: logits travel, and of the
teacher's hidden states their moments. So gradients add up to those of one process, whichever rows a loss compares with each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prunekit.arch.view import ModelView, answers_by_span, digest_of
from prunekit.data import parallel
from prunekit.data.batches import Batch, Encoded
from prunekit.errors import ProcessError, StatisticsError
from prunekit.training.buckets import ROWS, TOKENS, Buckets, tensors
from prunekit.training.matching import StateMoments
from prunekit.training.objective import Objective
from prunekit.training.teacher import Answer, answer


class _Next(NamedTuple):
    """What is computed next: a batch of the training, by its number; or all of validation, where that is None."""

    number: int | None
    step: int
    layers: tuple[int, ...]


class _Outputs(NamedTuple):
    """What the other processes need of one's rows: the logits of both models, and moments of the teacher's states, by layers."""

    ours: Tensor
    theirs: Tensor | None
    moments: tuple[StateMoments, ...]


@dataclass(eq=False)
class Learner:
    """What each process has of a training; called with its rank and their number, it computes what rank 0 hands out.

    Attributes
    ----------
    view : ModelView
        Of the slim model.
    objective : Objective
    rows : Buckets
        To train on.
    held : Encoded
        To evaluate on.
    precision : torch.dtype or None
        Of autocast.
    rank, size : int
        Which process this is, of how many that train together.
    """

    view: ModelView
    objective: Objective
    rows: Buckets
    held: Encoded
    precision: torch.dtype | None
    rank: int = 0
    size: int = 1

    def __call__(self, place: tuple[int, int]) -> str:
        """Compute until rank 0 ends the training; return the digest of the weights."""
        self.rank, self.size = place
        model, flat = self.view.model.eval(), _Flat(self.view.model)
        while (following := parallel.handed(flat.tensor)) is not None:
            flat.write()
            self.objective.layers = following.layers
            if following.number is None:
                for _ in self.answers():
                    pass
                continue
            self.loss(self.rows[following.number], following.step).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            flat.read_gradients()
            model.zero_grad()
            parallel.add_up(flat.tensor)
        flat.write()
        return digest_of(model)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the other processes of the run take part while the context is open, on processors alone.

        Raises
        ------
        ProcessError
            Weights of another process are not those of this one at the end.
        """
        if self._device.type != "cpu":
            yield
            return
        with parallel.accompanied(self) as (size, digests):
            if size == 1:
                yield
                return
            self.size, self._flat = size, _Flat(self.view.model)
            try:
                yield
            finally:
                self.size = 1
            self._hand(None)
        mine = digest_of(self.view.model)
        for rank, digest in enumerate(digests, 1):
            if digest != mine:
                raise ProcessError(
                    f"The weights of process {rank + 1} of {size} (rank {rank}) are not those of rank 0 at the end of the training: "
                    "run it again, or in one process."
                )

    def begin(self, number: int, step: int) -> None:
        """Let all processes compute their rows of a batch with these weights."""
        if self.size > 1:
            self._hand(_Next(number, step, self.objective.layers))

    def finish(self) -> None:
        """Add the gradients of the other processes to those of this one."""
        if self.size > 1:
            self._flat.read_gradients()
            parallel.add_up(self._flat.tensor)
            self._flat.write_gradients()

    def loss(self, inputs: Mapping[str, Any], step: int, through: Callable[..., Any] | None = None) -> Tensor:
        """Return the objective on a batch, a scalar, as far as it depends on the rows of this process.

        Parameters
        ----------
        inputs : mapping
            The whole batch, as `Buckets` has it.
        step : int
            Number of the step, from 1.
        through : callable, optional
            As in `teacher.answer`.

        Raises
        ------
        StatisticsError
            It is not finite.
        """
        part = _OwnRows.of(inputs, self.rank, self.size)
        teacher, number = self.objective.teacher, inputs["number"]
        theirs = None if teacher is None else teacher.look(number, part.inputs, part.first)
        states = theirs is not None and bool(theirs.states)
        with self.autocast():
            ours = answer(self.view, part.inputs, part.first, states=states, through=through)
        if self.size == 1:
            if teacher is not None and theirs is not None:
                teacher.remember(number, theirs)
            loss = self.objective.loss(ours, theirs, inputs["labels"], part.mask, inputs["queries"])
        else:
            loss = self._joint(inputs, part, ours, theirs)
        if not bool(torch.isfinite(loss)):
            raise StatisticsError(
                f"The loss of the recovery is not finite at step {step}: lower the learning rate, or look for values that are not "
                "finite in the model."
            )
        return loss

    def _joint(self, inputs: Mapping[str, Any], part: _OwnRows, ours: Answer, theirs: Answer | None) -> Tensor:
        """Return the loss of the whole batch, of which the other processes have the other rows."""
        if theirs is not None:
            rows = len(inputs["input_ids"])
            states = sum(rows * math.prod(state.shape[1:]) * state.element_size() for state in theirs.states)
        if part.empty:
            ours, theirs = _no_rows(ours), None if theirs is None else _no_rows(theirs)
        own = _Outputs(ours.logits.detach(), None, ())
        if theirs is not None:
            own = _Outputs(own.ours, theirs.logits, self.objective.moments(theirs, part.mask))
        said = parallel.total((own,), _joined)
        spans = answers_by_span(self.view.model)
        logits = _whole([each.ours if rank != self.rank else ours.logits for rank, each in enumerate(said)], spans=spans)
        whole = None
        if theirs is not None:
            whole = Answer(_whole([each.theirs for each in said if each.theirs is not None], spans=spans), theirs.states)
            assert self.objective.teacher is not None
            self.objective.teacher.remember(inputs["number"], theirs, of=(whole.logits.numel() * whole.logits.element_size(), states))
        moments = [StateMoments.of(parts) for parts in zip(*(each.moments for each in said), strict=True)]
        return self.objective.loss(Answer(logits, ours.states), whole, inputs["labels"], part.mask, inputs["queries"], moments)

    def judged(self) -> Iterator[tuple[Batch, Mapping[str, Any], Tensor, Tensor | None]]:
        """Yield each batch of validation, also as tensors, with the logits of both models; its batches are divided."""
        if self.size > 1:
            self._hand(_Next(None, 0, self.objective.layers))
        yield from self.answers()

    def answers(self) -> Iterator[tuple[Batch, Mapping[str, Any], Tensor, Tensor | None]]:
        """See `judged`; all processes must take part."""
        queries, teacher = self.held.queries, self.objective.teacher
        batches = self.held.batches() if queries is None else map(self.held.batch, self.held.list_batches(TOKENS, ROWS))
        self.view.model.eval()
        coming = enumerate((batch, _moved(tensors(batch, queries), self._device)) for batch in batches)
        while now := list(islice(coming, self.size)):
            own = [self._answer(number, inputs) for number, (_, inputs) in now[self.rank : self.rank + 1]]
            for (number, (batch, inputs)), (ours, theirs) in zip(now, parallel.total(own, _joined), strict=True):
                if teacher is not None and theirs is not None:
                    teacher.remember(-1 - number, Answer(theirs))
                yield batch, inputs, ours, theirs

    def _answer(self, number: int, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        teacher = self.objective.teacher
        with torch.no_grad():
            ours = answer(self.view, inputs, inputs["first"], states=False).logits
            return ours, None if teacher is None else teacher.look(-1 - number, inputs, inputs["first"], states=False).logits

    def _hand(self, following: _Next | None) -> None:
        self._flat.read()
        parallel.hand(following, self._flat.tensor)

    @property
    def _device(self) -> torch.device:
        return next(self.view.model.parameters()).device

    def autocast(self) -> Any:
        """Return a context of the precision of a step."""
        return torch.autocast(self._device.type, dtype=self.precision, enabled=self.precision is not None)


class _OwnRows(NamedTuple):
    """The rows of a batch that are one process's: neighbours, as many as the others' or one fewer.

    A process for which there is none has the first row, and `empty`.
    """

    inputs: Mapping[str, Tensor]
    first: Tensor | None
    mask: Tensor
    empty: bool

    @classmethod
    def of(cls, inputs: Mapping[str, Any], rank: int, size: int) -> _OwnRows:
        """Return the part of a process."""
        named = {name: value for name, value in inputs.items() if name not in ("number", "labels", "first", "queries")}
        first, mask = inputs["first"], inputs["attention_mask"].bool()
        if size == 1:
            return cls(named, first, mask, empty=False)
        own = np.array_split(np.arange(len(mask)), size)[rank]
        start, stop = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 1)
        if first is not None:
            first = first[(first[:, 0] >= start) & (first[:, 0] < stop)] - torch.tensor([start, 0])
        mask = mask[start:stop] if len(own) else mask[:0]
        return cls({name: value[start:stop] for name, value in named.items()}, first, mask, empty=not len(own))


class _Flat:
    """The parameters that are trained, or their gradients, as one tensor, in which they travel."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.tensor = torch.zeros(sum(parameter.numel() for parameter in self._parameters))

    def _parts(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        start = 0
        for parameter in self._parameters:
            yield parameter, self.tensor[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def read(self) -> None:
        """Copy the parameters."""
        for parameter, part in self._parts():
            part.copy_(parameter.detach())

    def write(self) -> None:
        """Copy to the parameters."""
        with torch.no_grad():
            for parameter, part in self._parts():
                parameter.copy_(part)

    def read_gradients(self) -> None:
        """Copy the gradients; 0 where a parameter has none."""
        for parameter, part in self._parts():
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad)

    def write_gradients(self) -> None:
        """Copy to the gradients; a parameter that has none, on which the loss does not depend, is not to be stepped."""
        for parameter, part in self._parts():
            if parameter.grad is not None:
                parameter.grad.copy_(part)


def _no_rows(known: Answer) -> Answer:
    return Answer(known.logits[:0], tuple(state[:0] for state in known.states))


def _joined(parts: Sequence[Any]) -> Any:
    return [each for part in parts for each in part]


def _whole(parts: Sequence[Tensor], *, spans: bool) -> Tensor:
    """Return the logits of a batch from those of its rows; of answers to questions, where all start comes before where all end."""
    if spans:
        parts = [half for end in range(2) for half in (part.chunk(2)[end] if len(part) else part for part in parts)]
    return torch.cat(list(parts))


def _moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
