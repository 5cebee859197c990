"""Contexts in windows: nothing of them is lost, and what is found in a window is found in the context."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from prunekit.data.batches import Encoded, encode
from prunekit.data.places import LONGEST
from prunekit.data.rows import Rows
from prunekit.errors import ParameterError
from prunekit.metrics.spans import NOWHERE, Reference, answered_text
from prunekit.tasks import Task, TaskKind
from tests.lines import WORDS, tokenizer_of


def rows(count: int = 20, *, longest: int = 60, seed: int = 0, silent: bool = False) -> Rows:
    """Contexts with a few words of every question's answer somewhere, none in every fifth of those where that is an answer."""
    generator = np.random.default_rng(seed)
    questions, contexts, labels = [], [], np.empty(count, dtype=object)
    for at in range(count):
        words = [WORDS[int(word)] for word in generator.integers(len(WORDS), size=generator.integers(4, longest))]
        # Punctuation stands beside words and is a token of its own.
        context = " ".join(words).replace(" mo", ", mo") + "."
        first = int(generator.integers(len(words) - 2))
        text = " ".join(words[first : first + 2])
        start = context.find(text)
        there = start >= 0 and not (silent and at % 5 == 0)
        questions.append(" ".join(WORDS[int(word)] for word in generator.integers(len(WORDS), size=generator.integers(1, 6))))
        contexts.append(context)
        labels[at] = Reference(context, (text,), (start,)) if there else Reference(context)
    return Rows(labels=labels, texts=tuple(questions), pairs=tuple(contexts), silent=silent)


def encoded(found: Rows, max_length: int = 32, stride: int | None = 8, left: bool = False) -> Encoded:
    tokenizer = tokenizer_of()
    tokenizer.padding_side = "left" if left else "right"
    return encode(found, tokenizer, max_length=max_length, per_token=False, stride=stride)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("max_length", "stride"), [(32, 8), (32, 0), (24, 3), (64, None)])
def test_windows_cover_the_context_and_overlap(max_length: int, stride: int | None, left: bool) -> None:
    found, tokenizer = rows(), tokenizer_of()
    split = encoded(found, max_length, stride, left)
    windows = split.windows
    assert windows is not None
    assert (split.lengths <= max_length).all()
    assert len(split) == len(windows.questions) > (len(found) if max_length < 64 else 0)
    shared = max_length // 3 if stride is None else stride
    for number, (question, context) in enumerate(zip(found.texts, found.pairs or (), strict=True)):
        whole: Any = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
        asked = tokenizer(question, add_special_tokens=False)["input_ids"]
        parts = [windows.characters[windows.starts[at] + 1 : windows.starts[at + 1]] for at in np.flatnonzero(windows.questions == number)]
        offsets = np.array(whole["offset_mapping"])
        assert parts[0].tolist() == offsets[: len(parts[0])].tolist()
        for before, after in pairwise(parts):
            assert before[len(before) - shared :].tolist() == after[:shared].tolist()
        assert parts[-1][-1].tolist() == offsets[-1].tolist()
        assert {tuple(each) for part in parts for each in part} == set(map(tuple, offsets.tolist()))
        for at in np.flatnonzero(windows.questions == number):
            ids = split.ids[split.offsets[at] : split.offsets[at + 1]]
            places = windows.places[windows.starts[at] + 1 : windows.starts[at + 1]]
            inside = [
                whole["input_ids"][offsets.tolist().index(each.tolist())]
                for each in windows.characters[windows.starts[at] + 1 :][: len(places)]
            ]
            assert ids[places].tolist() == inside
            rest = np.delete(ids, places).tolist()
            assert rest == ([2, 3, *asked, 3] if left else [2, *asked, 3, 3])


