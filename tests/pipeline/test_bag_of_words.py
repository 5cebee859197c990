from __future__ import annotations

import numpy as np
import pytest

from prunekit.data.rows import Rows, TaskData
from prunekit.metrics import Metric
from prunekit.pipeline.bag_of_words import bag_of_words
from prunekit.tasks import Task, TaskKind


def task_data(texts: list[str], labels: list[int], *, pairs: list[str] | None = None) -> TaskData:
    rows = Rows(np.array(labels), tuple(texts), None if pairs is None else tuple(pairs))
    task = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, ("a", "b", "never"))
    return TaskData(task, rows, rows, rows, (), {})


def test_what_single_words_say_is_found_and_what_they_do_not_is_not() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=200).tolist()
    told = task_data([f"it is {'good' if label else 'bad'} {i % 7}" for i, label in enumerate(labels)], labels)
    answers = bag_of_words(told, seed=0)
    assert answers is not None
    assert np.array_equal(answers.argmax(axis=1), labels)
    # Two words that say it only together are beyond a bag.
    words = generator.integers(2, size=(400, 2))
    exclusive = task_data([f"{'ab'[i]}1 {'ab'[j]}2" for i, j in words], (words[:, 0] ^ words[:, 1]).tolist())
    answers = bag_of_words(exclusive, seed=0)
    assert answers is not None
    assert (answers.argmax(axis=1) == exclusive.test.labels).mean() < 0.65


def test_the_second_text_counts() -> None:
    labels = [0, 1] * 20
    answers = bag_of_words(task_data(["same"] * 40, labels, pairs=["yes" if label else "no" for label in labels]), seed=0)
    assert answers is not None
    assert np.array_equal(answers.argmax(axis=1), labels)


@pytest.mark.parametrize(("texts", "labels"), [(["a b", "c d"], [0, 0]), (["...", "!"], [0, 1])])
def test_without_words_or_classes_there_is_none(texts: list[str], labels: list[int]) -> None:
    assert bag_of_words(task_data(texts, labels), seed=0) is None


def test_values_have_none() -> None:
    rows = Rows(np.array([0.1, 0.9]), ("a b", "c d"))
    data = TaskData(Task(TaskKind.REGRESSION, Metric.SPEARMAN), rows, rows, rows, (), {})
    assert bag_of_words(data, seed=0) is None


@pytest.mark.parametrize("words", [("很好", "很坏"), ("ดีมาก", "แย่มาก"), ("良かった", "悪かった")])
def test_a_script_without_spaces_has_words_too(words: tuple[str, str]) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=200).tolist()
    around = [chr(0x4E00 + at) for at in generator.integers(2000, size=200)]
    told = task_data([f"{sign}{words[label]}{sign}" for sign, label in zip(around, labels, strict=True)], labels)
    half = told.train.take(range(100))
    answers = bag_of_words(told.with_splits({"train": half, "validation": half, "test": told.test.take(range(100, 200))}), seed=0)
    assert answers is not None
    assert (answers.argmax(axis=1) == labels[100:]).mean() > 0.95
