"""What a task is: its kind, its label space, its metric, and the level at which it is read. Pure data and numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from prunekit.entities import count_entities, entity_f1, scheme_of
from prunekit.errors import ParameterError, StatisticsError

RESAMPLES = 1000
_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB


class TaskKind(StrEnum):
    """The kinds of task, by their usual names."""

    CLASSIFICATION = "text-classification"
    REGRESSION = "regression"
    TOKENS = "token-classification"


class Metric(StrEnum):
    """Metrics, higher is better."""

    ACCURACY = "accuracy"
    F1 = "f1"  # macro-averaged
    MATTHEWS = "matthews"
    PEARSON = "pearson"
    SPEARMAN = "spearman"
    ENTITY_F1 = "entity-f1"  # micro-averaged over entities, see `prunekit.entities`


_ALLOWED = {
    TaskKind.CLASSIFICATION: (Metric.ACCURACY, Metric.F1, Metric.MATTHEWS),
    TaskKind.TOKENS: (Metric.ACCURACY, Metric.F1, Metric.MATTHEWS, Metric.ENTITY_F1),
    TaskKind.REGRESSION: (Metric.PEARSON, Metric.SPEARMAN),
}


@dataclass(frozen=True)
class Task:
    """A task and its label space.

    Attributes
    ----------
    kind : TaskKind
    metric : Metric
        Accuracy, macro F1 or Matthews for classes; Pearson or Spearman for values; entity F1 for words whose labels are BIO, BILOU
        or IOBES tags. Anything else is a ParameterError.
    labels : tuple of str
        Class names, in the order of the class ids; empty for a regression.
    """

    kind: TaskKind
    metric: Metric
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        allowed = _ALLOWED[self.kind]
        if self.metric not in allowed:
            names = ", ".join(metric.value for metric in allowed)
            raise ParameterError("metric", f"a {self.kind.value} task", f"one of {names}", str(self.metric))
        if self.metric is Metric.ENTITY_F1 and self.labels and scheme_of(self.labels) is None:
            must = "another where the labels are not BIO, BILOU or IOBES tags"
            raise ParameterError("metric", f"a {self.kind.value} task", must, str(self.metric))

    @property
    def outputs(self) -> int:
        """Width of the classifier: classes, or 1 for a regression."""
        return len(self.labels) if self.labels else 1

    @property
    def per_token(self) -> bool:
        """Whether the classifier reads each (first sub-word) token rather than one pooled row."""
        return self.kind is TaskKind.TOKENS

    @property
    def by_word(self) -> Task:
        """The task as far as words are looked at one by one: accuracy takes the place of entity F1."""
        return replace(self, metric=Metric.ACCURACY) if self.metric is Metric.ENTITY_F1 else self

    def score(self, outputs: NDArray[np.floating], labels: NDArray[np.generic], starts: NDArray[np.int64] | None = None) -> float:
        """Score outputs against labels with the task's metric.

        A row of outputs that are all minus infinity is no answer (a word past the end of what the model reads): it counts as
        wrong, as an answer of the class after the right one, and for entity F1 as a word outside of all entities.
        A prediction that does not vary has a Matthews, Pearson and Spearman correlation of 0 by definition; so has a label.
        Macro F1 is the mean over the classes that occur in the labels or in the predictions.

        Parameters
        ----------
        outputs : ndarray of shape (n, C), floating
            Logits, one column a class; (n, 1) values for a regression. The largest logit is the prediction, the first of equals.
        labels : ndarray of shape (n,), int64 or float64
            Class ids, or values.
        starts : int64 ndarray of shape (rows + 1,), optional
            For entity F1, where each row of words begins among the n.

        Returns
        -------
        float
            At most 1, higher is better.

        Raises
        ------
        StatisticsError
            No rows, shapes that do not fit the task, or NaN.
        """
        predicted, actual = self._checked(outputs, labels)
        if self.metric is Metric.ENTITY_F1:
            return float(entity_f1(self._entities(predicted, actual, starts).sum(axis=0)))
        if self.kind is TaskKind.REGRESSION:
            if self.metric is Metric.SPEARMAN:
                predicted, actual = _ranks(predicted[None])[0], _ranks(actual[None])[0]
            return float(_pearson(predicted[None], actual[None])[0])
        return float(_of_confusion(self.metric, _confusion(predicted, actual, self.outputs)[None])[0])

    def interval(
        self,
        outputs: NDArray[np.floating],
        labels: NDArray[np.generic],
        *,
        level: float = 0.95,
        seed: int = 0,
        starts: NDArray[np.int64] | None = None,
    ) -> tuple[float, float]:
        """Confidence interval of `score`, over the draw of the rows (for token tasks: of the tokens, taken as independent).

        Wilson's score interval for accuracy; the percentile bootstrap over 1,000 seeded resamples of the rows otherwise. For
        entity F1 the rows are the sentences, whose words stay together.

        Parameters
        ----------
        outputs, labels, starts
            As in `score`.
        level : float
            Coverage, in (0, 1).
        seed : int
            Seed of the resamples.

        Returns
        -------
        (float, float)
            The lower and the upper bound.

        Raises
        ------
        ParameterError
            A level outside (0, 1).
        StatisticsError
            As in `score`.
        """
        if not 0 < level < 1:
            raise ParameterError("level", "Task.interval", "in (0, 1)", level)
        predicted, actual = self._checked(outputs, labels)
        if self.metric is Metric.ACCURACY:
            from scipy.stats import binomtest

            found = binomtest(int(np.count_nonzero(predicted == actual)), len(actual)).proportion_ci(level, method="wilson")
            return float(found.low), float(found.high)
        generator = np.random.default_rng(seed)
        if self.metric is Metric.ENTITY_F1:
            scores = np.concatenate(list(_redrawn(self._entities(predicted, actual, starts), generator)))
        elif self.kind is TaskKind.REGRESSION:
            scores = np.concatenate(list(self._resampled(predicted, actual, generator)))
        else:
            # Resampling rows is drawing a multinomial over the cells of the confusion matrix, whatever the number of rows.
            cells = _confusion(predicted, actual, self.outputs)
            drawn = generator.multinomial(len(actual), cells.ravel() / len(actual), size=RESAMPLES)
            scores = _of_confusion(self.metric, drawn.reshape(RESAMPLES, *cells.shape))
        low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _resampled(
        self, predicted: NDArray[np.float64], actual: NDArray[np.float64], generator: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        n = len(actual)
        step = max(1, _CELLS // n)
        for start in range(0, RESAMPLES, step):
            rows = generator.integers(0, n, size=(min(step, RESAMPLES - start), n))
            x, y = predicted[rows], actual[rows]
            if self.metric is Metric.SPEARMAN:
                x, y = _ranks(x), _ranks(y)
            yield _pearson(x, y)

    def _checked(self, outputs: NDArray[np.floating], labels: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        outputs, labels = np.asarray(outputs), np.asarray(labels)
        if labels.ndim != 1 or outputs.shape != (len(labels), self.outputs):
            raise StatisticsError(
                f"Outputs must have shape (n, {self.outputs}) and labels (n,). Got {outputs.shape} and {labels.shape} instead."
            )
        if not len(labels):
            raise StatisticsError("A score needs at least one row. Got none.")
        if np.isnan(outputs).any():
            raise StatisticsError(f"{int(np.isnan(outputs).any(axis=1).sum())} of {len(outputs)} rows of the outputs hold NaN.")
        if self.kind is TaskKind.REGRESSION:
            return outputs[:, 0].astype(np.float64), labels.astype(np.float64)
        predicted, actual = outputs.argmax(axis=1), labels.astype(np.int64)
        silent = np.isneginf(outputs).all(axis=1)
        if silent.any():
            predicted[silent] = -1 if self.metric is Metric.ENTITY_F1 else (actual[silent] + 1) % self.outputs
        return predicted.astype(np.float64), labels.astype(np.float64)

    def _entities(self, predicted: NDArray[np.float64], actual: NDArray[np.float64], starts: NDArray[np.int64] | None) -> NDArray[np.int64]:
        if starts is None or starts[-1] != len(actual):
            raise StatisticsError("Entity F1 needs to know where each row of words begins.")
        _check_ids(actual, self.outputs)
        return count_entities(predicted.astype(np.int64), actual.astype(np.int64), starts, self.labels)


def _redrawn(counts: NDArray[np.int64], generator: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Entity F1 of resampled rows of counts (rows, 3)."""
    n = len(counts)
    step = max(1, _CELLS // n)
    for start in range(0, RESAMPLES, step):
        times = generator.multinomial(n, np.full(n, 1 / n), size=min(step, RESAMPLES - start))
        yield entity_f1(times @ counts)


def _check_ids(actual: NDArray[np.float64], classes: int) -> None:
    if actual.min() < 0 or actual.max() >= classes:
        raise StatisticsError(f"Labels must be class ids in 0..{classes - 1}. Got {int(actual.min())}..{int(actual.max())} instead.")


def _confusion(predicted: NDArray[np.float64], actual: NDArray[np.float64], classes: int) -> NDArray[np.int64]:
    """Count actual by predicted, (classes, classes)."""
    _check_ids(actual, classes)
    cells = (actual * classes + predicted).astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def _of_confusion(metric: Metric, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score each of R confusion matrices, (R, C, C) -> (R,)."""
    cells = counts.astype(np.float64)
    hits = np.einsum("rcc->rc", cells)
    actual, predicted, total = cells.sum(axis=2), cells.sum(axis=1), cells.sum(axis=(1, 2))
    if metric is Metric.ACCURACY:
        return np.asarray(hits.sum(axis=1) / total)
    if metric is Metric.F1:
        occurs = actual + predicted
        f1 = np.divide(2 * hits, occurs, out=np.zeros_like(hits), where=occurs > 0)
        return np.asarray(f1.sum(axis=1) / np.count_nonzero(occurs, axis=1))
    # Gorodkin (2004): the correlation of two one-hot matrices, Matthews' coefficient for any number of classes.
    covariance = hits.sum(axis=1) * total - (actual * predicted).sum(axis=1)
    spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    found: NDArray[np.float64] = np.divide(covariance, np.sqrt(spread), out=np.zeros_like(total), where=spread > 0)
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=1), dtype=np.float64)


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation row by row, (R, n), (R, n) -> (R,); 0 where either does not vary."""
    # Decided on the values: the computed variance of a constant such as 0.1 need not be exactly 0.
    varies = (np.ptp(x, axis=1) > 0) & (np.ptp(y, axis=1) > 0)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    found = np.divide((x * y).sum(axis=1), scale, out=np.zeros(len(x)), where=varies & (scale > 0))
    return np.asarray(np.clip(found, -1.0, 1.0))
