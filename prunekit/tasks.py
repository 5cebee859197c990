"""What a task is: its kind, its label space, its metric, and the level at which it is read. Pure data and numpy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import ParameterError, StatisticsError
from prunekit.metrics import LEVEL, Interval, Judged, Metric, interval, judged

__all__ = ["Metric", "Task", "TaskKind"]


class TaskKind(StrEnum):
    """The kinds of task, by their usual names."""

    CLASSIFICATION = "text-classification"
    REGRESSION = "regression"
    TOKENS = "token-classification"


_ALLOWED = {
    TaskKind.CLASSIFICATION: (Metric.ACCURACY, Metric.F1, Metric.MATTHEWS),
    TaskKind.TOKENS: (Metric.ACCURACY, Metric.F1, Metric.MATTHEWS),
    TaskKind.REGRESSION: (Metric.PEARSON, Metric.SPEARMAN),
}


@dataclass(frozen=True)
class Task:
    """A task and its label space.

    Attributes
    ----------
    kind : TaskKind
    metric : Metric
        Accuracy, macro F1 or Matthews for classes; Pearson or Spearman for values. Anything else is a ParameterError.
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

    @property
    def outputs(self) -> int:
        """Width of the classifier: classes, or 1 for a regression."""
        return len(self.labels) if self.labels else 1

    @property
    def per_token(self) -> bool:
        """Whether the classifier reads each (first sub-word) token rather than one pooled row."""
        return self.kind is TaskKind.TOKENS

    def judged(self, outputs: NDArray[np.floating], labels: NDArray[np.generic], starts: NDArray[np.int64] | None = None) -> Judged:
        """Outputs beside the labels, ready to be scored and compared with others on the same rows.

        Parameters
        ----------
        outputs : ndarray of shape (m, C), floating
            Logits, one column a class; (m, 1) values for a regression. The largest logit is the prediction, the first of equals.
        labels : ndarray of shape (m,), int64 or float64
            Class ids, or values.
        starts : int64 ndarray of shape (n + 1,), optional
            Where the labels of each row begin, for a token task: words of one sentence are drawn together. By default each is a row.

        Raises
        ------
        StatisticsError
            No rows, shapes that do not fit the task, outputs that are not finite, or labels that are no class ids.
        """
        outputs, labels = np.asarray(outputs), np.asarray(labels)
        if labels.ndim != 1 or outputs.shape != (len(labels), self.outputs):
            raise StatisticsError(
                f"Outputs must have shape (n, {self.outputs}) and labels (n,). Got {outputs.shape} and {labels.shape} instead."
            )
        if not np.isfinite(outputs).all():
            raise StatisticsError(
                f"{int((~np.isfinite(outputs)).any(axis=1).sum())} of {len(outputs)} rows of the outputs hold NaN or infinity."
            )
        predicted = outputs[:, 0] if self.kind is TaskKind.REGRESSION else outputs.argmax(axis=1)
        return judged(self.metric, predicted, labels, classes=self.outputs, starts=starts)

    def score(self, outputs: NDArray[np.floating], labels: NDArray[np.generic]) -> float:
        """Score outputs against labels with the task's metric.

        A prediction that does not vary has a Matthews, Pearson and Spearman correlation of 0 by definition; so has a label.
        Macro F1 is the mean over the classes that occur in the labels or in the predictions.

        Parameters
        ----------
        outputs, labels
            As in `judged`.

        Returns
        -------
        float
            At most 1, higher is better.

        Raises
        ------
        StatisticsError
            As in `judged`.
        """
        return self.judged(outputs, labels).value

    def interval(
        self,
        outputs: NDArray[np.floating],
        labels: NDArray[np.generic],
        starts: NDArray[np.int64] | None = None,
        *,
        level: float = LEVEL,
        seed: int = 0,
    ) -> Interval:
        """`score` with its confidence interval over the draw of the rows; see `prunekit.metrics.interval`.

        Parameters
        ----------
        outputs, labels, starts
            As in `judged`.
        level : float
            Coverage, in (0, 1).
        seed : int
            Of the resamples.

        Raises
        ------
        ParameterError
            A level outside (0, 1).
        StatisticsError
            As in `judged`.
        """
        return interval(self.judged(outputs, labels, starts), level=level, seed=seed)
