"""The readouts that every report shows beside the chosen one, of the same size."""

from __future__ import annotations

import numpy as np

from prunekit.analyzers.baseline import magnitude_neurons, random_neurons
from prunekit.select.choice import Ids, ReadoutChoice
from prunekit.stats.collected import Collected


def baseline_neurons(choice: ReadoutChoice, train: Collected, *, seed: int) -> dict[str, Ids]:
    """Random neurons and neurons of large oracle weight, as many as were chosen, of all layers that vary."""
    width = choice.oracle_coef.shape[1]
    available = np.flatnonzero(train.moments.alive(width))
    return {
        "random": random_neurons(available, choice.size, seed=seed),
        "magnitude": magnitude_neurons(choice.oracle_coef, available, choice.size),
    }
