from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.data import Rows, encode
from prunekit.errors import ParameterError, StatisticsError
from prunekit.metrics import Metric
from prunekit.metrics.entities import count_entities, resembles_scheme, scheme_of
from prunekit.runtime.scores import judged
from prunekit.tasks import Task, TaskKind
from tests.lines import tokenizer_of

TAGS = {
    "BIO": ("O", "B-X", "I-X", "B-Y", "I-Y"),
    "BILOU": ("O", "B-X", "I-X", "L-X", "U-X", "B-Y", "I-Y", "L-Y", "U-Y"),
    "IOBES": ("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y"),
}


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    """Written after conlleval.pl's startOfChunk and endOfChunk, one sentence at a time."""
    found, start = set(), None
    for at, tag in enumerate([*tags, "O"]):
        before = tags[at - 1] if at else "O"
        one, two = before[0].translate(str.maketrans("LU", "ES")), tag[0].translate(str.maketrans("LU", "ES"))
        kind, other = before[2:], tag[2:]
        over = one != "O" and (one in "ES" or two in "BSO" or kind != other)
        if over and start is not None:
            found.add((start, at, kind))
            start = None
        if two != "O" and (two in "BS" or one in "OES" or kind != other):
            start = at
    return found


@settings(max_examples=150)
@given(st.data())
def test_entities_are_counted_as_conlleval_counts_them(data: st.DataObject) -> None:
    labels = TAGS[data.draw(st.sampled_from(sorted(TAGS)))]
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    n = sum(sizes)
    ids = st.lists(st.integers(0, len(labels) - 1), min_size=n, max_size=n)
    predicted, actual = np.array(data.draw(ids)), np.array(data.draw(ids))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    found = count_entities(predicted, actual, starts, labels)
    for row in range(len(sizes)):
        ours, theirs = (spans([labels[tag] for tag in tags[starts[row] : starts[row + 1]]]) for tags in (predicted, actual))
        assert found[row].tolist() == [len(ours & theirs), len(ours), len(theirs)]


def test_tag_sets_are_told_apart() -> None:
    assert {name: scheme_of(tags) for name, tags in TAGS.items()} == {name: name for name in TAGS}
    assert scheme_of(("O", "I-X")) == "BIO"
    for labels in (("NOUN", "VERB"), ("O", "B"), ("O", "B-X", "VERB"), ("O", "S-X"), ("O", "L-X", "E-X", "B-X")):
        assert scheme_of(labels) is None
    with pytest.raises(ParameterError, match=r"'metric' .* BIO, BILOU or IOBES"):
        Task(TaskKind.TOKENS, Metric.ENTITY_F1, ("NOUN", "VERB"))


def test_tags_with_an_underscore_count_as_those_with_a_hyphen() -> None:
    for name, tags in TAGS.items():
        spelt = tuple(tag.replace("-", "_") for tag in tags)
        assert scheme_of(spelt) == name
        actual, starts = np.arange(len(tags)), np.array([0, len(tags)])
        assert (count_entities(actual, actual, starts, spelt) == count_entities(actual, actual, starts, tags)).all()


def test_tags_that_are_spelt_otherwise_resemble_a_scheme() -> None:
    for tags in (("O", "X-B", "X-I"), ("B/X", "I/X"), ("O", "B", "I"), ("O", "B-X", "M-X", "E-X")):
        assert resembles_scheme(tags)
    for tags in (*TAGS.values(), ("NOUN", "VERB"), ("O", "B-X", "VERB"), ("O", "PRE-X", "SUF-X"), ("O", "S")):
        assert not resembles_scheme(tags)


def test_the_interval_resamples_sentences() -> None:
    task = Task(TaskKind.TOKENS, Metric.ENTITY_F1, TAGS["BIO"])
    generator = np.random.default_rng(0)
    actual = np.tile([0, 1, 2, 0, 3], 80)
    said = np.where(np.repeat(generator.random(80) < 0.7, 5), actual, 0)
    outputs, starts = np.eye(5)[said], np.arange(0, 401, 5)
    draws = []
    for rows in generator.integers(80, size=(2000, 80)):
        at = (rows[:, None] * 5 + np.arange(5)).ravel()
        draws.append(task.score(outputs[at], actual[at], starts))
    assert task.interval(outputs, actual, starts=starts)[1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    with pytest.raises(StatisticsError, match="where each row of words begins"):
        task.score(outputs, actual)


def test_words_past_the_end_are_judged_whatever_the_tokenizer() -> None:
    tags = ("O", "B-X", "I-X")
    rows = Rows(labels=(np.array([0, 1, 2]), np.array([1, 0])), tokens=(("banal", "zzzzzz", "dupos"), ("banal", "dunal")))
    for metric in (Metric.ACCURACY, Metric.ENTITY_F1):
        task = Task(TaskKind.TOKENS, metric, tags)
        values = {}
        for length in (6, 30):
            # "zzzzzz" takes six tokens: at 6 the third word is cut.
            encoded = encode(rows, tokenizer_of(), max_length=length, per_token=True)
            assert encoded.every_label.tolist() == [0, 1, 2, 1, 0]
            assert encoded.every_start.tolist() == [0, 3, 5]
            wrong = np.where(encoded.labels == 2, 0, encoded.labels)
            values[length] = judged(task, encoded, np.eye(3)[wrong])
            assert encoded.take(np.array([1, 0])).every_label.tolist() == [1, 0, 0, 1, 2]
        assert encoded.dropped == 0
        # Wrong at the cut word, or without an answer to it, is one thing.
        assert values[6] == values[30]
