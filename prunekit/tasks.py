"""Tasks: their kind, label space and metric, and the level at which the model is read. Pure data and numpy.

All differences between kinds of task are in one record, `Traits`; no other code branches on the kind. A new kind is a member of
`TaskKind` and its record in `TRAITS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import ParameterError, StatisticsError
from prunekit.metrics import (
    LEVEL,
    Interval,
    Judged,
    Metric,
    cosines,
    interval,
    judged,
    judged_means,
    judged_spans,
)
from prunekit.metrics.entities import count_entities, scheme_of
from prunekit.metrics.label_sets import best_thresholds, judged_sets
from prunekit.metrics.ranked import judged_lists
from prunekit.metrics.spans import judged_answers

__all__ = ["ALIASES", "TRAITS", "Metric", "Task", "TaskKind", "Traits"]

#: Outputs of a model that answers questions: logits of the start and of the end of an answer at each token.
ENDS = ("start_logits", "end_logits")

Outputs = NDArray[np.floating]
Labels = NDArray[np.generic]
Starts = NDArray[np.int64]


class TaskKind(StrEnum):
    """The kinds of task, by their usual names."""

    CLASSIFICATION = "text-classification"
    REGRESSION = "regression"
    TOKENS = "token-classification"
    LABELS = "multi-label-classification"
    RANKING = "text-ranking"
    EMBEDDING = "sentence-similarity"
    QUESTIONS = "question-answering"

    @classmethod
    def _missing_(cls, value: object) -> TaskKind | None:
        return ALIASES.get(value) if isinstance(value, str) else None

    @property
    def traits(self) -> Traits:
        """Properties of this kind."""
        return TRAITS[self]


@dataclass(frozen=True)
class Traits:
    """Properties of a kind of task.

    Attributes
    ----------
    title : str
        Name on a model card: "Text classification".
    pipeline : str
        The hub's pipeline tag.
    loader : str
        Suffix, after AutoModelFor and ORTModelFor, of the classes that load such a model.
    metrics : tuple of Metric
        Allowed metrics, the default first.
    judge : callable
        (task, outputs, labels, starts) -> `Judged`, as in `Task.judged`; it checks the shapes.
    per_token : bool
        Whether each (first sub-word) token is read rather than one pooled row.
    values : bool
        Whether outputs are values and not the logits of classes.
    words : bool
        Whether a bag of words applies, and is fitted as a baseline.
    labelled : bool
        Whether rows have labels to learn from; without, only the dense model's answers are learned from.
    readout : bool
        Whether a classifier on selected neurons can replace the model's own output.
    many : bool
        Whether a row has any number of labels, which are then (n, C) bool.
    lists : bool
        Whether the rows of one query are a list, whose order is scored.
    vectors : bool
        Whether outputs are embeddings of texts.
    spans : bool
        Whether an answer is a span of a text, with a logit of its start and one of its end for each token.
    all_metrics : bool
        Whether the other allowed metrics are reported beside the task's own.
    """

    title: str
    pipeline: str
    loader: str
    metrics: tuple[Metric, ...]
    judge: Callable[[Task, Outputs, Labels, Starts | None], Judged]
    per_token: bool = False
    values: bool = False
    words: bool = False
    labelled: bool = True
    readout: bool = True
    many: bool = False
    lists: bool = False
    vectors: bool = False
    spans: bool = False
    all_metrics: bool = False


@dataclass(frozen=True)
class Task:
    """A task and its label space.

    Attributes
    ----------
    kind : TaskKind
    metric : Metric
        Accuracy, macro F1 or Matthews for classes; Pearson or Spearman for values; for vectors the cosine to the dense model's, or
        Pearson or Spearman of the cosines of pairs with their scores; entity F1 for words whose labels are BIO, BILOU
        or IOBES tags; micro or macro F1 for rows with any number of labels; nDCG@10, MRR or MAP for lists of rows by query; F1 of the
        words or exact match for answers to questions. Anything else is a ParameterError.
    labels : tuple of str
        Class names, in the order of the class ids; empty for a regression.
    """

    kind: TaskKind
    metric: Metric
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        allowed = self.kind.traits.metrics
        if self.metric not in allowed:
            names = ", ".join(metric.value for metric in allowed)
            raise ParameterError("metric", f"a {self.kind.value} task", f"one of {names}", str(self.metric))
        if self.metric is Metric.ENTITY_F1 and self.labels and scheme_of(self.labels) is None:
            must = "another where the labels are not BIO, BILOU or IOBES tags"
            raise ParameterError("metric", f"a {self.kind.value} task", must, str(self.metric))

    @property
    def outputs(self) -> int:
        """Width of the classifier: classes, 1 for a regression, or 2 where answers start and end."""
        return len(self.labels) or (2 if self.kind.traits.spans else 1)

    @property
    def per_token(self) -> bool:
        """Whether the classifier reads each (first sub-word) token rather than one pooled row."""
        return self.kind.traits.per_token

    @property
    def many(self) -> bool:
        """Whether a row has any number of labels."""
        return self.kind.traits.many

    @property
    def beside(self) -> tuple[Metric, ...]:
        """Metrics that are reported beside the task's own."""
        traits = self.kind.traits
        others = (metric for metric in traits.metrics if metric not in (self.metric, Metric.AGREEMENT))
        return tuple(others) if traits.all_metrics else ()

    @property
    def alike(self) -> Task:
        """The task with a model's own answers as labels: agreement replaces the metric, except for values."""
        agreement = Metric.AGREEMENT in self.kind.traits.metrics
        return replace(self, metric=Metric.AGREEMENT) if agreement else self

    def answers(self, outputs: NDArray[np.floating]) -> NDArray[np.generic]:
        """Return the predictions of outputs (m, C): class ids (m,), values (m,), or label sets (m, C) bool where a logit is above 0."""
        if self.many:
            return np.asarray(outputs > 0)
        return (
            np.asarray(outputs[:, 0], dtype=np.float64) if self.kind.traits.values else np.asarray(outputs.argmax(axis=1), dtype=np.int64)
        )

    @property
    def by_word(self) -> Task:
        """The task with words, or the rows of a query, scored one by one: accuracy for entities, Pearson for lists."""
        if self.kind.traits.lists:
            return Task(TaskKind.REGRESSION, Metric.PEARSON)
        return replace(self, metric=Metric.ACCURACY) if self.metric is Metric.ENTITY_F1 else self

    def judged(self, outputs: NDArray[np.floating], labels: NDArray[np.generic], starts: NDArray[np.int64] | None = None) -> Judged:
        """Prepare the score of outputs against labels, for comparison with others on the same rows.

        A row of outputs that are all minus infinity is no answer (a word past the end of what the model reads): it counts as
        wrong, as an answer of the class after the right one, and for entity F1 as a word outside of all entities.

        Parameters
        ----------
        outputs : ndarray of shape (m, C), floating
            Logits, one column a class; (m, 1) values for a regression; vectors of an embedder. The largest logit is the prediction, the
            first of equals. Of answers to questions the spans (m, 2), as in `prunekit.metrics.spans.judged_answers`.
        labels : ndarray of shape (m,), int64 or float64; or (m, C), bool
            Class ids, or values; or which labels each row has, predicted where the logit is above 0 (see `tuned`); for vectors those
            of the dense model (m, D), or the score of each text's pair; for answers the references, (m,) of
            `prunekit.metrics.spans.Reference`.
        starts : int64 ndarray of shape (n + 1,), optional
            Where the labels of each row begin, for a token task: words of one sentence are drawn together. By default each is a row;
            entity F1 needs it.

        Raises
        ------
        StatisticsError
            No rows, shapes that do not fit the task, outputs that are not finite in a row that answers, or labels that are no class ids.
        """
        outputs, labels = np.asarray(outputs), np.asarray(labels)
        return self.kind.traits.judge(self, outputs, labels, starts)

    def thresholds(self, outputs: NDArray[np.floating], labels: NDArray[np.generic]) -> NDArray[np.float64] | None:
        """Return logits (C,) above which a label is predicted, fitted on validation rows; None where labels are exclusive."""
        return best_thresholds(outputs, labels.astype(bool)) if self.many else None

    def tuned(
        self,
        outputs: NDArray[np.floating],
        labels: NDArray[np.generic],
        thresholds: NDArray[np.float64] | None = None,
    ) -> NDArray[np.floating]:
        """Return outputs minus their thresholds: by default those fitted on these rows, which are then validation rows."""
        cut = self.thresholds(outputs, labels) if thresholds is None else thresholds
        return outputs if cut is None else outputs - cut

    def score(self, outputs: NDArray[np.floating], labels: NDArray[np.generic], starts: NDArray[np.int64] | None = None) -> float:
        """Score outputs against labels with the task's metric.

        A prediction that does not vary has a Matthews, Pearson and Spearman correlation of 0 by definition; so has a label.
        Macro F1 is the mean over the classes that occur in the labels or in the predictions.

        Parameters
        ----------
        outputs, labels, starts
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
        return self.judged(outputs, labels, starts).value

    def interval(
        self,
        outputs: NDArray[np.floating],
        labels: NDArray[np.generic],
        starts: NDArray[np.int64] | None = None,
        *,
        level: float = LEVEL,
        seed: int = 0,
    ) -> Interval:
        """Return `score` with its confidence interval over the sampling of the rows; see `prunekit.metrics.interval`.

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


