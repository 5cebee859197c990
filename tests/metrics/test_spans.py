from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunekit.errors import StatisticsError
from prunekit.metrics import Metric, compare, interval
from prunekit.metrics.spans import NOWHERE, Reference, answered_text, exact_match, judged_answers, normalised, token_f1
from prunekit.tasks import Task, TaskKind

CONTEXT = "The Saxon Garden, in Warsaw: a theatre stood there from 1870 to 1939."


def span(text: str) -> list[int]:
    start = CONTEXT.index(text)
    return [start, start + len(text)]


# What the evaluation script of SQuAD 2.0 gives.
@pytest.mark.parametrize(
    ("answer", "texts", "exact", "f1"),
    [
        ("the Saxon Garden", ("Saxon Garden",), 1, 1),
        ("Saxon  garden!", ("The Saxon Garden",), 1, 1),
        ("Garden in Warsaw", ("Saxon Garden",), 0, 2 / 5),
        ("Saxon", ("Saxon Garden", "Saxon"), 1, 1),
        ("to to to", ("to be to",), 0, 2 / 3),
        ("", (), 1, 1),
        ("Warsaw", (), 0, 0),
        ("", ("Warsaw",), 0, 0),
        ("the", ("a",), 1, 1),
        ("anthem", ("them",), 0, 0),
        ("19-39", ("1939",), 1, 1),
    ],
)
def test_answers_are_compared_as_squad_does(answer: str, texts: tuple[str, ...], exact: float, f1: float) -> None:
    assert exact_match(answer, texts) == exact
    assert token_f1(answer, texts) == pytest.approx(f1)


@given(st.text(max_size=30))
def test_what_is_normalised_stays(text: str) -> None:
    once = normalised(text)
    # Removing one article may join nothing: words keep their borders.
    assert normalised(once) == once
    assert exact_match(text, (once,) if once else ()) == 1
    assert token_f1(text, (once,) if once else ()) == 1


def test_questions_are_drawn_for_the_interval() -> None:
    texts = ["Saxon Garden", "Warsaw", "1870", "1939"] * 10
    references = np.array([Reference(CONTEXT, (text,), (CONTEXT.index(text),)) for text in texts], dtype=object)
    right = np.array([span(text) for text in texts])
    wrong = right.copy()
    wrong[::4] = span("The Saxon Garden, in Warsaw")
    task = Task(TaskKind.QUESTIONS, Metric.ANSWER_F1)
    exact = judged_answers(Metric.EXACT_MATCH, wrong, references)
    assert (task.score(right, references), exact.value) == (1.0, 0.75)
    assert exact.hits is not None
    assert exact.hits.tolist() == [0.0, 1.0, 1.0, 1.0] * 10
    # Four words, of which two are asked for ("the" is no word of an answer).
    each = 2 * 2 / (4 + 2)
    assert task.score(wrong, references) == pytest.approx((3 + each) / 4)
    found = interval(task.judged(wrong, references))
    assert found.low < found.value < found.high < 1
    share = compare(task.judged(wrong, references), task.judged(right, references))
    assert share.value == pytest.approx((3 + each) / 4)
    assert share.high < 1
    assert task.beside == (Metric.EXACT_MATCH,)


def test_no_answer_is_an_answer() -> None:
    nothing = np.full((1, 2), NOWHERE)
    assert answered_text(nothing[0], Reference(CONTEXT)) == ""
    references = np.array([Reference(CONTEXT)], dtype=object)
    assert judged_answers(Metric.ANSWER_F1, nothing, references).value == 1
    assert judged_answers(Metric.ANSWER_F1, np.array([span("Warsaw")]), references).value == 0


def test_shapes_that_do_not_fit() -> None:
    references = np.array([Reference(CONTEXT)], dtype=object)
    for spans in (np.zeros((2, 2)), np.zeros((1, 3)), np.zeros(1)):
        with pytest.raises(StatisticsError, match="Answers must have shape"):
            judged_answers(Metric.ANSWER_F1, spans, references)
