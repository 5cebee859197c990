"""One streaming pass of the model over a split: the pooled neurons of every row, and their moments with the labels.

The only module that runs a forward pass for analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor

from prunekit.arch.view import ModelView, last_positions
from prunekit.data.batches import Batch, Encoded
from prunekit.data.parallel import spread
from prunekit.errors import DataError, ParameterError, StatisticsError
from prunekit.stats.collected import Collected, Pooling, check_labels
from prunekit.stats.rows import LIMIT, Ids, Rows, RowStore
from prunekit.stats.sample import Sample, lowest

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

Ints = NDArray[np.int64]

_POOLINGS = ("cls", "mean", "last", "token")


def collect(
    view: ModelView,
    encoded: Encoded,
    *,
    pooling: Pooling,
    outputs: int,
    labels: Shaped[NDArray[Any], "n ..."] | None = None,
    part: Sequence[Int64[Ints, " _"]] | None = None,
    directory: str | Path | None = None,
    limit: int = LIMIT,
    moments: bool = True,
    tokens: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Collected:
    """Run the body once over a split and keep what the classifier could read.

    Parameters
    ----------
    view : ModelView
        The model; it is put in evaluation mode and left as it was.
    encoded : Encoded
        The split, batched by length.
    pooling : {"cls", "mean", "last", "token"}
        How a row becomes one vector: its [CLS] token, the mean or the last of its tokens; "token": one vector for each
        word, read at its first sub-word.
    outputs : int
        Number of classes, or 1 for a regression.
    labels : (n,), optional
        In the split's order; by default those of `encoded`.
    part : sequence of ndarray, optional
        The batches that are read, each by its rows, as `Encoded.part` gives them; by default all. The result then has the rows of
        these, in the split's order.
    directory : path, optional
        Directory of the rows when they exceed `limit` bytes.
    moments : bool
        Whether the moments are computed now, or when they are first read.
    tokens : int
        Size of the sample of single tokens that is taken in the same pass; 0 for none.
    seed : int
        Of that sample.
    progress : callable, optional
        Called with (done, total) after every batch.

    Returns
    -------
    Collected

    Raises
    ------
    StatisticsError
        A neuron is NaN or infinite somewhere.
    DataError
        Labels that do not fit the rows or the number of classes; no rows.
    """
    if pooling not in _POOLINGS:
        raise ParameterError("pooling", "collect", f"one of {', '.join(_POOLINGS)}", pooling)
    if (pooling == "token") != (encoded.words is not None):
        raise ParameterError("pooling", "collect", "'token' for a token task, and only there", pooling)
    targets = encoded.labels if labels is None else labels
    total = len(encoded.labels)
    if not total:
        raise DataError("The split has no rows.")
    check_labels(targets, total, outputs)
    batches: Iterator[Batch] = encoded.batches() if part is None else map(encoded.batch, part)
    chosen = None if part is None else part_ids(encoded, part)
    if chosen is not None:
        total, targets = len(chosen), targets[chosen]
    rows = RowStore(total, (view.num_layers + 1) * view.hidden_size, directory=directory, limit=limit)
    assert part is None or not tokens, "single tokens are drawn from all rows"
    token_sample = _Tokens(encoded, tokens, rows.width, seed) if tokens else None
    training = view.model.training
    view.model.eval()
    try:
        done = 0
        drawn = None if token_sample is None else token_sample.drawn
        for read in spread(_Reading(view, pooling, drawn), batches):
            rows.put(read.targets if chosen is None else np.searchsorted(chosen, read.targets), read.pooled)
            if token_sample is not None:
                token_sample.put(*read.tokens)
            done += len(read.targets)
            if progress is not None:
                progress(done, total)
        sample = None if token_sample is None else token_sample.finish()
        return Collected.of(rows, targets, outputs, pooling=pooling, tokens=sample, moments=moments)
    except BaseException:
        rows.close()
        raise
    finally:
        view.model.train(training)


def part_ids(encoded: Encoded, part: Sequence[Int64[Ints, " _"]]) -> Ids:
    """Return the indices into the split's labels of what is read of these rows, ascending."""
    return np.sort(encoded.targets(np.concatenate(part))) if part else np.empty(0, dtype=np.int64)


