from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from prunekit.data import Rows, TaskData, load_data
from prunekit.data.files import read_source
from prunekit.errors import DataError, ParameterError
from prunekit.metrics import Metric
from prunekit.tasks import TaskKind
from tests.data.tables import LABELS, TEXTS, labels_of, splits, table, write

# --- sources


@pytest.fixture(scope="module")
def expected() -> TaskData:
    return load_data(table())


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "a[1]*.jsonl"])
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path, expected: TaskData) -> None:
    found = load_data(write(tmp_path / name, table(), sep="\t" if name.endswith("tsv") else ","))
    assert found.provenance == {**expected.provenance, "source": str(tmp_path / name)}
    assert found.test.texts == expected.test.texts


def test_memory_sources_agree(expected: TaskData) -> None:
    for source in (datasets.Dataset.from_dict(table()), datasets.DatasetDict(train=datasets.Dataset.from_dict(table()))):
        assert load_data(source).provenance["sha256"] == expected.provenance["sha256"]
    assert load_data({"train": table()}).provenance["sha256"] == expected.provenance["sha256"]


def test_a_view_of_a_dataset_is_read_as_it_is_seen() -> None:
    data = datasets.Dataset.from_dict(table()).select(range(10, 40)).with_format("numpy")
    found = load_data(data)
    assert sorted(text for rows in found.splits.values() for text in rows.texts) == sorted(TEXTS[10:])


@pytest.mark.parametrize(("validation", "test"), [("validation", "test"), ("dev", "eval"), ("valid", "testing"), ("dev-v2.0", "test")])
def test_a_directory_is_read_by_split(validation: str, test: str, tmp_path: Path) -> None:
    for name, n in (("train", 20), (validation, 6), (test, 4)):
        write(tmp_path / f"{name}.jsonl", table(n))
    (tmp_path / "README.md").write_text("not data")
    found = load_data(str(tmp_path))
    assert found.provenance["rows"] == {"train": 20, "validation": 6, "test": 4}
    assert found.notes == (
        "6 of 6 rows of validation and 4 of 4 rows of test are rows of train too (case, space and punctuation apart)",
        "4 of 4 rows of test are rows of validation too, by which choices are made (case, space and punctuation apart)",
    )
    assert found.train.texts == tuple(TEXTS[:20])


def test_shards_are_put_together_in_order(tmp_path: Path) -> None:
    write(tmp_path / "train-00001-of-00002.parquet", {"text": TEXTS[20:], "label": LABELS[20:]})
    write(tmp_path / "train-00000-of-00002.parquet", table(20))
    write(tmp_path / "validation-00000-of-00001.parquet", table(4))
    write(tmp_path / "test-00000-of-00001.parquet", table(4))
    assert load_data(tmp_path).train.texts == tuple(TEXTS)


def test_csv_cells_stay_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufefftext,label\n" + 'NA,null\n"a, b",x\nnull,null\n"two\nlines",x\n\n123,x\n' * 3, encoding="utf-8")
    found = read_source(path, config=None, trust_remote_code=False).splits["train"]
    assert Counter(found["text"]) == {"NA": 3, "a, b": 3, "null": 3, "two\nlines": 3, "123": 3}
    assert set(found["label"]) == {"null", "x"}