def _judge_values(task: Task, outputs: Outputs, labels: Labels, starts: Starts | None) -> Judged:
    _check_shapes(task, outputs, labels)
    _check_finite(outputs)
    return judged(task.metric, outputs[:, 0], labels, classes=1, starts=starts)


def _judge_classes(task: Task, outputs: Outputs, labels: Labels, starts: Starts | None) -> Judged:
    _check_shapes(task, outputs, labels)
    _check_finite(outputs)
    return judged(task.metric, outputs.argmax(axis=1), labels, classes=task.outputs, starts=starts)


def _judge_words(task: Task, outputs: Outputs, labels: Labels, starts: Starts | None) -> Judged:
    _check_shapes(task, outputs, labels)
    missing = np.asarray(np.isneginf(outputs).all(axis=1))
    _check_finite(outputs, missing)
    predicted = outputs.argmax(axis=1)
    if task.metric is Metric.ENTITY_F1:
        return _judge_entities(task, np.where(missing, -1, predicted), labels, starts)
    if missing.any():
        predicted = np.where(missing, (labels + 1) % task.outputs, predicted)
    return judged(task.metric, predicted, labels, classes=task.outputs, starts=starts)


def _judge_entities(task: Task, predicted: NDArray[np.int64], actual: Labels, starts: Starts | None) -> Judged:
    if starts is None or starts[-1] != len(actual):
        raise StatisticsError("Entity F1 needs to know where each row of words begins.")
    ids = actual.astype(np.int64)
    if not len(ids) or ids.min() < 0 or ids.max() >= task.outputs:
        raise StatisticsError(f"Labels must be class ids in 0..{task.outputs - 1}, one at least.")
    hits, ours, theirs = count_entities(predicted, ids, starts, task.labels).astype(np.float64).T
    return judged_spans(hits, ours, theirs)


