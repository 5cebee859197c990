"""One streaming pass of the model over a split: the pooled neurons of every row, and their moments with the labels.

The only module that runs a forward pass for analysis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunekit.arch.view import ModelView, last_positions
from prunekit.data.batches import Batch, Encoded
from prunekit.errors import DataError, ParameterError
from prunekit.stats.moments import Moments, MomentsAccumulator, one_hot
from prunekit.stats.rows import LIMIT, RowStore

Pooling = Literal["cls", "mean", "last", "token"]
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

_POOLINGS = ("cls", "mean", "last", "token")


@dataclass(frozen=True, eq=False)
class Collected:
    """What the analyzers read of one split.

    Attributes
    ----------
    rows : RowStore
        (n, D) float32 neurons, D = (L + 1) * H, in the split's own order. The caller closes it.
    labels : (n,) int64 class ids, or float64 targets
    moments : Moments
        Over [neurons | one-hot labels], or [neurons | target].
    pooling : {"cls", "mean", "last", "token"}
    """

    rows: RowStore
    labels: NDArray[Any]
    moments: Moments
    pooling: Pooling

    @classmethod
    def of(cls, rows: RowStore, labels: NDArray[Any], outputs: int, *, pooling: Pooling = "mean") -> Collected:
        """From rows that are there already; raises StatisticsError for NaN, DataError for labels that do not fit.

        The moments are taken from the store in its own order, so that they do not depend on how rows were batched.
        """
        checked = _check_labels(labels, len(rows), outputs)
        accumulator = MomentsAccumulator(rows.width + outputs)
        for start, chunk in rows.chunks():
            accumulator.update(np.hstack([chunk, one_hot(checked[start : start + len(chunk)], outputs)]))
        return cls(rows, checked, accumulator.finish(), pooling)


def collect(
    view: ModelView,
    encoded: Encoded,
    *,
    pooling: Pooling,
    outputs: int,
    labels: NDArray[Any] | None = None,
    directory: str | Path | None = None,
    limit: int = LIMIT,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
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
    directory : path, optional
        Where the rows go when they exceed `limit` bytes.
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
    _check_labels(targets, total, outputs)
    rows = RowStore(total, (view.num_layers + 1) * view.hidden_size, directory=directory, limit=limit)
    training = view.model.training
    view.model.eval()
    try:
        done = 0
        with torch.inference_mode():
            for batch in encoded.batches():
                rows.put(batch.targets, _pooled(view, batch, pooling, torch.device(device)))
                done += len(batch.targets)
                if progress is not None:
                    progress(done, total)
        return Collected.of(rows, targets, outputs, pooling=pooling)
    except BaseException:
        rows.close()
        raise
    finally:
        view.model.train(training)


def pool(view: ModelView, states: tuple[Tensor, ...], attention_mask: Tensor, pooling: Pooling, first: Tensor | None = None) -> Tensor:
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


def _pooled(view: ModelView, batch: Batch, pooling: Pooling, device: torch.device) -> NDArray[np.float32]:
    tensors = {name: torch.from_numpy(array).to(device) for name, array in batch.inputs.items()}
    first = None if batch.first is None else torch.from_numpy(batch.first).to(device)
    states = view.hidden_states(tensors)
    return np.asarray(pool(view, states, tensors["attention_mask"], pooling, first).cpu().numpy())


def _check_labels(labels: NDArray[Any], rows: int, outputs: int) -> NDArray[Any]:
    values = np.asarray(labels)
    if values.shape != (rows,):
        raise DataError(f"There must be one label a row, {rows} in all. Got shape {values.shape} instead.")
    if outputs == 1:
        return values.astype(np.float64)
    if rows and (not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= outputs):
        raise DataError(f"Labels must be class ids 0..{outputs - 1}. Got values from {values.min()} to {values.max()} instead.")
    return values.astype(np.int64)
