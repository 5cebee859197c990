"""Control tasks (Hewitt and Liang 2019): memorisation by a probe, and its selectivity."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.stats.collected import Labels


def control_labels(labels: Labels, *types: Int64[NDArray[np.int64], " _"], seed: int = 0) -> tuple[Shaped[NDArray[Any], "_ ..."], ...]:
    """Draw the labels of a control task: one label for each type, the same wherever the type occurs.

    Labels are drawn from the distribution of the true ones, so that the control task is as unbalanced as the task; a type
    of a held-out split that train does not have gets one too, which no probe can predict.

    Parameters
    ----------
    labels : (n,) int64 class ids, or float64 targets
        True labels of train.
    *types : (n,), (m,), ... int64
        Type of each row (the word of a token task, else the row itself), train first.
    seed : int

    Returns
    -------
    tuple of (n,), (m,), ...
        Like `labels`, one for each split.

    Raises
    ------
    StatisticsError
        No rows, or a number of types other than that of the labels.
    """
    if not len(labels) or not types or len(types[0]) != len(labels):
        raise StatisticsError(f"A control task needs one type for each of {len(labels)} training rows, and at least one row.")
    count = 1 + max(int(ids.max(initial=-1)) for ids in types)
    drawn = np.random.default_rng(seed).choice(labels, size=count)
    return tuple(drawn[ids] for ids in types)