def _judge_vectors(task: Task, outputs: Outputs, labels: Labels, starts: Starts | None) -> Judged:
    """Compare vectors (m, D) with those of the dense model, (m, D), or with the scores (m,) of pairs of successive vectors."""
    if outputs.ndim != 2 or len(labels) != len(outputs):
        raise StatisticsError(f"Outputs must be one vector a label. Got {outputs.shape} and {labels.shape} instead.")
    _check_finite(outputs)
    if labels.ndim == 2:
        if labels.shape != outputs.shape:
            raise StatisticsError(f"Vectors are compared with others of their width. Got {outputs.shape} and {labels.shape} instead.")
        return judged_means(cosines(outputs, labels.astype(np.float64)))
    if starts is None or (np.diff(starts) != 2).any() or starts[-1] != len(outputs):
        raise StatisticsError("Scores are of pairs of texts, one after the other.")
    return judged(task.metric, cosines(outputs[0::2], outputs[1::2]), labels[0::2], classes=1)


def _judge_sets(task: Task, outputs: Outputs, labels: Labels, starts: Starts | None) -> Judged:
    _check_shapes(task, outputs, labels)
    _check_finite(outputs)
    return judged_sets(task.metric, outputs > 0, labels.astype(bool))


def _judge_lists(task: Task, outputs: Outputs, labels: Labels, starts: Starts | None) -> Judged:
    _check_shapes(task, outputs, labels)
    _check_finite(outputs)
    if starts is None:
        raise StatisticsError(f"{task.metric.label} needs to know where the rows of each query begin.")
    return judged_lists(task.metric, outputs[:, 0], labels.astype(np.float64), starts)


