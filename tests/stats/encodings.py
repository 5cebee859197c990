"""Random rows for tiny models, encoded."""

from __future__ import annotations

import numpy as np

from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, _Padding
from tests.models import LENGTH, VOCABULARY


def encoded_of(view: ModelView, *, rows: int, seed: int, classes: int = 3) -> Encoded:
    """Rows of 3 to 9 tokens with class ids; padded on the left where the family reads the last token."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, LENGTH + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(4, VOCABULARY, offsets[-1]).astype(np.int32)
    kinds = np.zeros(len(ids), dtype=np.int8)
    padding = _Padding(token=1, kind=0, left=view.spec.name == "xlnet")
    return Encoded(ids, kinds, offsets, generator.integers(0, classes, rows), 0, 0, padding)