def test_tsv_quotes_are_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f'{i} "quote\t1\n"another {i}\t0\n' for i in range(5)))
    assert sum(load_data(path).provenance["rows"].values()) == 10


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.csv", b"", "is empty"),
    "header": ("a.csv", b"text,label\n", "is empty"),
    "short": ("a.csv", b"text,label\na,1\nb\n", "Line 3 of .* has 1 cells, its header has 2"),
    "long": ("a.csv", b"text,label\na, b,1\n", "Line 2 of .* has 3 cells, its header has 2"),
    "open quote": ("a.csv", b'text,label\n"a,1\nb,0\n', "cannot be read as CSV: unexpected end of data"),
    "twice": ("a.csv", b"text,text,label\na,b,1\n", "two columns named 'text'"),
    "quote": ("a.csv", b'text,label\na,1\n"b\n"c" d",0\n', "The row in line 3 of .* cannot be read as CSV: ',' expected"),
    "bytes": ("a.csv", b"text,label\n\xff\xfe,1\n", "cannot be read as CSV: 'utf-8' codec"),
    "cut": ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "la', "cannot be read as JSON"),
    "deep": (
        "a.jsonl",
        b'{"text": ["a"], "label": 1}\n{"text": %s, "label": 1}\n' % (b"[" * 30 + b"]" * 30),
        "more than 8 lists or objects in each",
    ),
    "deep objects": (
        "a.json",
        b'{"text": [%s1%s], "label": [1]}' % (b'{"a": ' * 30, b"}" * 30),
        "'text' holds more than 8 lists or objects",
    ),
    "no rows": ("a.json", b"[]", "cannot be read as JSON|is empty"),
    "no parquet": ("a.parquet", b"PAR1 not really", "cannot be read as PARQUET"),
    "kind": ("a.xlsx", b"x", "of no known kind: it must end in .csv"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_data(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_missing_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.csv' does not exist"):
        load_data(tmp_path / "no.csv")
    with pytest.raises(DataError, match="holds no data: it needs a train file"):
        load_data(tmp_path)
    write(tmp_path / "test.csv", table(4))
    with pytest.raises(DataError, match=r"has no train split. Found: test\."):
        load_data(tmp_path)
    write(tmp_path / "train.csv", table(4))
    write(tmp_path / "train.jsonl", table(4))
    with pytest.raises(DataError, match=r"several files, train.csv and train.jsonl"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="neither a local path nor a data set that the hub could give") as caught:
        load_data("nobody/nothing", config="x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [3, {}, [1, 2]])
def test_what_is_no_source(source: object) -> None:
    with pytest.raises(ParameterError, match="'source' parameter of load_data must be a CSV"):
        load_data(source)
    with pytest.raises(ParameterError, match=r"'config' .* hub data set only"):
        load_data(table(), config="x")
    with pytest.raises(DataError, match=r"do not make a table"):
        load_data({"text": ["a", "b"], "label": [1]})
    deep: list[object] = ["a"]
    for _ in range(30):
        deep = [deep]
    with pytest.raises(DataError, match="the column 'text' holds more than 8 lists or objects in each other"):
        load_data({"text": [["a"], deep], "label": [1, 0]})


def test_two_splits_of_one_meaning() -> None:
    with pytest.raises(DataError, match="two validation splits, 'dev' and 'valid'"):
        load_data(splits(train=9, dev=4, valid=4))


# --- columns


@pytest.mark.parametrize("text", ["text", "sentence", "Content", "review", "premise"])
@pytest.mark.parametrize("label", ["label", "labels", "target", "Category"])
def test_columns_by_convention(text: str, label: str) -> None:
    found = load_data({"idx": list(range(40)), text: TEXTS, label: LABELS})
    assert "columns not used: idx" in found.notes
    assert found.train.pairs is None
    assert set(found.train.texts) < set(TEXTS)


@pytest.mark.parametrize(
    ("first", "second"), [("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence")]
)
def test_pairs_by_convention(first: str, second: str) -> None:
    found = load_data({second: [text.upper() for text in TEXTS], first: TEXTS, "label": LABELS})
    assert found.train.pairs == tuple(text.upper() for text in found.train.texts)


def test_named_columns_are_taken_as_named() -> None:
    columns = table(body=[text[::-1] for text in TEXTS], other=LABELS[::-1])
    found = load_data(columns, text="body", label="other", text_pair="text")
    assert found.train.texts == tuple(text[::-1] for text in found.train.pairs or ())
    assert load_data(columns, text="text", label="label").train.pairs is None


def test_columns_that_cannot_be_decided() -> None:
    with pytest.raises(DataError, match=r"could be the text \(text, review\)\. Name one: --text"):
        load_data(table(review=TEXTS))
    with pytest.raises(DataError, match=r"could be the label \(label, target\)\. Name one: --label"):
        load_data(table(target=LABELS))
    with pytest.raises(DataError, match=r"No column is named as a label column.*Name one of text, y: --label"):
        load_data({"text": TEXTS, "y": LABELS})
    with pytest.raises(ParameterError, match=r"'text' .* a column of the data \(text, label\)\. Got 'nope'"):
        load_data(table(), text="nope")
    with pytest.raises(ParameterError, match="another column than"):
        load_data(table(), text="text", label="text")


def test_a_split_lacks_a_column() -> None:
    data = {**splits(train=20), "validation": {"sentence": TEXTS[:4], "label": LABELS[:4]}}
    with pytest.raises(DataError, match=r"validation split has no column 'text', which train has. It has sentence, label"):
        load_data(data)


# --- rows


@pytest.mark.parametrize("empty", ["", "  \t", None])
def test_empty_texts_are_counted_never_dropped(empty: str | None) -> None:
    texts: list[Any] = list(TEXTS)
    texts[7] = texts[30] = empty
    with pytest.raises(DataError, match=r"The column 'text' of train is empty in 2 rows, first in row 8 \(the first row is 1\)"):
        load_data({"text": texts, "label": LABELS})


def test_what_is_no_text_or_no_label() -> None:
    with pytest.raises(DataError, match="'text' of train holds no text in 40 rows"):
        load_data({"text": list(range(40)), "label": LABELS})
    with pytest.raises(DataError, match="'label' of train has no label in 1 row, first in row 1 "):
        load_data({"text": TEXTS, "label": [None, *LABELS[1:]]})
    with pytest.raises(ParameterError, match="'multi-label-classification' where the label column holds lists"):
        load_data({"text": TEXTS, "label": [[i] for i in LABELS]}, task="text-classification")
    with pytest.raises(DataError, match="not finite"):
        load_data({"text": TEXTS, "label": [float("nan"), *map(float, LABELS[1:])]})
    with pytest.raises(DataError, match="holds a dict in each row"):
        load_data({"text": TEXTS, "label": [{"a": i} for i in LABELS]})


def test_rows_can_be_taken() -> None:
    rows = Rows(labels=np.array([3, 4, 5]), texts=("a", "b", "c"), pairs=("x", "y", "z"))
    taken = rows.take(np.array([2, 0]))
    assert (taken.texts, taken.pairs, taken.labels.tolist(), len(taken)) == (("c", "a"), ("z", "x"), [5, 3], 2)  # type: ignore[union-attr]


# --- labels


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["b", "a", "C"], ("C", "a", "b")),
        (["10", "x", "9"], ("10", "9", "x")),
        ([True, False, True], ("False", "True")),
        ([2.0, 1.0, 3.0], ("1", "2", "3")),
        ([-1, 0, 1], ("-1", "0", "1")),
    ],
)
def test_classes_in_order(values: list[Any], names: tuple[str, ...]) -> None:
    column = [values[i % 3] for i in range(40)]
    found = load_data({"text": TEXTS, "label": column})
    assert found.task.kind is TaskKind.CLASSIFICATION
    assert found.task.labels == names
    assert found.train.labels.dtype == np.int64  # type: ignore[union-attr]
    by_text = dict(zip(TEXTS, column, strict=True))
    for text, label in zip(found.train.texts, labels_of(found.train), strict=True):
        value = by_text[text]
        assert names[label] == (str(int(value)) if isinstance(value, float) else str(value))


