"""Outputs of the teacher for each batch, computed once where memory allows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prunekit.arch.view import Embedder, ModelView, answers_by_span
from prunekit.errors import UnsupportedError
from prunekit.stats.blocks import Tap, batch_first, taps
from prunekit.tasks import ENDS

_OUTPUT: Tap = ("out", "")
#: Meaning of the logits of a model: one class of several, several independent labels, values, or a vector that represents the
#: text.
Outputs = Literal["classes", "labels", "values", "vectors"]
#: The logit of padding, where an answer is a position.
NOWHERE = -1e4


def outputs_of(view: ModelView) -> Outputs:
    """Return the meaning of a model's logits, by its config."""
    if answers_by_span(view.model):
        return "classes"
    if isinstance(view.model, Embedder):
        return "vectors"
    if view.many_labels:
        return "labels"
    return "values" if getattr(view.config, "problem_type", None) == "regression" or int(view.config.num_labels) == 1 else "classes"


@dataclass(frozen=True, eq=False)
class Answer:
    """Outputs of a model for one batch.

    Attributes
    ----------
    logits : Tensor
        (k, outputs): one row for each position that is read, or the vector of each text. Of an answer to a question (2 batch, length):
        where it starts in each row, then where it ends, with `NOWHERE` at padding and at positions that are not read.
    states : tuple of Tensor
        Output of each block, (batch, length, H); empty where they were not requested, or are no longer kept.
    """

    logits: Tensor
    states: tuple[Tensor, ...] = ()


def answer(
    view: ModelView, inputs: Mapping[str, Tensor], first: Tensor | None, *, states: bool, through: Callable[..., Any] | None = None
) -> Answer:
    """Run a model once.

    Parameters
    ----------
    view : ModelView
    inputs : mapping
        (batch, length) tensors by name.
    first : Tensor or None
        (k, 2), positions (row, column) that are read of a token task, or at which an answer may start or end; None: one for each row, or
        all real tokens where the model answers for tokens.
    states : bool
        Whether to collect the output of every block.
    through : callable, optional
        Called in the place of `view.model`, which it wraps.
    """
    with ExitStack() as stack:
        wanted = list(view.blocks)[: view.num_layers] if states else []
        recorded = [stack.enter_context(taps(block, [_OUTPUT])) for block in wanted]
        output = (through or view.model)(**{name: inputs[name] for name in view.inputs if name in inputs}, return_dict=True)
    mask = inputs["attention_mask"].bool()
    if answers_by_span(view.model) and first is not None:
        mask = torch.zeros_like(mask).index_put((first[:, 0], first[:, 1]), torch.tensor(True, device=mask.device))
        first = None
    logits = _logits(view, output, mask)
    if first is not None:
        logits = logits[first[:, 0], first[:, 1]]
    elif logits.ndim == 3:
        logits = logits[inputs["attention_mask"].bool()]
    # A block with shared weights is run once for each layer.
    return Answer(logits.float(), tuple(batch_first(view, state) for tensors in recorded for state in tensors[_OUTPUT]))


def _logits(view: ModelView, output: Any, mask: Tensor) -> Tensor:
    logits: Tensor | None = getattr(output, "sentence_embedding" if isinstance(view.model, Embedder) else "logits", None)
    if logits is not None:
        return logits
    ends: list[Tensor | None] = [getattr(output, name, None) for name in ENDS]
    masked = [end.float().masked_fill(~mask, NOWHERE) for end in ends if end is not None]
    if len(masked) < len(ends):
        raise UnsupportedError(
            f"{type(view.model).__name__} gives no logits, nor those of a start and an end: there is nothing to learn from."
        )
    return torch.cat(masked)


class Teacher:
    """A model that is run on the same batches repeatedly, with a cache of its outputs.

    At most `limit` bytes of answers are cached: logits in single precision, hidden states in half. Where both do not fit, hidden
    states are dropped first, those of the latest batches before others: such a batch has states in its first answer alone. Logits that
    still do not fit are recomputed by the same pass at every request.

    Parameters
    ----------
    view : ModelView
        In evaluation mode; not changed.
    limit : int
        Bytes.
    precision : torch.dtype or None
        Of autocast; None: none.

    Attributes
    ----------
    held : int
        Bytes that are cached now, at most `limit`; of batches whose rows several processes have, those of all of them together, so that
        all forget the same.
    """

    def __init__(self, view: ModelView, *, limit: int, precision: torch.dtype | None) -> None:
        self.view, self._limit, self._precision = view, limit, precision
        self.held = 0
        self._known: dict[int, Answer] = {}
        self._with_states: list[tuple[int, int]] = []

    def __call__(self, number: int, inputs: Mapping[str, Tensor], first: Tensor | None, *, states: bool = True) -> Answer:
        """Return the answer for batch `number`, and remember it; `states` as in `answer`."""
        known = self.look(number, inputs, first, states=states)
        self.remember(number, known)
        return known

    def look(self, number: int, inputs: Mapping[str, Tensor], first: Tensor | None, *, states: bool = True) -> Answer:
        """Return the answer for batch `number`, or for the rows of it that are this process's."""
        known = self._known.get(number)
        if known is None:
            device = inputs["input_ids"].device.type
            with torch.no_grad(), torch.autocast(device, dtype=self._precision, enabled=self._precision is not None):
                known = answer(self.view, inputs, first, states=states)
            # bfloat16 has the range of single precision: some families have states of many thousands.
            known = Answer(known.logits, tuple(state.to(torch.bfloat16) for state in known.states))
        return known

    def remember(self, number: int, known: Answer, of: tuple[int, int] | None = None) -> None:
        """Cache an answer as far as the limit allows.

        `of` has the bytes of the logits and states of the whole batch, if the answer is for some of its rows.
        """
        if number in self._known:
            return
        logits, states = of or (_size((known.logits,)), _size(known.states))
        while self.held + logits > self._limit and self._with_states:
            latest, freed = self._with_states.pop()
            self.held -= freed
            self._known[latest] = Answer(self._known[latest].logits)
        if self.held + logits > self._limit:
            return
        fits = bool(states) and self.held + logits + states <= self._limit
        self._known[number] = known if fits else Answer(known.logits)
        self.held += logits + (states if fits else 0)
        if fits:
            self._with_states.append((number, states))


def _size(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