def pool(
    view: ModelView,
    states: tuple[Float[Tensor, "b t h"], ...],
    attention_mask: Shaped[Tensor, "b t"],
    pooling: Pooling,
    first: Int64[Tensor, "k 2"] | None = None,
) -> Float32[Tensor, "_ d"]:
    """Pool hidden states, each (b, T, H), to (k, (L + 1) * H): layer after layer, so that a flat id is layer * H + dimension."""
    if pooling == "token":
        assert first is not None
        return torch.cat([state[first[:, 0], first[:, 1]] for state in states], dim=1).float()
    if pooling == "mean":
        weights = attention_mask.to(states[0].dtype).unsqueeze(1)
        weights = weights / weights.sum(dim=2, keepdim=True)
        return torch.cat([torch.bmm(weights, state).squeeze(1) for state in states], dim=1).float()
    positions = view.cls_positions(attention_mask) if pooling == "cls" else last_positions(attention_mask)
    index = torch.arange(len(attention_mask), device=attention_mask.device)
    return torch.cat([state[index, positions] for state in states], dim=1).float()


class _Drawn(NamedTuple):
    """The tokens of a sample, ascending, among all real tokens of a split, whose rows begin at `offsets`."""

    tokens: Ids
    offsets: Int64[Ints, " rows"]

    def take(self, batch: Batch, states: tuple[Float[Tensor, "b t h"], ...]) -> tuple[Ids, Rows]:
        """Return which of them are in a batch, (k,), and their vectors, (k, D)."""
        # Real tokens of a batch, row by row, are those of the unpadded rows, whichever side is padded.
        places = np.argwhere(batch.attention_mask)
        starts = self.offsets[batch.rows] - np.concatenate([[0], np.cumsum(batch.attention_mask.sum(axis=1))[:-1]])
        ids = starts[places[:, 0]] + np.arange(len(places))
        slots = np.minimum(np.searchsorted(self.tokens, ids), len(self.tokens) - 1)
        taken = self.tokens[slots] == ids
        row, position = (torch.from_numpy(column).to(states[0].device) for column in places[taken].T)
        return slots[taken], torch.cat([state[row, position] for state in states], dim=1).float().cpu().numpy()


class _Read(NamedTuple):
    """What a model says of one batch: the rows, their vectors, and the tokens of a sample with theirs."""

    targets: Int64[Ints, " n"]
    pooled: Float32[NDArray[np.float32], "n d"]
    tokens: tuple[Ids, Rows]


@dataclass(frozen=True, eq=False)
class _Reading:
    """The work on one batch."""

    view: ModelView
    pooling: Pooling
    drawn: _Drawn | None

    def __call__(self, batch: Batch) -> _Read:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            states = self.view.hidden_states(tensors)
            first = None if batch.first is None else torch.from_numpy(batch.first)
            pooled = pool(self.view, states, tensors["attention_mask"], self.pooling, first).numpy()
            none = np.empty(0, dtype=np.int64), pooled[:0]
            return _Read(batch.targets, pooled, none if self.drawn is None else self.drawn.take(batch, states))


class _Tokens:
    """A seeded sample of single tokens, drawn before the pass from all real tokens of a split (`Sample` draws the same)."""

    def __init__(self, encoded: Encoded, size: int, width: int, seed: int) -> None:
        ids = np.arange(len(encoded.ids))
        self.drawn = _Drawn(np.sort(lowest(ids, seed, size)), encoded.offsets)
        self._size, self._seed = size, seed
        self._rows = np.empty((len(self.drawn.tokens), width), dtype=np.float32)

    def put(self, slots: Ids, rows: Rows) -> None:
        """Put the tokens of one batch into their places."""
        self._rows[slots] = rows

    def finish(self) -> Sample:
        """Return the sample; raise StatisticsError for NaN or infinity."""
        if not np.isfinite(self._rows).all():
            raise StatisticsError("A token's activations hold NaN or infinity: the model or the data is broken.")
        return Sample(self._size, self._seed, self.drawn.tokens, self._rows)