def test_declared_classes_keep_their_names_and_order() -> None:
    feature = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["z", "unused", "a"]))
    found = load_data(datasets.Dataset.from_dict({"text": TEXTS, "label": [2 * i for i in LABELS]}, features=feature))
    assert found.task.labels == ("z", "a")
    assert "labels: left out, train does not show them: unused" in found.notes


def test_values_that_are_no_integers_are_a_regression(tmp_path: Path) -> None:
    scores = [i / 4 for i in range(40)]
    for found in (load_data({"text": TEXTS, "score": scores}), load_data(write(tmp_path / "a.csv", {"text": TEXTS, "score": scores}))):
        assert (found.task.kind, found.task.metric, found.task.labels) == (TaskKind.REGRESSION, Metric.PEARSON, ())
        by_text = dict(zip(TEXTS, scores, strict=True))
        assert found.train.labels.dtype == np.float64  # type: ignore[union-attr]
        assert labels_of(found.train) == [by_text[text] for text in found.train.texts]


def test_task_and_metric_as_asked() -> None:
    found = load_data(table(), task="regression", metric="spearman")
    assert (found.task.kind, found.task.metric) == (TaskKind.REGRESSION, Metric.SPEARMAN)
    assert load_data(table(), metric="f1").task.metric is Metric.F1
    halves = {"text": TEXTS, "label": [i % 2 + 0.5 for i in range(40)]}
    assert load_data(halves, task="text-classification").task.labels == ("0.5", "1.5")
    with pytest.raises(ParameterError, match=r"'task' .* one of text-classification, regression, token-classification, .*. Got 'tagging'"):
        load_data(table(), task="tagging")
    with pytest.raises(ParameterError, match=r"'metric' .* one of accuracy, f1"):
        load_data(table(), metric="bleu")
    with pytest.raises(DataError, match=r"A regression needs numbers. The label column 'label' holds a, b"):
        load_data({"text": TEXTS, "label": ["ab"[i] for i in LABELS]}, task="regression")