@pytest.mark.parametrize("left", [False, True])
def test_logits_that_know_the_answer_give_it_back(left: bool) -> None:
    found = rows(silent=True)
    split = encoded(found, left=left)
    windows = split.windows
    assert windows is not None
    # As a batch would be answered: by row and position, padded.
    outputs = np.full((len(split.labels), 2), np.nan)
    for batch in split.batches(max_rows=4):
        assert batch.first is not None
        at = batch.read
        assert at.sum() == len(batch.first)
        assert (batch.attention_mask >= at).all()
        outputs[batch.targets] = np.where(batch.labels, 5.0, 0.0)
    spans = split.every(outputs)
    assert [answered_text(each, reference) for each, reference in zip(spans, found.references, strict=True)] == [
        reference.texts[0] if reference.texts else "" for reference in found.references
    ]
    task = Task(TaskKind.QUESTIONS, TaskKind.QUESTIONS.traits.metrics[0])
    assert task.score(spans, split.every_label) == 1.0
    # Windows in another order, and those of some questions alone, say the same.
    order = np.random.default_rng(1).permutation(len(split))
    moved, values = split.take(order), np.concatenate([outputs[windows.starts[at] : windows.starts[at + 1]] for at in order])
    assert moved.every(values).tolist() == spans.tolist()
    some = np.flatnonzero(windows.questions % 3 == 1)
    part = np.concatenate([outputs[windows.starts[at] : windows.starts[at + 1]] for at in some])
    assert split.take(some).every(part).tolist() == spans[1::3].tolist()


@pytest.mark.parametrize("silent", [False, True])
def test_the_best_span_is_that_of_all_pairs(silent: bool) -> None:
    found = rows(12, silent=silent, seed=3)
    split = encoded(found, 64, 20)
    windows = split.windows
    assert windows is not None
    outputs = np.random.default_rng(0).normal(size=(len(split.labels), 2)).astype(np.float32)
    spans = split.every(outputs)
    for number in range(len(found)):
        best, where, least = -np.inf, (NOWHERE, NOWHERE), np.inf
        for at in np.flatnonzero(windows.questions == number):
            first, last = windows.starts[at], windows.starts[at + 1]
            least = min(least, float(outputs[first].astype(float).sum()))
            for a in range(first + 1, last):
                for b in range(a, min(a + LONGEST, last)):
                    score = float(outputs[a, 0]) + float(outputs[b, 1])
                    if score > best:
                        best, where = score, (int(windows.characters[a, 0]), int(windows.characters[b, 1]))
        assert tuple(spans[number]) == ((NOWHERE, NOWHERE) if silent and least > best else where)
    if silent:
        outputs[windows.starts[:-1]] = 50.0
        assert (split.every(outputs) == NOWHERE).all()
        # One window that finds an answer is enough.
        outputs[windows.starts[0]] = -50.0
        assert (split.every(outputs)[0] != NOWHERE).all()


def test_a_window_without_the_answer_says_so() -> None:
    split = encoded(rows())
    windows = split.windows
    assert windows is not None
    nowhere = split.labels[windows.starts[:-1]]
    assert nowhere.any()
    assert not nowhere.all()
    assert (nowhere[:, 0] == nowhere[:, 1]).all()
    assert (np.add.reduceat(split.labels, windows.starts[:-1]) == 1).all()
    assert split.by_row.labels.tolist() == (1 - nowhere[:, 0]).tolist()
    assert split.by_row.batch(np.arange(3)).first is None


@pytest.mark.parametrize("stride", [14, 25, 32, 1000])
def test_a_stride_must_leave_room_to_move_on(stride: int) -> None:
    with pytest.raises(ParameterError, match=r"'stride' .* at most half of the \d+ tokens of context that a window of 32 leaves"):
        encoded(rows(), stride=stride)


def test_a_question_as_long_as_a_window_is_refused() -> None:
    found = Rows(labels=np.array([Reference("banal dupos")], dtype=object), texts=("banal " * 40,), pairs=("banal dupos",))
    with pytest.raises(ParameterError, match=r"'max_length' .* at least 45, .* the longest question \(row 1, 40 tokens\). Got 32"):
        encoded(found, stride=None)


def test_by_default_windows_share_what_a_long_question_leaves_room_for() -> None:
    context = "banal dupos " * 9
    found = Rows(labels=np.array([Reference(context)], dtype=object), texts=("banal " * 19,), pairs=(context,))
    windows = encoded(found, 32, None).windows
    assert windows is not None
    # Ten tokens of context fit, half of which are shared: 0-9, 5-14, 10-17, and [CLS] before each.
    assert np.diff(windows.starts).tolist() == [11, 11, 9]
