"""Data of kinds that no table of a task has: encodings, tricks of Unicode, types of Parquet, archives, and objects of Python."""

from __future__ import annotations

import functools
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.campaign.calls import Change, made
from tests.campaign.case import Case
from tests.campaign.rows import PLAIN, _both, _bytes, _features, _parquet, _rows, _table, _text

_CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in PLAIN)
_LINES = "".join(json.dumps(row) + "\n" for row in PLAIN)


def _labels(*names: object) -> Change:
    """Rows with labels of these names."""
    return _rows([{**row, "label": names[at % len(names)]} for at, row in enumerate(PLAIN)])


def _named(text: str, label: str = "label") -> Change:
    """Rows whose columns have these names."""
    return _rows([{text: row["text"], label: row["label"]} for row in PLAIN])


def _zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.jsonl", bytes(10**7))
    return made.getvalue()


def _bomb(pa: Any) -> Any:
    """A text of a megabyte, four thousand times: 4 GB in a file of a few kB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 10**6]))
    return pa.table({"text": texts, "label": pa.array([0, 1] * 2000)})


def _runs(pa: Any) -> Any:
    """A hundred million rows that are the same."""
    return pa.table({"text": pa.array(["a b"] * 10**5).dictionary_encode(), "label": pa.array([0] * 10**5)})


def _many(folder: Path) -> None:
    """Twenty million rows in row groups that say the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _runs(pa)
    with pq.ParquetWriter(folder / "train.parquet", table.schema) as writer:
        for _ in range(120):
            writer.write_table(table)


_TEXTS, _NUMBERS = [row["text"] for row in PLAIN], [row["label"] for row in PLAIN]
_LARGE = {"_type": "Array2D", "shape": [10**6, 10**6], "dtype": "int8"}
_TEXT = {"_type": "Value", "dtype": "string"}
_NAMED = {"_type": "ClassLabel", "names_file": "/etc/passwd"}


def _called(*names: str) -> Callable[[Any], Any]:
    """A table of texts and, last, labels under these names."""
    return lambda pa: pa.Table.from_arrays([pa.array(_TEXTS)] * (len(names) - 1) + [pa.array(_NUMBERS)], names=[*names])