def test_one_class_and_unseen_classes_stop() -> None:
    with pytest.raises(DataError, match="one value only, 1"):
        load_data({"text": TEXTS, "label": [1] * 40})
    for split in ("validation", "test"):
        data = splits(train=20, validation=4, test=4)
        data[split]["label"] = [0, 1, 7, 0]
        with pytest.raises(
            DataError,
            match=f"The label 7 of {split} .* is in no row of train: it cannot be learned. If labels are values, give --task regression.$",
        ):
            load_data(data)
    words = {"train": {"text": TEXTS, "label": LABELS}, "test": {"text": ["a", "b"], "label": ["0", "new"]}}
    with pytest.raises(DataError, match=r"The label 'new' of test .* cannot be learned\.$"):
        load_data(words)


def test_the_models_order_of_the_labels() -> None:
    named = {"text": TEXTS, "label": [("negative", "positive")[i] for i in LABELS]}
    for labels in (("positive", "neutral", "negative"), ("POSITIVE", "NEUTRAL", "NEGATIVE")):
        found = load_data(named, labels=labels)
        assert found.task.labels == labels
        assert set(labels_of(found.train)) == {0, 2}
        assert labels_of(load_data(named).train) == [(0, 9, 1)[2 - label] for label in labels_of(found.train)]
    by_id = load_data(table(), labels=("bad", "good"))
    assert by_id.task.labels == ("bad", "good")
    assert labels_of(by_id.train) == labels_of(load_data(table()).train)
    assert any("taken as the model's (bad, good)" in note for note in by_id.notes)


def test_declared_classes_fit_an_unnamed_model_by_id() -> None:
    feature = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    data = datasets.Dataset.from_dict(table(), features=feature)
    found = load_data(data, labels=("LABEL_0", "LABEL_1"))
    assert labels_of(found.train) == labels_of(load_data(table()).train)
    with pytest.raises(DataError, match="it holds no, yes, the model has bad, good"):
        load_data(data, labels=("bad", "good"))


def test_labels_that_do_not_fit_the_model() -> None:
    with pytest.raises(DataError, match="it holds a, b, the model has x, y"):
        load_data({"text": TEXTS, "label": ["ab"[i] for i in LABELS]}, labels=("x", "y"))
    with pytest.raises(DataError, match="it holds 0, 1, 2, the model has x, y"):
        load_data({"text": TEXTS, "label": [i % 3 for i in range(40)]}, labels=("x", "y"))
    with pytest.raises(DataError, match="holds values, the model has 2 classes: x, y"):
        load_data({"text": TEXTS, "label": [i / 4 for i in range(40)]}, labels=("x", "y"))
    assert load_data(table(), labels=("LABEL_0",)).task.kind is TaskKind.REGRESSION


# --- splits


# --- token tasks

WORDS = [[f"{word}{i}" for word in row] for i in range(8) for row in (["a", "b"], ["c"], ["d", "e", "f"])]
TAGS = [["X", "Y"], ["Y"], ["X", "X", "Y"]] * 8


@pytest.mark.parametrize(("tokens", "tags"), [("tokens", "ner_tags"), ("words", "upos"), ("tokens", "labels")])
def test_token_tasks_by_convention(tokens: str, tags: str) -> None:
    found = load_data({tokens: WORDS, tags: TAGS})
    assert (found.task.kind, found.task.metric, found.task.labels) == (TaskKind.TOKENS, Metric.ACCURACY, ("X", "Y"))
    assert isinstance(found.train.labels, tuple)
    for words, labels in zip(found.train.tokens, found.train.labels, strict=True):
        assert labels.dtype == np.int64
        assert ["XY"[label] for label in labels] == TAGS[WORDS.index(list(words))]


def test_a_text_column_beside_the_tokens_does_not_confuse() -> None:
    assert load_data({"text": ["x"] * 24, "tokens": WORDS, "tags": TAGS}).task.kind is TaskKind.TOKENS
    both = {"text": TEXTS[:24], "label": LABELS[:24], "tokens": WORDS, "tags": TAGS}
    assert load_data(both).task.kind is TaskKind.CLASSIFICATION
    assert load_data(both, tags="tags").task.kind is TaskKind.TOKENS
    assert load_data(both, task="token-classification", tags="tags").task.kind is TaskKind.TOKENS


def test_declared_tags_are_named() -> None:
    sequence = datasets.Sequence(datasets.ClassLabel(names=["O", "B"]))
    feature = datasets.Features(tokens=datasets.Sequence(datasets.Value("string")), ner_tags=sequence)
    data = datasets.Dataset.from_dict({"tokens": WORDS, "ner_tags": [[int(t == "Y") for t in row] for row in TAGS]}, features=feature)
    assert load_data(data).task.labels == ("O", "B")
    assert load_data(data, labels=("B", "O")).task.labels == ("B", "O")


