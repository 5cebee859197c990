"""Answers to questions as spans of a text, and their scores against reference answers.

Exact match and F1 are those of SQuAD (Rajpurkar et al. 2016; 2018 for questions without an answer), by its own normalisation.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.metrics.metric import Metric
from prunekit.metrics.values import Judged, judged_means

#: Start and end of an answer that is none.
NOWHERE = -1
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Reference:
    """Accepted answers to one question.

    Attributes
    ----------
    context : str
        The text that the answer is a part of.
    texts : tuple of str
        The answers, any of which is correct; none where the text does not answer the question.
    starts : tuple of int
        Character of the context at which each begins.
    """

    context: str
    texts: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.texts) == len(self.starts)


def normalised(text: str) -> str:
    """Return an answer in lower case, without punctuation, articles and repeated spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, texts: tuple[str, ...]) -> float:
    """Return 1 if an answer equals one of some texts, all normalised, else 0; without any text an empty answer is correct."""
    return float(normalised(answer) in {normalised(text) for text in texts or ("",)})


def token_f1(answer: str, texts: tuple[str, ...]) -> float:
    """Return the highest F1 of the words of an answer against those of any text; without any text an empty answer is correct."""
    return max(_f1(normalised(answer).split(), normalised(text).split()) for text in texts or ("",))


def _f1(ours: list[str], theirs: list[str]) -> float:
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def judged_answers(metric: Metric, spans: NDArray[np.floating], references: NDArray[np.object_]) -> Judged:
    """Prepare exact match or F1 of spans, by questions.

    Parameters
    ----------
    metric : Metric
    spans : ndarray of shape (n, 2)
        First character, and the one after the last, in each question's context; `NOWHERE` twice for no answer.
    references : ndarray of shape (n,), of `Reference`

    Raises
    ------
    StatisticsError
        No questions, or arrays that do not fit.
    """
    if spans.ndim != 2 or spans.shape[1] != 2 or references.shape != spans.shape[:1]:
        raise StatisticsError(f"Answers must have shape (n, 2) and references (n,). Got {spans.shape} and {references.shape} instead.")
    score = exact_match if metric is Metric.EXACT_MATCH else token_f1
    values = np.array([score(answered_text(span, reference), reference.texts) for span, reference in zip(spans, references, strict=True)])
    mean = judged_means(values)
    return Judged(mean.rows, mean.score, values) if metric is Metric.EXACT_MATCH else mean


def answered_text(span: NDArray[np.floating], reference: Reference) -> str:
    """Return the text of a span, "" for no answer."""
    start, end = (int(place) for place in span)
    return "" if start == NOWHERE else reference.context[start:end]