def _judge_spans(task: Task, outputs: Outputs, labels: Labels, starts: Starts | None) -> Judged:
    _check_finite(outputs)
    return judged_answers(task.metric, outputs, labels.astype(object))


def _check_shapes(task: Task, outputs: Outputs, labels: Labels) -> None:
    shape = (len(labels), task.outputs)
    if outputs.shape != shape or labels.shape != (shape if task.many else shape[:1]):
        must = f"(n, {task.outputs})" if task.many else "(n,)"
        raise StatisticsError(
            f"Outputs must have shape (n, {task.outputs}) and labels {must}. Got {outputs.shape} and {labels.shape} instead."
        )


def _check_finite(outputs: Outputs, missing: NDArray[np.bool_] | None = None) -> None:
    """Raise StatisticsError for rows with NaN or infinity, except those without an answer."""
    broken = np.asarray(~np.isfinite(outputs).all(axis=1))
    if missing is not None:
        broken &= ~missing
    if broken.any():
        raise StatisticsError(f"{int(broken.sum())} of {len(outputs)} rows of the outputs hold NaN or infinity.")


#: Alternative names of kinds.
ALIASES = {"embedding": TaskKind.EMBEDDING, "feature-extraction": TaskKind.EMBEDDING}
TRAITS = {
    TaskKind.CLASSIFICATION: Traits(
        "Text classification",
        "text-classification",
        "SequenceClassification",
        (Metric.ACCURACY, Metric.F1, Metric.MATTHEWS, Metric.AGREEMENT),
        _judge_classes,
        words=True,
    ),
    TaskKind.TOKENS: Traits(
        "Token classification",
        "token-classification",
        "TokenClassification",
        (Metric.ACCURACY, Metric.F1, Metric.MATTHEWS, Metric.ENTITY_F1, Metric.AGREEMENT),
        _judge_words,
        per_token=True,
    ),
    TaskKind.REGRESSION: Traits(
        "Text regression",
        "text-classification",
        "SequenceClassification",
        (Metric.PEARSON, Metric.SPEARMAN),
        _judge_values,
        values=True,
    ),
    TaskKind.LABELS: Traits(
        "Text classification",
        "text-classification",
        "SequenceClassification",
        (Metric.MICRO_F1, Metric.F1, Metric.AGREEMENT),
        _judge_sets,
        words=True,
        many=True,
        all_metrics=True,
    ),
    TaskKind.RANKING: Traits(
        "Ranking of texts for a query",
        "text-ranking",
        "SequenceClassification",
        (Metric.NDCG, Metric.MRR, Metric.MAP),
        _judge_lists,
        values=True,
        words=True,
        lists=True,
        all_metrics=True,
    ),
    TaskKind.EMBEDDING: Traits(
        "Sentence embedding",
        "sentence-similarity",
        "FeatureExtraction",
        (Metric.COSINE, Metric.SPEARMAN, Metric.PEARSON),
        _judge_vectors,
        labelled=False,
        readout=False,
        vectors=True,
    ),
    TaskKind.QUESTIONS: Traits(
        "Extractive question answering",
        "question-answering",
        "QuestionAnswering",
        (Metric.ANSWER_F1, Metric.EXACT_MATCH),
        _judge_spans,
        labelled=False,
        readout=False,
        spans=True,
        all_metrics=True,
    ),
}
