"""Data that are not what they say: tables of rows, of questions, of label sets, and what is searched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.campaign.calls import Change, made
from tests.campaign.case import Case

Rows = list[dict[str, Any]]
#: Sixty rows that a classifier takes.
_DEEP = 200_000
_WORDS = ("banal", "rerik", "mopos", "dupos", "renal", "monal", "barik", "durik")
PLAIN: Rows = [{"text": f"bapos {_WORDS[at % 8]} {_WORDS[at // 8]} dunal", "label": at % 2} for at in range(60)]
_LINES = "".join(json.dumps(row) + "\n" for row in PLAIN)


def _text(name: str, content: str, encoding: str = "utf-8") -> Change:
    return _bytes(name, content.encode(encoding, "surrogatepass" if encoding == "utf-8" else "strict"))


def _bytes(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content) and None


def _rows(rows: Any, name: str = "train.jsonl") -> Change:
    return _text(name, "".join(json.dumps(row) + "\n" for row in rows))


def _with(at: int, **changes: Any) -> Change:
    """Sixty good rows, of which one says something else; what is `...` is left out."""
    row = {name: value for name, value in {**PLAIN[at], **changes}.items() if value is not ...}
    return _rows([*PLAIN[:at], row, *PLAIN[at + 1 :]])


def _every(**changes: Any) -> Change:
    return _rows([{**row, **changes} for row in PLAIN])


def _both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes] and None


def _linked(target: str) -> Change:
    return lambda folder: (folder / "train.jsonl").symlink_to(target)


def _parquet(make: Callable[[Any], Any], change: Callable[[bytes], bytes] = bytes) -> Change:
    def write(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / "train.parquet"
        pq.write_table(make(pa), path)
        path.write_bytes(change(path.read_bytes()))

    return write


def _table(**columns: Any) -> Callable[[Any], Any]:
    plain = {"text": [row["text"] for row in PLAIN], "label": [row["label"] for row in PLAIN]}
    return lambda pa: pa.table({name: values(pa) if callable(values) else values for name, values in {**plain, **columns}.items()})


def _features(features: Any) -> Callable[[Any], Any]:
    """A table that says what `datasets` should make of it."""
    said = json.dumps({"info": {"features": features}}) if not isinstance(features, str) else features
    return lambda pa: _table()(pa).replace_schema_metadata({"huggingface": said})


TABLES: dict[str, Change] = {
    "nothing": lambda folder: None,
    "an empty file": _bytes("train.jsonl", b""),
    "zeros": _bytes("train.jsonl", bytes(4096)),
    "blank lines": _text("train.jsonl", "\n \n"),
    "latin-1": _text("train.jsonl", _LINES + '{"text": "\u00e9", "label": 1}\n', "latin-1"),
    "utf-16": _text("train.jsonl", _LINES, "utf-16"),
    "half a character": _text("train.jsonl", _LINES + '{"text": "\\ud800", "label": 1}\n'),
    "a broken line": _text("train.jsonl", _LINES + "{"),
    "a line that is a list": _text("train.jsonl", _LINES + "[1]\n"),
    "a deep line": _text("train.jsonl", _LINES + "[" * _DEEP + "]" * _DEEP),
    "a deep cell": _text("train.jsonl", _LINES + '{"text": ' + "[" * 900 + "]" * 900 + ', "label": 1}'),
    **{
        f"json {name}": _text("train.json", text)
        for name, text in {
            "null": "null",
            "number": "5",
            "text": '"x"',
            "empty list": "[]",
            "empty object": "{}",
            "list of numbers": "[1, 2]",
            "list of lists": "[[1]]",
            "unequal lists": '{"text": ["a", "b"], "label": [1]}',
            "deep": "[" * _DEEP + "]" * _DEEP,
            "open": "[" * _DEEP,
            "objects": '{"a":' * _DEEP,
            "digits": '[{"text": "a", "label": ' + "9" * 5000 + "}]",
            "cut": _LINES[:-5],
        }.items()
    },
    "many columns": _rows([{**PLAIN[0], **{f"c{at}": 1 for at in range(1001)}}]),
    "a linked loop": _linked("train.jsonl"),
    "a dangling link": _linked("nowhere"),
    "a device": _linked("/dev/zero"),
    "a directory": lambda folder: (folder / "train.jsonl").mkdir(),
    "two files of one split": _both(_rows(PLAIN), _rows(PLAIN, "train.json")),
    "no label": _every(label=None),
    "one label": _every(label=1),
    "text a number": _with(5, text=5),
    "text null": _with(5, text=None),
    "text blank": _with(5, text=" \n"),
    "text a list": _with(5, text=["a"]),
    "text long": _with(5, text="x" * 1_000_001),
    "text left out": _with(5, text=...),
    "label null": _with(5, label=None),
    "label a list": _with(5, label=[1]),
    "label an object": _with(5, label={"a": 1}),
    "label 1e308": _with(5, label=1e308),
    "label NaN": _with(5, label=float("nan")),
    "label infinite": _with(5, label=float("inf")),
    "label huge": _with(5, label=10**30),
    "label true": _with(5, label=True),
    "label text": _with(5, label="x"),
    "label of 257 characters": _rows([{**row, "label": "ab"[row["label"]] * 257} for row in PLAIN]),
    "1,501 labels": _rows([{**PLAIN[0], "label": f"c{at}"} for at in range(1501)] * 2),
    "labels of no model": _rows([{**row, "label": at % 3} for at, row in enumerate(PLAIN)]),
    "labels of other names": _rows([{**row, "label": "xy"[at % 2]} for at, row in enumerate(PLAIN)]),
    "csv empty": _text("train.csv", ""),
    "csv header": _text("train.csv", "text,label\n"),
    "csv twins": _text("train.csv", "text,label,label\na,0,0\n"),
    "csv widths": _text("train.csv", "text,label\na,0\nb\n"),
    "csv quote": _text("train.csv", 'text,label\n"a,0\n' + "b,1\n" * 60),
    "csv cell": _text("train.csv", "text,label\n" + "x" * 131_073 + ",0\n"),
    "csv columns": _text("train.csv", ",".join(f"c{at}" for at in range(100_000)) + "\n"),
    "csv header of one line": _text("train.csv", "x" * 2_000_000),
    "csv of zeros": _bytes("train.csv", b"text,label\n" + bytes(4096)),
    "csv latin-1": _text("train.csv", "text,label\n\u00e9,1\n", "latin-1"),
    "csv of bytes": _bytes("train.csv", bytes(range(256)) * 16),
    "tsv widths": _text("train.tsv", "text\tlabel\na\t0\t1\n"),
    "tsv quote": _text("train.tsv", 'text\tlabel\n"a\tb"\t0\n'),
    "pickle": _bytes("train.pkl", b"\x80\x04N."),
    "parquet empty": _bytes("train.parquet", b""),
    "parquet zeros": _bytes("train.parquet", bytes(4096)),
    "parquet cut": _parquet(_table(), lambda data: data[: len(data) // 2]),
    "parquet turned": _parquet(_table(), lambda data: data[::-1]),
    "parquet footer": _parquet(_table(), lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1"),
    "parquet bytes": _parquet(_table(text=[b"\xff\xfe"] * 60)),
    "parquet structs": _parquet(_table(text=[{"a": "b"}] * 60)),
    "parquet lists": _parquet(_table(label=[[[1]]] * 60)),
    "parquet dates": _parquet(_table(label=lambda pa: pa.array([0, 1] * 30, pa.timestamp("s")))),
    "parquet decimals": _parquet(_table(text=lambda pa: pa.array([1] * 60, pa.decimal128(5, 0)))),
    "parquet bad text": _parquet(_table(text=lambda pa: _bad(pa))),
    **{
        f"parquet says {name}": _parquet(_features(features))
        for name, features in {
            "a class out of range": {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["a"], "_type": "ClassLabel"}},
            "another type": {"text": {"_type": "Evil"}, "label": {"_type": "Evil"}},
            "a picture": {"text": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}},
            "a sound": {"text": {"_type": "Audio"}, "label": {"dtype": "int64", "_type": "Value"}},
            "an object": {"text": {"_type": "Value", "dtype": "os.system"}, "label": {"dtype": "int64", "_type": "Value"}},
        }.items()
    },
}


#: What concerns labels, or says of a column of texts what it should be: a benchmark reads the texts and needs no more.
_TEXTS_ALONE = {"labels of no model", "labels of other names", "parquet says a picture", "parquet says a sound"}


def _bad(pa: Any) -> Any:
    """Strings that are not UTF-8, as Arrow does not check."""
    offsets, data = pa.py_buffer(b"".join((2 * at).to_bytes(4, "little") for at in range(61))), pa.py_buffer(b"\xff\xfe" * 60)
    return pa.Array.from_buffers(pa.string(), 60, [None, offsets, data])


CONTEXT = "bapos dunal morik retef " * 20
#: Sixty questions, each on a context of its own.
ASKED: Rows = [
    {"question": "bapos dunal", "context": f"{CONTEXT}{at}", "answers": {"text": ["dunal"], "answer_start": [6]}} for at in range(60)
]


def _asked(at: int, **changes: Any) -> Change:
    row = {name: value for name, value in {**ASKED[at], **changes}.items() if value is not ...}
    return _rows([*ASKED[:at], row, *ASKED[at + 1 :]])


def _answer(text: Any, start: Any) -> Change:
    return _asked(5, answers={"text": text, "answer_start": start})


QUESTIONS: dict[str, Change] = {
    "no questions": _rows(PLAIN),
    "no answers": _rows([{**row, "answers": {"text": [], "answer_start": []}} for row in ASKED]),
    "answers left out": _rows([{name: row[name] for name in ("question", "context")} for row in ASKED[:1]] + ASKED[1:]),
    "answers a text": _asked(5, answers="dunal"),
    "answers a list": _asked(5, answers=["dunal"]),
    "answers a number": _asked(5, answers=5),
    "no starts": _asked(5, answers={"text": ["dunal"]}),
    "more texts than starts": _answer(["dunal", "dunal"], [6]),
    "1,001 answers": _answer(["dunal"] * 1001, [6] * 1001),
    "start of another place": _answer(["dunal"], [7]),
    "start below 0": _answer(["dunal"], [-18]),
    "start beyond": _answer(["dunal"], [10**6]),
    "start huge": _answer(["dunal"], [10**30]),
    "start a text": _answer(["dunal"], ["6"]),
    "start 6.5": _answer(["dunal"], [6.5]),
    "start null": _answer(["dunal"], [None]),
    "start a list": _answer(["dunal"], [[6]]),
    "text empty": _answer([""], [6]),
    "text null": _answer([None], [6]),
    "text a number": _answer([5], [6]),
    "context null": _asked(5, context=None),
    "context empty": _asked(5, context=" "),
    "context a list": _asked(5, context=["a"]),
    "context long": _asked(5, context="x" * 1_000_001),
    "question null": _asked(5, question=None),
    "question empty": _asked(5, question=""),
    "question longer than a window": _asked(5, question="bapos " * 500),
    "nested without parts": _text("train.json", json.dumps({"data": [{"paragraphs": [{"context": "a"}]}]})),
    "nested and empty": _text("train.json", '{"data": []}'),
    "nested numbers": _text("train.json", '{"data": [1]}'),
    "nested answers": _text(
        "train.json", json.dumps({"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "answers": 5}]}]}]})
    ),
}


def _set(at: int, labels: Any) -> Change:
    return _rows([{"text": row["text"], "labels": labels if each == at else ["a", "b"][: each % 3]} for each, row in enumerate(PLAIN)])


SETS: dict[str, Change] = {
    "labels twice": _set(5, ["a", "a"]),
    "label null": _set(5, [None]),
    "label empty": _set(5, [""]),
    "labels null": _set(5, None),
    "labels a text": _set(5, "a"),
    "labels nested": _set(5, [["a"]]),
    "labels objects": _set(5, [{"a": 1}]),
    "labels mixed": _set(5, ["a", 1, None]),
    "label of 257 characters": _set(5, ["x" * 257]),
    "1,501 labels": _set(5, [f"c{at}" for at in range(1501)]),
    "no labels at all": _rows([{"text": row["text"], "labels": []} for row in PLAIN]),
}

#: What is searched.
FOUND: dict[str, Rows] = {
    "corpus": [{"_id": str(at), "title": "t", "text": row["text"]} for at, row in enumerate(PLAIN)],
    "queries": [{"_id": f"q{at}", "text": row["text"]} for at, row in enumerate(PLAIN[:12])],
    "qrels": [{"query-id": f"q{at}", "corpus-id": str(at), "score": 1} for at in range(12)],
}


def _search(name: str, rows: Rows | Change | None) -> Change:
    """What is searched, of which one file is another, or left out."""

    def write(folder: Path) -> None:
        for each, plain in FOUND.items():
            if each != name:
                _rows(plain, f"{each}.jsonl")(folder)
        if callable(rows):
            rows(folder)
        elif rows is not None:
            _rows(rows, f"{name}.jsonl")(folder)

    return write


def _first(name: str, **changes: Any) -> Change:
    row = {field: value for field, value in {**FOUND[name][0], **changes}.items() if value is not ...}
    return _search(name, [row, *FOUND[name][1:]])


SEARCHES: dict[str, Change] = {
    **{f"no {name}": _search(name, None) for name in FOUND},
    **{f"{name} empty": _search(name, _bytes(f"{name}.jsonl", b"")) for name in FOUND},
    **{f"{name} zeros": _search(name, _bytes(f"{name}.jsonl", bytes(100))) for name in FOUND},
    **{f"{name} a list": _search(name, _text(f"{name}.jsonl", "[1]\n")) for name in FOUND},
    **{f"{name} deep": _search(name, _text(f"{name}.jsonl", "[" * _DEEP)) for name in FOUND},
    **{f"{name} other columns": _search(name, [{"a": 1}]) for name in FOUND},
    **{f"{name} a directory": _search(name, lambda folder, name=name: (folder / f"{name}.jsonl").mkdir()) for name in FOUND},  # type: ignore[misc]
    **{f"{name} a pickle": _search(name, _bytes(f"{name}.pkl", b"\x80\x04N.")) for name in FOUND},
    "two of corpus": _both(_search("", []), _rows(FOUND["corpus"], "corpus.json")),
    "document twice": _first("corpus", _id="1"),
    "document a number": _first("corpus", text=5),
    "document a list": _first("corpus", text=["a"]),
    "title a list": _first("corpus", title=["a"]),
    "query twice": _first("queries", _id="q1"),
    "query empty": _first("queries", text=""),
    "query null": _first("queries", text=None),
    "query a list": _first("queries", text=["a"]),
    "judgement of no query": _first("qrels", **{"query-id": "evil"}),
    "judgement of no document": _first("qrels", **{"corpus-id": "\x1b[31m"}),
    "judgement null": _first("qrels", **{"corpus-id": None}),
    "judgement a list": _first("qrels", **{"query-id": ["q0"]}),
    **{
        f"grade {value!a}": _first("qrels", score=value)
        for value in (-1, 101, 1e308, float("nan"), float("inf"), "x", "1_0x", [1], {"a": 1}, None, 10**30)
    },
    "nothing relevant": _search("qrels", [{**row, "score": 0} for row in FOUND["qrels"]]),
    "judged twice": _search("qrels", [*FOUND["qrels"], {**FOUND["qrels"][0], "score": 2}]),
}


def row_cases() -> Iterator[Case]:
    """Every table, given to what reads it."""
    out = ("-o", "{here}/out", "--quiet")
    short = ("--recover", "none", "--dtype", "fp32", "--keep", "60% params")
    for name, change in TABLES.items():
        yield made(f"rows compress {name}", ("compress", "{sequence}", "--data", "{copy}", *short, *out), "", change)
        yield made(f"rows analyze {name}", ("analyze", "{sequence}", "--data", "{copy}", "--rows", "40", *out), "", change)
        yield made(f"rows export {name}", ("export", "{sequence}", "--data", "{copy}", "--dtype", "int8", *out), "", change)
        timed = ("bench", "{exported}", "--data", "{copy}", "--time-budget", "0.001")
        yield made(f"rows bench {name}", timed, "", change, may=name in _TEXTS_ALONE)
    for name, change in QUESTIONS.items():
        asked = ("compress", "{questions}", "--data", "{copy}", "--task", "question-answering", "--max-length", "48")
        yield made(f"questions compress {name}", (*asked, *short, *out), "", change)
    for name, change in SETS.items():
        asked = ("compress", "{base}", "--data", "{copy}", "--task", "multi-label-classification", "--keep", "40% neurons")
        yield made(f"sets compress {name}", (*asked, *out), "", change)
    for name, change in SEARCHES.items():
        asked = ("compress", "{embedder}", "--data", "{rows}", "--task", "embedding", "--retrieval", "{copy}")
        yield made(f"search compress {name}", (*asked, *short, *out), "", change)
