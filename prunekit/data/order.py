"""Whether a fine-tuned model's classes stand in the order that the data's labels were read in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import DataError

#: Rows that a model answers for the check; beyond that, more would tell nothing new.
CHECKED = 512
#: By how much another order must score higher, and how unlikely that must be by chance.
_GAIN = 0.05
_CHANCE = 1e-3
_SHOWN = 6


def check_order(
    outputs: NDArray[Any], labels: NDArray[np.int64], names: Sequence[str], *, starts: NDArray[np.int64] | None = None, seed: int = 0
) -> str:
    """Refuse labels that fit the model's outputs far better once its classes are renumbered.

    The best other order is that which the Hungarian method finds on the confusion matrix of half of the rows. It is believed
    where, on the other half, it is right in at least 5 points more of the answers, more often row by row (one-sided sign test,
    p < 0.001), and more often than answers of the same frequencies would be by chance (as in Cohen's kappa; p < 0.001): a model
    that always answers one class has no order to speak of.

    Parameters
    ----------
    outputs : ndarray of shape (n, C), float
        The model's logits.
    labels : int64 ndarray of shape (n,)
        Class ids, as they were read.
    names : sequence of C str
        The model's classes, for the error.
    starts : int64 ndarray of shape (rows + 1,), optional
        Where each row begins, if a row has several answers (words); default: one answer a row.
    seed : int
        Of the halves.

    Returns
    -------
    str
        What the check says, for the report.

    Raises
    ------
    DataError
        The labels are in another order than the model's outputs.
    """
    predicted = np.asarray(outputs).argmax(axis=1)
    sizes = np.ones(len(labels), dtype=np.int64) if starts is None else np.diff(starts)
    rows = len(sizes)
    right = float((predicted == labels).mean())
    if rows < 2 * np.ceil(-np.log2(_CHANCE)):
        return f"labels: {rows} rows are too few to check that they are in the model's order of the classes ({', '.join(names[:_SHOWN])})"
    drawn = np.random.default_rng(seed).permutation(rows) < rows // 2
    half = np.repeat(drawn, sizes)
    order = _best(predicted[half], labels[half], len(names))
    held = ~half
    shared = np.repeat(np.arange(rows), sizes)[held]
    if (order != np.arange(len(names))).any() and _believed(predicted[held], labels[held], order, shared):
        other = float((predicted[held] == order[labels[held]]).mean())
        moved = [at for at in np.unique(labels) if order[at] != at]
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        swaps = ", ".join(f"{names[at]!r} where the model says {names[order[at]]!r}" for at in moved[:_SHOWN])
        raise DataError(
            f"The labels are not in the order of the model's classes: it is right in {right:.1%} of {rows} rows, and in {other:.1%} with "
            f"its classes renumbered (the data has {swaps}{more}). Give labels by the names in the model's config.json (id2label), or mend "
            "these names."
        )
    return f"labels: checked on {rows} rows, the model is right in {right:.1%}, and no other order of its classes fits them better"


def _best(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """For each class of the labels, the output that stands for it in the order that is right most often."""
    from scipy.optimize import linear_sum_assignment

    table = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes).astype(np.float64)
    # Of equally good orders the one that leaves most classes where they are.
    table[np.diag_indices(classes)] += 0.5 / classes
    return np.asarray(linear_sum_assignment(table, maximize=True)[1], dtype=np.int64)


def _believed(predicted: NDArray[np.int64], labels: NDArray[np.int64], order: NDArray[np.int64], rows: NDArray[np.int64]) -> bool:
    from scipy.stats import binomtest

    mine, others = predicted == labels, predicted == order[labels]
    if others.mean() < mine.mean() + _GAIN:
        return False
    gained = np.bincount(rows, weights=others.astype(np.float64) - mine)
    better, worse = int((gained > 0).sum()), int((gained < 0).sum())
    classes = len(order)
    frequency = np.bincount(order[labels], minlength=classes) @ np.bincount(predicted, minlength=classes) / len(labels) ** 2
    return bool(
        binomtest(better, better + worse, 0.5, alternative="greater").pvalue < _CHANCE
        and binomtest(int(others.sum()), len(others), min(float(frequency), 1.0), alternative="greater").pvalue < _CHANCE
    )
