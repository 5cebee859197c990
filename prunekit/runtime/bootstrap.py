"""Confidence intervals of medians of paired times.

Successive rounds share the other load of the machine, and all rounds of an invocation (one load of the candidates) share the
placement of the models in memory. So rounds are drawn in blocks, and invocations are drawn before the rounds within them: T. Kalibera
and R. Jones, "Rigorous benchmarking in reasonable time" (2013), section 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError

RESAMPLES = 1000
LEVEL = 0.95
_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB


def block_length(count: int) -> int:
    """Return the length of a block of `count` rounds: their cube root, rounded up.

    This rate is optimal for a variance: P. Hall, J. L. Horowitz and B.-Y. Jing, "On blocking rules for the bootstrap
    with dependent data", Biometrika 82 (1995), section 3.
    """
    return int(np.ceil(round(count ** (1 / 3), 9)))


def resampled_medians(
    values: NDArray[np.float64], generator: np.random.Generator, *, resamples: int = RESAMPLES, block: int = 1
) -> NDArray[np.float64]:
    """Return the medians of resamples of one invocation, by the circular block bootstrap.

    Parameters
    ----------
    values : ndarray of shape (n,), float64
        In the order of the rounds.
    generator : numpy Generator
    resamples : int
    block : int
        Rounds that are drawn together; 1 treats the rounds as independent.

    Returns
    -------
    ndarray of shape (resamples,), float64

    Raises
    ------
    StatisticsError
        No values, or values that are not finite.
    """
    if not len(values) or not np.isfinite(values).all():
        raise StatisticsError(
            f"A median needs finite values. Got {len(values)}, of which {np.count_nonzero(~np.isfinite(values))} are not finite."
        )
    count = len(values)
    blocks = -(-count // block)
    at_once = max(1, _CELLS // (blocks * block))
    medians = []
    for start in range(0, resamples, at_once):
        starts = generator.integers(count, size=(min(at_once, resamples - start), blocks, 1))
        drawn = (starts + np.arange(block)).reshape(len(starts), -1)[:, :count] % count
        medians.append(np.median(values[drawn], axis=1))
    return np.concatenate(medians)


def bootstrap_invocations(
    invocations: Sequence[NDArray[np.float64]], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Return the median of the invocations' medians, and its percentile interval; both are robust to one disturbed invocation.

    Parameters
    ----------
    invocations : sequence of ndarray of shape (n_s,), float64
        The rounds of each invocation in their order.
    seed : int
        Of the resamples: the same values and seed give the same interval.
    resamples : int

    Returns
    -------
    (float, float, float)
        Value, low and high; the value lies between the others.

    Raises
    ------
    StatisticsError
        An invocation without values, or values that are not finite.
    """
    generator = np.random.default_rng(seed)
    medians = np.stack(
        [resampled_medians(rounds, generator, resamples=resamples, block=block_length(len(rounds))) for rounds in invocations]
    )
    size = (len(invocations), resamples)
    drawn = medians[generator.integers(len(invocations), size=size), generator.integers(resamples, size=size)]
    value = float(np.median([np.median(rounds) for rounds in invocations]))
    low, high = np.quantile(np.median(drawn, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value, min(float(low), value), max(float(high), value)
