"""Outputs of a PyTorch model on the rows of a split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from prunekit.arch.view import ModelView, answers_by_span
from prunekit.data.batches import Batch, Encoded
from prunekit.data.parallel import spread
from prunekit.training.teacher import answer


def outputs_of_model(view: ModelView, encoded: Encoded, outputs: int) -> NDArray[np.float32]:
    """Return the logits (n, outputs) of a model with a head, for every row, or every word of a token task; or the vectors of an embedder.

    Of a model that answers questions, whose rows are windows, (m, 2): those of start and end at every place that is read.
    """
    result = np.empty((len(encoded.labels), outputs), dtype=np.float32)
    for targets, logits in spread(_AnsweringModel(view), encoded.batches()):
        result[targets] = logits
    return result


@dataclass(frozen=True, eq=False)
class _AnsweringModel:
    """The work on one batch."""

    view: ModelView

    def __call__(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        first = None if batch.first is None else torch.from_numpy(batch.first)
        tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
        with torch.inference_mode():
            logits = answer(self.view, tensors, first, states=False).logits
            if answers_by_span(self.view.model) and first is not None:
                logits = torch.stack(logits.chunk(2), dim=-1)[first[:, 0], first[:, 1]]
        return batch.targets, logits.numpy()
