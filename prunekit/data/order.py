"""Check that a fine-tuned model's classes are in the order in which the data's labels were read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import DataError

#: Most rows of the check; further rows would add no information.
CHECKED = 512
#: Least gain in accuracy of another order, and the significance level of the tests.
_GAIN = 0.05
_CHANCE = 1e-3
_SHOWN = 6


def check_order(
    outputs: NDArray[Any], labels: NDArray[np.int64], names: Sequence[str], *, starts: NDArray[np.int64] | None = None, seed: int = 0
) -> str:
    """Refuse labels that fit the model's outputs far better once its classes are renumbered.

    The best other order is the one that the Hungarian method gives for the confusion matrix of half of the rows. It is accepted
    where, on the other half, it is right in at least 5 points more of the answers, more often row by row (one-sided sign test,
    p < 0.001), and more often than answers of the same frequencies would be by chance (as in Cohen's kappa; p < 0.001): a model
    that always answers one class gives no evidence of an order.

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
        Result of the check, for the report.

    Raises
    ------
    DataError
        The labels are in another order than the model's outputs.
    """
    predicted = np.asarray(outputs).argmax(axis=1)
    sizes = np.ones(len(labels), dtype=np.int64) if starts is None else np.diff(starts)
    rows = len(sizes)
    accuracy = float((predicted == labels).mean())
    if rows < 2 * np.ceil(-np.log2(_CHANCE)):
        return f"labels: {rows} rows are too few to check that they are in the model's order of the classes ({', '.join(names[:_SHOWN])})"
    drawn = np.random.default_rng(seed).permutation(rows) < rows // 2
    half = np.repeat(drawn, sizes)
    order = _best_order(predicted[half], labels[half], len(names))
    held = ~half
    owner = np.repeat(np.arange(rows), sizes)[held]
    if (order != np.arange(len(names))).any() and _is_better(predicted[held], labels[held], order, owner):
        best = float((predicted[held] == order[labels[held]]).mean())
        moved = [at for at in np.unique(labels) if order[at] != at]
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        swaps = ", ".join(f"{names[at]!r} where the model says {names[order[at]]!r}" for at in moved[:_SHOWN])
        raise DataError(
            f"The labels are not in the order of the model's classes: it is right in {accuracy:.1%} of {rows} rows, and in {best:.1%} with "
            f"its classes renumbered (the data has {swaps}{more}). Give labels by the names in the model's config.json (id2label), or mend "
            "these names."
        )
    return f"labels: checked on {rows} rows, the model is right in {accuracy:.1%}, and no other order of its classes fits them better"


def _best_order(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return, for each class of the labels, its output in the order with the highest accuracy."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes).astype(np.float64)
    # Of equally good orders, prefer the one that moves the fewest classes.
    confusion[np.diag_indices(classes)] += 0.5 / classes
    return np.asarray(linear_sum_assignment(confusion, maximize=True)[1], dtype=np.int64)


def _is_better(predicted: NDArray[np.int64], labels: NDArray[np.int64], order: NDArray[np.int64], rows: NDArray[np.int64]) -> bool:
    from scipy.stats import binomtest

    as_read, renumbered = predicted == labels, predicted == order[labels]
    if renumbered.mean() < as_read.mean() + _GAIN:
        return False
    gained = np.bincount(rows, weights=renumbered.astype(np.float64) - as_read)
    better, worse = int((gained > 0).sum()), int((gained < 0).sum())
    classes = len(order)
    frequency = np.bincount(order[labels], minlength=classes) @ np.bincount(predicted, minlength=classes) / len(labels) ** 2
    return bool(
        binomtest(better, better + worse, 0.5, alternative="greater").pvalue < _CHANCE
        and binomtest(int(renumbered.sum()), len(renumbered), min(float(frequency), 1.0), alternative="greater").pvalue < _CHANCE
    )
