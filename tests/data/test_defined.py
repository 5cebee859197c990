"""Held-out labels on which a metric has no value: they are refused, and not reported as 0."""

from __future__ import annotations

from typing import Any

import pytest

from prunekit.data.load import load_data
from prunekit.errors import DataError
from prunekit.tasks import TaskKind

TEXTS = [f"text number {at}" for at in range(40)]
WORDS = [["Ada", "spoke"]] * 40
CASES: dict[str, tuple[str, list[Any], Any, dict[str, Any], str]] = {
    "values": (
        "label",
        [0.5, 1.5, 2.5, 3.5] * 10,
        2.5,
        {},
        r"The labels of the 3 rows of {split} are all 2\.5: nothing .*Give more rows, or leave {split} out\.",
    ),
    "classes": ("label", ["a", "b"] * 20, "b", {"metric": "matthews"}, r"The labels of the 3 rows of {split} are all 'b': "),
    "entities": ("tags", [["B-PER", "O"]] * 40, ["O", "O"], {}, r"The tags of the 3 rows of {split} have no entity, .*--metric \(accuracy"),
    "sets": ("label", [["a"], ["b"], [], ["a", "b"]] * 10, [], {}, r"The label sets of the 3 rows of {split} are all empty, "),
}


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("case", CASES)
def test_what_no_metric_is_defined_on_is_refused(case: str, split: str) -> None:
    column, labels, same, options, match = CASES[case]
    texts = {"tokens": WORDS} if column == "tags" else {"text": TEXTS}

    def rows(values: list[Any]) -> dict[str, list[Any]]:
        return {**{name: cells[: len(values)] for name, cells in texts.items()}, column: values}

    data = {"train": rows(labels), "validation": rows(labels[:4]), "test": rows(labels[:4])}
    assert load_data(data, **options)
    data[split] = rows([same] * 3)
    with pytest.raises(DataError, match=match.replace("{split}", split)):
        load_data(data, **options)
    assert load_data(data, judged=False, **options)


def test_rows_without_labels_have_no_values_yet() -> None:
    assert not load_data({"text": TEXTS}, labels=("LABEL_0",), fine_tuned=True, answers=TaskKind.REGRESSION).labelled
    assert not load_data({"text": TEXTS}, labels=("a", "b"), fine_tuned=True, answers=TaskKind.CLASSIFICATION, metric="matthews").labelled


def test_a_cut_that_holds_one_value_is_noted() -> None:
    """Cuts are drawn: of few rows, or of a rare value, one may hold nothing else."""
    found = [load_data({"text": TEXTS, "label": [0.5] * 36 + [1.5] * 4}, seed=seed) for seed in range(8)]
    noted = [any("nothing correlates with them, and any answers have the value 0" in note for note in data.notes) for data in found]
    assert noted == [min(len(set(data.validation.labels)), len(set(data.test.labels))) == 1 for data in found]
    assert any(noted)


def test_what_is_cut_from_labels_that_are_all_alike_is_refused() -> None:
    held = {"text": [f"other text {at}" for at in range(20)], "label": [2.5] * 20}
    with pytest.raises(DataError, match=r"are all 2\.5: nothing correlates with them\. Give more rows\."):
        load_data({"train": {"text": TEXTS, "label": [0.5, 1.5] * 20}, "test": held}, fine_tuned=True, labels=("LABEL_0",))


@pytest.mark.parametrize(("tags", "metric"), [(["B_PER", "O"], "entity-f1"), (["PER-B", "PER-I"], "accuracy"), (["NN", "VB"], "accuracy")])
def test_tags_of_entities_of_no_scheme_are_noted(tags: list[str], metric: str) -> None:
    found = load_data({"tokens": [["Ada", f"spoke{at}"] for at in range(40)], "tags": [tags] * 40})
    assert found.task.metric == metric
    noted = [note for note in found.notes if "PER-B, PER-I look like tags of entities and are of no scheme" in note]
    assert bool(noted) == (tags[0] == "PER-B")