def test_token_rows_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match=r"could be the tags \(upos, xpos, deprel\)\. Name one: --tags"):
        load_data({"tokens": WORDS, "upos": TAGS, "xpos": TAGS, "deprel": TAGS})
    with pytest.raises(DataError, match="'tags' of train has not one tag a word in 1 row, first in row 2 "):
        load_data({"tokens": WORDS, "tags": [TAGS[0], ["X", "Y"], *TAGS[2:]]})
    with pytest.raises(DataError, match="'tokens' of train is empty in 1 row, first in row 3 "):
        load_data({"tokens": [*WORDS[:2], [], *WORDS[3:]], "tags": [*TAGS[:2], [], *TAGS[3:]]})
    with pytest.raises(DataError, match="has words without a tag in 1 row, first in row 1 "):
        load_data({"tokens": WORDS, "tags": [[1, -100], *([[1] * len(row) for row in WORDS[1:]])]})
    with pytest.raises(DataError, match=r"'tokens' must hold a list in each row. It holds string"):
        load_data({"tokens": TEXTS, "tags": [[1]] * 40}, tokens="tokens", tags="tags")
    with pytest.raises(ParameterError, match=r"'tokens' .* without text"):
        load_data({"tokens": WORDS, "tags": TAGS}, tokens="tokens", label="tags")
    with pytest.raises(ParameterError, match=r"'task' .* where tokens or tags are named"):
        load_data({"tokens": WORDS, "tags": TAGS}, tags="tags", task="regression")


# --- the embedded data


def test_the_embedded_data_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_data(table())
    monkeypatch.setattr("prunekit.data.demo.load_docstrings", lambda seed: load_data(table(), seed=seed))
    assert load_data().provenance == found.provenance
    swapped = load_data(labels=("1", "0"), metric="f1")
    assert (swapped.task.labels, swapped.task.metric) == (("1", "0"), Metric.F1)
    assert labels_of(swapped.test) == [1 - label for label in labels_of(found.test)]
    with pytest.raises(ParameterError, match=r"'text' .* given with a source only"):
        load_data(text="text")
    with pytest.raises(ParameterError, match="'text-classification' for the embedded data"):
        load_data(task="regression")
    with pytest.raises(DataError, match="it holds 0, 1, the model has x"):
        load_data(labels=("x",))


def test_the_fingerprint_is_of_the_rows() -> None:
    prints = {load_data(data).provenance["sha256"] for data in (table(), table(39), {**table(), "label": [1 - i for i in LABELS]})}
    assert len(prints) == 3
    assert load_data({"sentence": TEXTS, "target": LABELS}).provenance["sha256"] in prints


def test_the_library_is_left_as_it_was() -> None:
    datasets.logging.set_verbosity_info()
    try:
        load_data(table())
        assert datasets.logging.get_verbosity() == datasets.logging.INFO
        assert not datasets.are_progress_bars_disabled()
    finally:
        datasets.logging.set_verbosity_warning()


def test_a_table_that_would_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunekit.data.files.memory", lambda: 2**20)
    wide = {f"c{at}": at for at in range(400)}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(wide), *["{}"] * 400]))
    with pytest.raises(DataError, match="makes 400 columns of 401 rows: give fewer"):
        load_data(path)
    path.write_text("\n".join(json.dumps({"text": "a b", "label": at % 2, "m": {f"k{at}": 1}}) for at in range(300)))
    with pytest.raises(DataError, match="the objects of the column 'm' have 300 different keys"):
        load_data(path)
    path.write_text(json.dumps({"text": "a " * 300_000, "label": 1}))
    with pytest.raises(DataError, match="is larger than half of the memory"):
        load_data(path)


def test_a_column_of_mixed_types_is_named() -> None:
    with pytest.raises(DataError, match=r"do not make a table: the column 'zip' mixes types .* change or leave it out"):
        load_data({"text": TEXTS, "label": LABELS, "zip": ["A1B", 12345] * 20})


def test_stored_values_are_not_decoded(tmp_path: Path) -> None:
    """A column that says it holds pictures would be opened: here a file that is not there."""
    rows = {"text": TEXTS, "label": LABELS, "more": [{"bytes": None, "path": str(tmp_path / "none.png")}] * 40}
    made = datasets.Dataset.from_dict(rows).cast_column("more", datasets.Image()) if find_spec("PIL") else datasets.Dataset.from_dict(rows)
    assert load_data(made).provenance["rows"]["train"] > 0
    with pytest.raises(DataError, match="'more'"):
        load_data(made, text="more")
