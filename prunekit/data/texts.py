"""Texts alone, for uses that need no labels."""

from __future__ import annotations

import numpy as np

from prunekit.data.columns import text_column
from prunekit.data.files import read_source
from prunekit.data.rows import Rows
from prunekit.errors import DataError


def load_texts(source: object, most: int, *, seed: int = 0) -> Rows:
    """Draw texts from a source; columns of labels are not read.

    Parameters
    ----------
    source : str, Path or data in memory
        As `prunekit.data.load.load_data` reads it. Of several splits train is taken.
    most : int
        Most rows to draw, in random order.
    seed : int
        Seed of the draw.

    Returns
    -------
    Rows
        The texts, all with the class id 0; lists of words are joined by spaces.

    Raises
    ------
    DataError
        No source, no column of text, or no text in it.
    """
    loaded = read_source(source, config=None, trust_remote_code=False)
    data = loaded.splits["train"]
    drawn = data.select(np.random.default_rng(seed).permutation(len(data))[:most].tolist())
    values = drawn.with_format(None)[text_column(data)]
    texts = tuple(" ".join(value) if isinstance(value, list) else str(value or "") for value in values)
    texts = tuple(text for text in texts if text.strip())
    if not texts:
        raise DataError(f"There is no text in {loaded.name}.")
    return Rows(labels=np.zeros(len(texts), dtype=np.int64), texts=texts)
