"""Statistics and ONNX files that are not what they say."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "prunekit.statistics"
Change = Callable[[Path], None]


def _meta(**changes: Any) -> Change:
    """Statistics with some of the metadata changed; what is `...` is left out."""

    def change(path: Path) -> None:
        header, body = opened(path)
        said = json.loads(header["__metadata__"][KEY])
        fields = {name: value for name, value in {**said, **changes}.items() if value is not ...}
        header["__metadata__"][KEY] = json.dumps(fields)
        closed(path, header, body)

    return change


def _text(text: str) -> Change:
    def change(path: Path) -> None:
        header, body = opened(path)
        header["__metadata__"][KEY] = text
        closed(path, header, body)

    return change


def _tensor(name: str, **changes: Any) -> Change:
    def change(path: Path) -> None:
        header, body = opened(path)
        header[name] = {**header[name], **changes}
        closed(path, header, body)

    return change


def _renamed(name: str) -> Change:
    def change(path: Path) -> None:
        header, body = opened(path)
        header["evil"] = header.pop(name)
        closed(path, header, body)

    return change


def _filled(name: str, values: bytes) -> Change:
    def change(path: Path) -> None:
        header, body = opened(path)
        start, _ = header[name]["data_offsets"]
        closed(path, header, body[:start] + values + body[start + len(values) :])

    return change


def opened(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def closed(path: Path, header: dict[str, Any], body: bytes) -> None:
    """Write one."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def raw(data: bytes) -> Change:
    """A file of these bytes."""
    return lambda path: path.write_bytes(data) and None


def cut(path: Path) -> None:
    """Half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_NAN = struct.pack("<d", float("nan"))
STATISTICS: dict[str, Change] = {
    "empty": raw(b""),
    "zeros": raw(bytes(4096)),
    "text": raw(b"not a tensor"),
    "a long header": raw((2**62).to_bytes(8, "little") + b"{}"),
    "cut": cut,
    "no metadata": _text(""),
    "metadata of a list": _text("[]"),
    "metadata that are deep": _text("[" * 100_000),
    "metadata that are no JSON": _text("evil"),
    "not a number": _meta(count=float("nan")),
    "NaN": _filled("mean", _NAN),
    "NaN in the moments": _filled("comoment", _NAN),
    "row numbers": _filled("train.ids", struct.pack("<qq", 5, 5)),
    **{f"without {name}": _meta(**{name: ...}) for name in ("version", "count", "source", "outputs", "pooling", "samples", "provenance")},
    **{
        f"{name} {at}": _meta(**{name: value})
        for name, values in {
            "version": [1, 3, "2", None, True],
            "count": [0, -1, 0.5, "9", None, 10**30],
            "outputs": [0, -1, 3, "2", None, 10**30],
            "pooling": ["evil", 3, None, "last"],
            "samples": [3, [], {}, {"train": 3}, {"train": {}}, {"train": {"size": "9", "seed": 0}}, {"evil": {"size": 9, "seed": 0}}],
            "source": [3, {}, {"model_type": "bert"}],
            "provenance": [3, {}, {"data": 3}, {"weights": 3}],
        }.items()
        for at, value in enumerate(values)
    },
    **{f"no {name}": _renamed(name) for name in ("mean", "comoment", "train.ids", "train.rows", "train.labels", "validation.rows")},
    "another type": _tensor("train.rows", dtype="I32"),
    "brain floats": _tensor("train.rows", dtype="BF16"),
    "another shape": _tensor("mean", shape=[2, 33]),
    "a negative shape": _tensor("mean", shape=[-1]),
    "a large shape": _tensor("mean", shape=[2**40, 2**40]),
    "offsets": _tensor("mean", data_offsets=[0, 2**60]),
}


def _graph(change: Callable[[Any], None]) -> Change:
    def edit(path: Path) -> None:
        import onnx

        model = onnx.load(str(path))
        change(model)
        path.write_bytes(model.SerializeToString())

    return edit


def _nested(path: Path) -> None:
    """Graphs inside graphs, as protobuf counts them."""
    data = b""
    for _ in range(5000):
        # ModelProto.graph = 7, GraphProto.node = 1, NodeProto.attribute = 5, AttributeProto.g = 6
        for field in (6, 5, 1):
            data = bytes([field << 3 | 2]) + _varint(len(data)) + data
    path.write_bytes(b"\x3a" + _varint(len(data)) + data)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _dims(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def _negative(model: Any) -> None:
    model.graph.initializer[0].dims[0] = -1


def _no_type(model: Any) -> None:
    model.graph.initializer[0].data_type = 99


def _cycle(model: Any) -> None:
    first, last = model.graph.node[0], model.graph.node[-1]
    first.input[0] = last.output[0]


def _no_outputs(model: Any) -> None:
    del model.graph.output[:]


def _no_inputs(model: Any) -> None:
    del model.graph.input[:]


def _control(model: Any) -> None:
    model.graph.input[0].name = "\x1b[31mred\n" + "x" * 10**5


def _ir(model: Any) -> None:
    model.ir_version = 2**40


def _domain(model: Any) -> None:
    model.graph.node[0].domain = "evil"


def _short(model: Any) -> None:
    model.graph.initializer[0].raw_data = b"\0"


def _outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"


ONNX: dict[str, Change] = {
    "empty": raw(b""),
    "zeros": raw(bytes(4096)),
    "text": raw(b"not a model"),
    "cut": cut,
    "nested": _nested,
    **{
        change.__name__.strip("_"): _graph(change)
        for change in (_dims, _negative, _no_type, _cycle, _no_outputs, _no_inputs, _control, _ir, _domain, _short, _outside)
    },
}