#: {name: a directory of data}; what says the same as sixty plain rows may be taken.
FILES: dict[str, Change] = {
    "csv with a mark": _text("train.csv", "\ufeff" + _CSV),
    "csv with two marks": _text("train.csv", "\ufeff\ufeff" + _CSV),
    "csv with a NUL": _text("train.csv", _CSV.replace("dunal", "du\0nal", 1)),
    "csv of UTF-16": _text("train.csv", _CSV, "utf-16"),
    "csv of UTF-32": _text("train.csv", _CSV, "utf-32"),
    "csv of UTF-7": _text("train.csv", _CSV, "utf-7"),
    "csv of mixed lines": _text("train.csv", _CSV.replace("\n", "\r\n", 5).replace("0\n", "0\r", 5)),
    "csv of old lines": _text("train.csv", _CSV.replace("\n", "\r")),
    "csv of other lines": _text("train.csv", _CSV.replace("\n", "\u2028")),
    "csv without an end": _text("train.csv", _CSV + '"'),
    "csv with escapes": _text("train.csv", _CSV.replace("dunal", "\x1b]0;evil\x07", 1)),
    "csv of formulas": _text("train.csv", _CSV.replace("bapos", "=cmd|' /C calc'!A0", 1)),
    "csv of blank names": _text("train.csv", _CSV.replace("text,label", " , ")),
    "csv of no names": _text("train.csv", _CSV.replace("text,label", ",")),
    "csv of long quotes": _text("train.csv", "text,label\n" + '"' * 200_001 + ",0\n"),
    "csv of deep quotes": _text("train.csv", _CSV + '""""""""a"""""""",1\n'),
    "csv of tabs": _text("train.csv", _CSV.replace(",", "\t")),
    "csv of pipes": _text("train.csv", _CSV.replace(",", "|")),
    "csv of one column": _text("train.csv", _CSV.replace(",", "")),
    "tsv with CR": _text("train.tsv", _CSV.replace(",", "\t").replace("\n", "\r\n")),
    "tsv with a NUL": _text("train.tsv", _CSV.replace(",", "\t").replace("dunal", "du\0nal", 1)),
    "jsonl with a mark": _text("train.jsonl", "\ufeff" + _LINES),
    "jsonl of CRLF": _text("train.jsonl", _LINES.replace("\n", "\r\n")),
    "jsonl of RS": _text("train.jsonl", "\x1e" + _LINES.replace("\n", "\n\x1e")),
    "jsonl with a comma": _text("train.jsonl", _LINES.replace("}\n", "},\n")),
    "jsonl with a twin key": _text("train.jsonl", _LINES + '{"text": "a", "text": "b", "label": 1}\n'),
    "jsonl with an odd key": _text("train.jsonl", _LINES + '{"text": "a", "label": 1, "": 2, "\\u0000": 3}\n'),
    "jsonl with half a character in a name": _text("train.jsonl", _LINES + '{"text": "a", "label": 1, "\\udcff": 3}\n'),
    "jsonl with half a character elsewhere": _rows([{**row, "note": "\ud800"} for row in PLAIN]),
    "jsonl with NaN": _text("train.jsonl", _LINES + '{"text": "a", "label": NaN}\n'),
    "jsonl with 1e999": _text("train.jsonl", _LINES + '{"text": "a", "label": 1e999}\n'),
    "jsonl with many digits": _text("train.jsonl", _LINES + '{"text": "a", "label": ' + "9" * 400 + "}\n"),
    "jsonl with more digits": _text("train.jsonl", _LINES + '{"text": "a", "label": ' + "9" * 5000 + "}\n"),
    "jsonl with -0": _labels(-0.0, 1),
    "jsonl of mixed columns": _rows([{**row, f"c{at}": at} for at, row in enumerate(PLAIN)]),
    "jsonl of mixed types elsewhere": _rows([{**row, "note": [1, "a", None, {"b": []}][at % 4]} for at, row in enumerate(PLAIN)]),
    "jsonl of large numbers elsewhere": _rows([{**row, "note": 2**70} for row in PLAIN]),
    "json with more after": _text("train.json", json.dumps(PLAIN) + "evil"),
    "json of comments": _text("train.json", "// rows\n" + json.dumps(PLAIN)),
    "gzip": _bytes("train.jsonl", gzip.compress(_LINES.encode())),
    "gzip by name": _bytes("train.jsonl.gz", gzip.compress(_LINES.encode())),
    "a gzip bomb": _bytes("train.csv", gzip.compress(bytes(10**7))),
    "zip": _bytes("train.parquet", _zipped()),
    "zip as CSV": _bytes("train.csv", _zipped()),
    "zip as JSON": _bytes("train.json", _zipped()),
    "an arrow file": _bytes("train.parquet", b"ARROW1\0\0" + bytes(100)),
    "patterns": _both(_text("train-[0]-*.jsonl", _LINES), _text("train.jsonl", _LINES)),
    "shards to infinity": _text("train-99999999999-of-00001.jsonl", _LINES),
    "a name of capitals": _text("TRAIN.JSONL", _LINES),
    "a hidden file": _text(".train.jsonl", _LINES),
    "labels that look alike": _labels("a", "\u0430"),
    "labels of two forms": _labels("\u00e9", "e\u0301"),
    "labels of no width": _labels("a", "a\u200b"),
    "labels that turn": _labels("\u202eevil", "b"),
    "labels of case": _labels("A", "a"),
    "labels with blanks": _labels(" a", "a "),
    "labels of escapes": _labels("\x1b[31ma", "b\x9b2J"),
    "labels of lines": _labels("a\n# b", "---\nevil: 1"),
    "labels of markup": _labels("<script>alert(1)</script>", "[x](javascript:alert(1))"),
    "labels of paths": _labels("../../x", "/etc/passwd"),
    "labels of words of YAML": _labels("null", "true"),
    "labels of numbers as text": _labels("0", "00"),
    "labels of numbers and text": _labels(0, "1"),
    "labels of switches": _labels(True, False),
    "labels of NUL": _labels("a\0", "b\0"),
    "labels of halves": _labels("\ud83d", "\ude00"),
    "labels of faces": _labels("\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
    "labels of templates": _labels("{{ 7 * 7 }}", "{% raw %}"),
    "labels of formats": _labels("{0.__class__}", "%s%n"),
    "a label of blanks": _labels("   ", "b"),
    "labels of private use": _labels("\ue000", "\U0010ffff"),
    "columns that turn": _named("\u202etext"),
    "columns of no width": _named("te\u200bxt"),
    "columns of capitals": _named("TEXT", "Label"),
    "columns that are alike": _rows([{**row, "Text": "evil"} for row in PLAIN]),
    "columns of blanks": _named(" text ", " label "),
    "columns of escapes": _named("\x1b[31mtext"),
    "columns of 100,000 characters": _named("t" * 100_000),
    "texts of joiners": _rows([{**row, "text": "\u200b\u2060\ufeff"} for row in PLAIN]),
    "texts of marks": _rows([{**row, "text": "a" + "\u0301" * 5000} for row in PLAIN]),
    "texts of one word": _rows([{**row, "text": "a" * 5000} for row in PLAIN]),
    "texts of special tokens": _rows([{**row, "text": "[CLS] [SEP] [PAD] [MASK]"} for row in PLAIN]),
    "texts of padding": _rows([{**row, "text": "[PAD]"} for row in PLAIN]),
    "texts that are the same": _rows([{**row, "text": "bapos"} for row in PLAIN]),
    "texts of controls": _rows([{**row, "text": "a\x00b\x1b\x7f\x9b"} for row in PLAIN]),
    "parquet of nothing": _parquet(lambda pa: pa.table({})),
    "parquet of no rows": _parquet(lambda pa: _table()(pa).slice(0, 0)),
    "parquet of null": _parquet(_table(label=lambda pa: pa.nulls(60))),
    "parquet of large text": _parquet(_table(text=lambda pa: pa.array([row["text"] for row in PLAIN], pa.large_string()))),
    "parquet of views": _parquet(_table(text=lambda pa: pa.array([row["text"] for row in PLAIN], pa.string_view()))),
    "parquet of dictionaries": _parquet(_table(text=lambda pa: pa.array([row["text"] for row in PLAIN]).dictionary_encode())),
    "parquet of dictionaries as labels": _parquet(_table(label=lambda pa: pa.array(["a", "b"] * 30).dictionary_encode())),
    "parquet of halves": _parquet(_table(label=lambda pa: pa.array([0.0, 1.0] * 30, pa.float16()))),
    "parquet of switches": _parquet(_table(label=[True, False] * 30)),
    "parquet of unsigned": _parquet(_table(label=lambda pa: pa.array([2**64 - 1, 0] * 30, pa.uint64()))),
    "parquet of durations": _parquet(_table(label=lambda pa: pa.array([0, 1] * 30, pa.duration("ns")))),
    "parquet of times": _parquet(_table(label=lambda pa: pa.array([0, 1] * 30, pa.time64("ns")))),
    "parquet of days": _parquet(_table(text=lambda pa: pa.array([0, 1] * 30, pa.date32()))),
    "parquet of late days": _parquet(_table(label=lambda pa: pa.array([2**62, -(2**62)] * 30, pa.timestamp("us")))),
    "parquet of decimals as labels": _parquet(_table(label=lambda pa: pa.array([0, 1] * 30, pa.decimal128(38, 10)))),
    "parquet of large decimals": _parquet(_table(label=lambda pa: pa.array([0, 1] * 30, pa.decimal256(70, 10)))),
    "parquet of maps": _parquet(_table(label=lambda pa: pa.array([[("a", 1)]] * 60, pa.map_(pa.string(), pa.int64())))),
    "parquet of maps elsewhere": _parquet(_table(note=lambda pa: pa.array([[("a", 1)]] * 60, pa.map_(pa.string(), pa.int64())))),
    "parquet of fixed lists": _parquet(_table(label=lambda pa: pa.array([[0, 1]] * 60, pa.list_(pa.int64(), 2)))),
    "parquet of structs as labels": _parquet(_table(label=[{"a": 1}] * 60)),
    "parquet of deep lists": _parquet(_table(note=[[[[[[[[[[[1]]]]]]]]]]] * 60)),
    "parquet of bytes as labels": _parquet(_table(label=[b"a", b"b"] * 30)),
    "parquet of twins": _parquet(_called("text", "text", "label")),
    "parquet of no name": _parquet(_called("", "label")),
    "parquet of a NUL name": _parquet(_called("te\0xt", "label")),
    "parquet of 2,000 columns": _parquet(_table(**{f"c{at}": [0] * 60 for at in range(2000)})),
    "parquet of long metadata": _parquet(lambda pa: _table()(pa).replace_schema_metadata({"pandas": "[" * 10**6})),
    "parquet that says nonsense": _parquet(_features("[" * 10**5)),
    "parquet that says a list": _parquet(_features("[]")),
    "parquet that says code": _parquet(_features({"text": _TEXT, "label": {"_type": "__import__('os')"}})),
    "parquet that says other columns": _parquet(_features({"evil": _TEXT})),
    "parquet that says a class of numbers": _parquet(_features({"text": _TEXT, "label": {"_type": "ClassLabel", "num_classes": 10**9}})),
    "parquet that says names of a file": _parquet(_features({"text": _TEXT, "label": _NAMED})),
    "parquet that says an array": _parquet(_features({"text": _TEXT, "label": _LARGE})),
    "parquet of 4 GB": _parquet(_bomb),
    "parquet of twelve million rows": _many,
    "parquet with a header cut": _parquet(_table(), lambda data: b"PARX" + data[4:]),
    "parquet with other pages": _parquet(_table(), lambda data: data[:4] + bytes(200) + data[204:]),
    "parquet that is encrypted": _parquet(_table(), lambda data: data[:-4] + b"PARE"),
}  # fmt: skip


def _frame(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def found() -> Any:
        import pandas as pd

        return make(pd)

    return found


def _set(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def found() -> Any:
        import datasets

        return make(datasets)

    return found


class _Raising:
    """Nothing about it can be asked."""

    def __len__(self) -> int:
        raise OSError("evil\nline")

    def __iter__(self) -> Iterator[Any]:
        raise SystemError("evil\nline")

    def __repr__(self) -> str:
        raise ValueError("evil")

    __str__ = __repr__


class _Text(str):
    """A text that says another text."""

    def __str__(self) -> str:
        return "evil" * 10**6

    __repr__ = __str__


def _circle() -> Any:
    rows: list[Any] = ["a"]
    rows.append(rows)
    return {"text": rows * 30, "label": _NUMBERS}


def _array(change: Callable[[Any], Any]) -> Callable[[], Any]:
    def found() -> Any:
        import numpy as np

        return change(np)

    return found


def _plain(datasets: Any) -> Any:
    """Sixty good rows as a set, and no bars where it is changed."""
    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict({"text": _TEXTS, "label": _NUMBERS})


def _hostile_transform(datasets: Any) -> Any:
    made = _plain(datasets)

    def evil(rows: Any) -> Any:
        raise KeyError("evil\nline")

    made.set_transform(evil)
    return made


#: Data in memory: what cannot be read as rows is refused, what can is taken.
MEMORY: dict[str, Callable[[], Any]] = {
    "a generator": lambda: ({"text": "a", "label": 1} for _ in range(60)),
    "a list of rows": lambda: list(PLAIN),
    "a list of texts": lambda: list(_TEXTS),
    "a zip": lambda: zip(_TEXTS, _NUMBERS, strict=True),
    "a set": lambda: {1, 2},
    "bytes": lambda: b"rows",
    "a path of bytes": lambda: b"/srv/rows",
    "a function": lambda: lambda: PLAIN,
    "a module": lambda: json,
    "a class": lambda: dict,
    "an object": lambda: _Raising(),
    "a column of texts that lie": lambda: {"text": [_Text(text) for text in _TEXTS], "label": _NUMBERS},
    "a column in itself": _circle,
    "a column of objects": lambda: {"text": [object()] * 60, "label": _NUMBERS},
    "columns of numbers as names": lambda: {1: _TEXTS, 2: _NUMBERS},
    "columns of None as names": lambda: {None: _TEXTS, "label": _NUMBERS},
    "columns of unequal lengths": lambda: {"text": _TEXTS, "label": [0, 1]},
    "columns of nothing": lambda: {"text": [], "label": []},
    "a dict of numbers": lambda: {"text": 5, "label": 6},
    "splits that are empty": lambda: {"train": {"text": [], "label": []}},
    "splits of one name": lambda: {"validation": {"text": _TEXTS, "label": _NUMBERS}, "dev": {"text": _TEXTS, "label": _NUMBERS}},
    "splits of generators": lambda: {"train": (row for row in PLAIN)},
    "splits of paths": lambda: {"train": "/etc/passwd"},
    "splits of None": lambda: {"train": None},
    "a pair of texts": lambda: ("a", "b"),
    "a pair of unequal lists": lambda: (_TEXTS, [0]),
    "a pair of lists of lists": lambda: ([["a"]] * 60, [[[0]]] * 60),
    "a triple": lambda: (_TEXTS, _TEXTS, _NUMBERS),
    "labels of huge numbers": lambda: {"text": _TEXTS, "label": [10**400, 0] * 30},
    "labels of complex numbers": lambda: {"text": _TEXTS, "label": [1j, 0] * 30},
    "labels of mixed kinds": lambda: {"text": _TEXTS, "label": [0, "1", None, 2.5] * 15},
    "labels of NaN": lambda: {"text": _TEXTS, "label": [float("nan"), 0.5] * 30},
    "labels of bytes": lambda: {"text": _TEXTS, "label": [b"a", b"b"] * 30},
    "labels of sets": lambda: {"text": _TEXTS, "label": [{1}, {2}] * 30},
    "labels of arrays": _array(lambda np: {"text": _TEXTS, "label": np.array(_NUMBERS)}),
    "labels of an array of objects": _array(lambda np: {"text": _TEXTS, "label": np.array([object()] * 60, dtype=object)}),
    "labels of a matrix": _array(lambda np: {"text": _TEXTS, "label": np.zeros((60, 2))}),
    "labels of a number": _array(lambda np: {"text": _TEXTS, "label": np.array(5)}),
    "labels of dates": _array(lambda np: {"text": _TEXTS, "label": np.array(["2001-01-01", "NaT"] * 30, dtype="datetime64[D]")}),
    "labels of records": _array(lambda np: {"text": _TEXTS, "label": np.zeros(60, dtype=[("a", int), ("b", float)])}),
    "labels of numpy's switches": _array(lambda np: {"text": _TEXTS, "label": np.array([True, False] * 30)}),
    "texts of numpy": _array(lambda np: {"text": np.array(_TEXTS), "label": np.array(_NUMBERS, dtype=np.uint8)}),
    "texts of numpy's bytes": _array(lambda np: {"text": np.array(_TEXTS, dtype="S"), "label": _NUMBERS}),
    "texts of half characters": lambda: {"text": ["\ud800"] * 60, "label": _NUMBERS},
    "an array": _array(lambda np: np.zeros((60, 2))),
    "an array of records": _array(lambda np: np.array([("a", 1)] * 60, dtype=[("text", "U1"), ("label", int)])),
    "a frame": _frame(lambda pd: pd.DataFrame(PLAIN)),
    "a frame of twins": _frame(lambda pd: pd.DataFrame([["a", "b", 1]] * 60, columns=["text", "text", "label"])),
    "a frame of levels": _frame(
        lambda pd: pd.DataFrame([["a", 1]] * 60, columns=pd.MultiIndex.from_tuples([("x", "text"), ("x", "label")]))
    ),
    "a frame of index levels": _frame(lambda pd: pd.DataFrame(PLAIN, index=pd.MultiIndex.from_product([range(6), range(10)]))),
    "a frame of categories": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": pd.Categorical(["a", "b"] * 30)})),
    "a frame of NA": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": pd.array([0, 1, None] * 20, dtype="Int64")})),
    "a frame of NA texts": _frame(lambda pd: pd.DataFrame({"text": pd.array(["a", None] * 30, dtype="string"), "label": _NUMBERS})),
    "a frame of whole numbers": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": pd.array(_NUMBERS, dtype="Int64")})),
    "a frame of dates": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": pd.date_range("2001-01-01", periods=60)})),
    "a frame of periods": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": pd.period_range("2001-01", periods=60, freq="M")})),
    "a frame of intervals": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": pd.interval_range(0, 60)})),
    "a frame of sparse numbers": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": pd.arrays.SparseArray(_NUMBERS)})),
    "a frame of objects": _frame(lambda pd: pd.DataFrame({"text": [object()] * 60, "label": _NUMBERS})),
    "a frame of nothing": _frame(lambda pd: pd.DataFrame()),
    "a frame of number names": _frame(lambda pd: pd.DataFrame([["a", 1]] * 60)),
    "a series": _frame(lambda pd: pd.Series(_TEXTS)),
    "a grouped frame": _frame(lambda pd: pd.DataFrame(PLAIN).groupby("label")),
    "a set of classes out of range": _set(
        lambda datasets: _plain(datasets).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    ),
    "a set that has no rows": _set(lambda datasets: datasets.Dataset.from_dict({"text": [], "label": []})),
    "a set of tensors": _set(lambda datasets: _plain(datasets).with_format("torch")),
    "a set of other columns": _set(lambda datasets: _plain(datasets).with_format("numpy", columns=["label"])),
    "a set that raises": _set(_hostile_transform),
    "a set of sets": _set(lambda datasets: datasets.DatasetDict({"train": datasets.DatasetDict({"train": _plain(datasets)})})),
    "a dict of sets without train": _set(lambda datasets: datasets.DatasetDict({"evil": datasets.Dataset.from_dict({"text": ["a"]})})),
    "a stream": _set(lambda datasets: _plain(datasets).to_iterable_dataset()),
    "a set of pictures": _set(lambda datasets: _plain(datasets).cast_column("text", datasets.Image())),
    "a set of large texts": _set(
        lambda datasets: _plain(datasets).cast_column("text", datasets.Value("large_string"))
    ),
    "a set of texts as labels": _set(
        lambda datasets: _plain(datasets).cast_column("label", datasets.Value("string"))
    ),
}  # fmt: skip


def _of_memory(make: Callable[[], Any], places: dict[str, str]) -> object:
    import prunekit

    out = f"{places['here']}/out"
    return prunekit.analyze(places["sequence"], make(), rows=40, out=out, analyzers=["neurons"], progress=False)


def table_cases() -> Iterator[Case]:
    """Every table, given to `analyze`, which reads all of it, and to a dry run of `compress`."""
    quiet = ("-o", "{here}/out", "--quiet")
    for name, change in FILES.items():
        words = ("analyze", "{sequence}", "--data", "{copy}", "--rows", "40", "--analyzers", "neurons", *quiet)
        yield made(f"table analyze {name}", words, "", change, may=True)
        words = ("compress", "{base}", "--data", "{copy}", "--keep", "40% neurons", "--dry-run", *quiet)
        yield made(f"table compress {name}", words, "", change, may=True)
    for name, make in MEMORY.items():
        yield Case(f"memory analyze {name}", call=functools.partial(_of_memory, make), may=True)
