"""Values that are nearly right: a right one, in which a few places hold something else."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

_ODD_TEXT = st.sampled_from(
    [
        "", " ", "0-", "0-99999999999", "-1", "1_0", "\uff11", "0.9", "null", "evil", "\x1b[31m",
        "a\nb", "\x00", "9" * 5000, "\ud800", "10%",
        "no", "yes", "2001-99-99", "1:30",
        "~", "0-3", "0,2", "../..", "x" * 1000, "{}", "[]", "NaN", "'", '"', "&a", "*a", "<<", "!!int abc",
    ]
)  # fmt: skip
_ODD_NUMBERS = st.sampled_from([0, -1, 1, 0.9, 1.0, 10**6, 10**30, -(10**30), 2**31, 2**32, 2**63, 1e308, float("inf"), float("nan")])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), _ODD_NUMBERS, st.floats(), _ODD_TEXT, st.text(max_size=20))
#: Anything that JSON can say.
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(_ODD_TEXT, st.text(max_size=8)), inner, max_size=4)),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            found += places(item, (*path, at))
    return found


@st.composite
def changed(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """A value with up to `most` places replaced, removed, or added to."""
    made = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, most))):
        paths = places(made)
        if not paths:
            return draw(ANYTHING)
        *way, last = draw(st.sampled_from(paths))
        holder = made
        for step in way:
            holder = holder[step]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "remove":
            del holder[last]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(st.one_of(_ODD_TEXT, st.sampled_from(list(holder) or ["x"])))] = draw(ANYTHING)
        else:
            holder[last] = draw(ANYTHING)
    return made


PLAN: dict[str, Any] = {
    "version": 1,
    "source": {"model_type": "bert", "layers": 4, "hidden": 8, "heads": 2, "ffn": 16, "vocabulary": 30},
    "layers": "0-1,3",
    "heads": {"0": "1", "1": ""},
    "ffn": {"0": "0-2,9", "3": ""},
    "hidden": "0,2-4,7",
    "vocabulary": "0-9",
    "readout": {"pooling": "cls", "neurons": {"0": "1-2", "2": "0,7"}},
    "provenance": {"seed": 0, "data": [1, 2.5, None]},
}
RECIPE: dict[str, Any] = {
    "version": 1,
    "model": "model",
    "data": "rows.csv",
    "text": "text",
    "label": "label",
    "keep": ["10%", "8 MB"],
    "layers": "0-2",
    "drop": ["ffn:3"],
    "affine": True,
    "speedup": "3x",
    "max_drop": "1.5%",
    "recover": "10min",
    "freeze": "layers:0-1",
    "threshold": 0.5,
    "max_length": 64,
    "seed": 7,
    "threads": 2,
    "task": "text-classification",
    "metric": "f1",
    "pooling": "cls",
    "dtype": "int8",
}
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "vocab_size": 73,
    "type_vocab_size": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1},
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
HEADER: dict[str, Any] = {
    "version": 2,
    "count": 30,
    "source": {"model_type": "bert", "layers": 2, "hidden": 3, "heads": 1, "ffn": 4, "vocabulary": 9},
    "outputs": 2,
    "pooling": "mean",
    "samples": {"train": {"size": 5, "seed": 3}, "validation": {"size": 4, "seed": 3}},
    "provenance": {"data": {"sha256": "0"}},
}
SHAPES: dict[str, Any] = {
    "mean": ["F64", [11]],
    "comoment": ["F64", [11, 11]],
    **{
        f"{split}.{name}": [kind, shape]
        for split, rows in (("train", 5), ("validation", 4))
        for name, kind, shape in (("ids", "I64", [rows]), ("rows", "F32", [rows, 9]), ("labels", "I64", [rows]))
    },
}


@st.composite
def json_text(draw: st.DrawFn, value: Any) -> str:
    """A changed value as JSON, now and then damaged as text."""
    text = json.dumps(draw(changed(value)))
    if draw(st.integers(0, 4)):
        return text
    at = draw(st.integers(0, len(text)))
    return (
        text[:at] + draw(st.one_of(_ODD_TEXT, st.sampled_from(["[" * 100, "{" * 100, "NaN", ","]))) + text[at + draw(st.integers(0, 5)) :]
    )


@st.composite
def safetensors(draw: st.DrawFn) -> bytes:
    """A small safetensors file whose header was changed, or whose bytes were."""
    tensors: dict[str, Any] = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
        "__metadata__": {"format": "pt"},
    }
    header = json.dumps(draw(changed(tensors))).encode("utf-8", "surrogatepass")
    size = draw(st.one_of(st.just(len(header)), st.integers(0, 2**64 - 1)))
    return struct.pack("<Q", size) + header + bytes(draw(st.sampled_from([40, 40, 40, 0, 39, 4096])))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few of them replaced, cut off or repeated."""
    found = bytearray(data)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(["set", "set", "cut", "repeat", "insert"]))
        if kind == "set" and found:
            found[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del found[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            found[at:at] = found[at : at + draw(st.integers(1, 64))]
        else:
            found[at:at] = draw(st.binary(max_size=8))
    return bytes(found)


_SPLICES = (
    "", "[", "]", "{", "}", '"', ",", ":", "-", "0", "9" * 30, "1e999", "NaN", "null", "\x00", "\ud800", "\\u0000", "\n", " ", "\u0661",
    "&a", "!!",
)  # fmt: skip


def mutants(example: Any, count: int) -> Iterator[Any]:
    """Texts and bytes near an example, the same ones each time; of a pair its text is changed, and of anything else there are none."""
    draw = random.Random(repr(example))
    for _ in range(count):
        if isinstance(example, str):
            yield _mutant(example, draw, _SPLICES)
        elif isinstance(example, bytes):
            yield _mutant(example, draw, (b"", *(bytes([draw.randrange(256)]) for _ in range(4)), b"\0\0\0\0", b"\xff" * 8))
        elif isinstance(example, tuple) and isinstance(example[0], str) and len(example) == 2:
            yield (_mutant(example[0], draw, _SPLICES), example[1])


def _mutant(text: Any, draw: random.Random, splices: Sequence[Any]) -> Any:
    for _ in range(draw.randint(1, 4)):
        at, end = draw.randint(0, len(text)), draw.randint(0, len(text))
        kind = draw.randrange(4)
        if kind == 0:
            text = text[:at] + draw.choice(splices) + text[at + draw.randint(0, 3) :]
        elif kind == 1:
            text = text[:at] + text[at + draw.randint(1, 8) :]
        elif kind == 2:
            text = text[:at] + text[end : end + draw.randint(1, 16)] + text[at:]
        else:
            text = text[:at] + draw.choice(splices) + text[at:]
    return text


#: Words of a command line.
WORDS = st.one_of(_ODD_TEXT.filter(lambda text: len(text) < 2000), st.text(max_size=12), st.integers().map(str), st.floats().map(str))
