"""What a PyTorch model answers to the rows of a split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded
from prunekit.training.teacher import answer


def outputs_of_model(view: ModelView, encoded: Encoded, outputs: int) -> NDArray[np.float32]:
    """The logits (n, outputs) of a model with a head, for every row, or every word of a token task; or the vectors of an embedder."""
    found = np.empty((len(encoded.labels), outputs), dtype=np.float32)
    with torch.inference_mode():
        for batch in encoded.batches():
            first = None if batch.first is None else torch.from_numpy(batch.first)
            tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            found[batch.targets] = answer(view, tensors, first, states=False).logits.numpy()
    return found
