"""Outputs of a PyTorch model on the rows of a split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prunekit.arch.view import ModelView, answers_by_span
from prunekit.data.batches import Encoded
from prunekit.training.teacher import answer


def outputs_of_model(view: ModelView, encoded: Encoded, outputs: int) -> NDArray[np.float32]:
    """Return the logits (n, outputs) of a model with a head, for every row, or every word of a token task; or the vectors of an embedder.

    Of a model that answers questions, whose rows are windows, (m, 2): those of start and end at every place that is read.
    """
    result = np.empty((len(encoded.labels), outputs), dtype=np.float32)
    with torch.inference_mode():
        for batch in encoded.batches():
            first = None if batch.first is None else torch.from_numpy(batch.first)
            tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            logits = answer(view, tensors, first, states=False).logits
            if answers_by_span(view.model) and first is not None:
                logits = torch.stack(logits.chunk(2), dim=-1)[first[:, 0], first[:, 1]]
            result[batch.targets] = logits.numpy()
    return result
