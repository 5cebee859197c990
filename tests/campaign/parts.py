"""Statistics in parts, directories that are verified, and what a shell passes on."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaign.binary import KEY, STATISTICS, closed, opened
from tests.campaign.calls import Change, made
from tests.campaign.case import Case
from tests.campaign.cases import COMMANDS
from tests.campaign.models import NO_FILES, _instead, _put

_MERGE = ("merge", "{copy}/1.safetensors", "{copy}/2.safetensors", "-o", "{here}/out", "--quiet")
_COLLECT = ("collect", "{sequence}", "--data", "{rows}", "-o", "{here}/out", "--quiet")
_PLAN = ("plan", "{sequence}", "--data", "{rows}", "--keep", "20%", "--statistics", "{copy}", "-o", "{here}/plan.json", "--quiet")


def _second(change: Change) -> Change:
    return lambda folder: change(folder / "2.safetensors")


def _shard(**changes: Any) -> Change:
    """A part that says something else of itself."""

    def change(path: Path) -> None:
        header, body = opened(path)
        said = json.loads(header["__metadata__"][KEY])
        said["shard"] = {**said["shard"], **changes}
        header["__metadata__"][KEY] = json.dumps(said)
        closed(path, header, body)

    return change


def _swapped(path: Path) -> None:
    """Labels of another type."""
    header, body = opened(path)
    header["train.labels"]["dtype"] = "F64"
    closed(path, header, body)


def _sets(path: Path) -> None:
    """Labels that are label sets."""
    header, body = opened(path)
    said = json.loads(header["__metadata__"][KEY])
    rows = header["train.labels"]["shape"][0]
    outputs = said["outputs"]
    tail = len(body)
    header["train.labels"] = {"dtype": "BOOL", "shape": [rows, outputs], "data_offsets": [tail, tail + rows * outputs]}
    # The bytes of the old labels stay as a tensor of their own.
    _repacked(path, header, body + bytes(rows * outputs))


def _repacked(path: Path, header: dict[str, Any], body: bytes) -> None:
    """Write tensors without gaps."""
    packed, start = b"", 0
    for name, entry in header.items():
        if name != "__metadata__":
            low, high = entry["data_offsets"]
            entry["data_offsets"] = [start, start + high - low]
            packed += body[low:high]
            start += high - low
    closed(path, header, packed)


def _all(name: str, value: bytes) -> Change:
    """A tensor all of one value."""

    def change(path: Path) -> None:
        header, body = opened(path)
        low, high = header[name]["data_offsets"]
        closed(path, header, body[:low] + value * ((high - low) // len(value)) + body[high:])

    return change


_MOMENTS: dict[str, Change] = {
    **{
        f"{name} all {value:g}": _all(name, struct.pack("<d", value))
        for name in ("mean", "comoment")
        for value in (0.0, -1.0, 1e308, -1e308, 5e-324)
    },
    **{f"train.rows all {value:g}": _all("train.rows", struct.pack("<f", value)) for value in (0.0, 3e38, -3e38)},
    **{
        f"{split}.labels all {value}": _all(f"{split}.labels", struct.pack("<q", value))
        for split in ("train",)
        for value in (0, -1, 99, 2**62)
    },
    "labels of floats": _swapped,
    "labels of sets": _sets,
}
_PARTS: dict[str, Change] = {
    **{f"second {name}": _second(change) for name, change in {**STATISTICS, **_MOMENTS}.items()
       if name != "no validation.rows"},
    **{f"second part says {name} {at}": _second(_shard(**{name: value})) for name, values in {
        "index": (0, -1, 1, 3, "2", 1.5, None, True, 10**30),
        "of": (0, 1, 3, "2", None, 10**30, 65536),
        "rows": (5, {}, {"train": 1}, {"train": 0, "validation": 0}, {"evil": 5}, {"train": 10**30, "validation": 1}),
        "total": (5, {}, {"train": 1}, {"train": 10**8, "validation": 10**8}, {"validation": 5}),
        "tokens": ("evil", 5, "0" * 64, "0" * 63 + "\n", None),
        "evil": (1,),
    }.items() for at, value in enumerate(values)},
    "the first twice": lambda folder: shutil.copyfile(folder / "1.safetensors", folder / "2.safetensors") and None,
    "the second gone": lambda folder: (folder / "2.safetensors").unlink(),
    **{f"second {name}": _instead("2.safetensors", make)
       for name, make in NO_FILES.items()},
}  # fmt: skip


def _edit(file: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(folder: Path) -> None:
        fields = json.loads((folder / file).read_text(encoding="utf-8"))
        change(fields)
        (folder / file).write_text(json.dumps(fields), encoding="utf-8")

    return edit


def _resealed(change: Callable[[Any], object]) -> Change:
    """A manifest with a digest of its own, as somebody who writes it anew makes one."""

    def edit(folder: Path) -> None:
        import hashlib

        body = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        body.pop("digest")
        change(body)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps({**body, "digest": digest}, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    return edit


def _named(name: str) -> Change:
    return _resealed(lambda body: body["files"].update({name: body["files"]["config.json"]}))


def _again(name: str, write: Callable[[Path], object]) -> Change:
    """A file that is another, and a manifest that says so."""

    def edit(folder: Path) -> None:
        from prunekit.exporters.manifest import MANIFEST, write_manifest

        write(folder / name)
        (folder / MANIFEST).unlink()
        write_manifest(folder)

    return edit


def _probe(**changes: Any) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        header, body = opened(path)
        for name in header:
            if name.startswith("input/"):
                header[name].update(changes)
        closed(path, header, body)

    return edit


#: Names that no file of ours has.
ODD = ("../x", "/etc/passwd", "a\0b", "", ".", "x" * 5000, "\ud800", "a/../config.json", "manifest.json", "\x1b[31m")
#: Directories that are not as they were written.
VERIFIED: dict[str, Change] = {
    **{f"named {name!a}": _named(name) for name in ODD},
    **{f"manifest {name}": _put("manifest.json", text) for name, text in {
        "empty": "", "a list": "[]", "deep": "[" * 10**5, "null": "null", "of nothing": "{}", "not a number": '{"version": NaN}',
    }.items()},
    **{f"says {name} {at}": _resealed(lambda body, name=name, value=value: body.update({name: value})) for name, values in {
        "version": (0, 99, "1", None), "files": ({}, [], None, {"config.json": 5}), "plan": ("x", 5), "data": (5, None), "evil": (1,),
    }.items() for at, value in enumerate(values)},
    **{f"file {name}": _instead("config.json", make)
       for name, make in NO_FILES.items()},
    "a plan of another": _again("plan.json", lambda path: path.write_text("[]")),
    "a probe of nothing": _again("probe.safetensors", lambda path: path.write_bytes(b"")),
    "a probe of text": _again("probe.safetensors", lambda path: path.write_bytes(b"evil" * 100)),
    "a probe of floats": _again("probe.safetensors", _probe(dtype="F64")),
    "a probe of brain floats": _again("probe.safetensors", _probe(dtype="BF16")),
    "a probe turned": _again("probe.safetensors", _probe(shape=[8, 3])),
    "a probe of one dimension": _again("probe.safetensors", _probe(shape=[24])),
    "ids too large": _again("probe.safetensors", lambda path: _all("input/input_ids", struct.pack("<q", 2**40))(path)),
    "ids below 0": _again("probe.safetensors", lambda path: _all("input/input_ids", struct.pack("<q", -(2**40)))(path)),
    "no mask": _again("probe.safetensors", lambda path: _all("input/attention_mask", struct.pack("<q", 0))(path)),
    "a model of text": _again("onnx/model.onnx", lambda path: path.write_bytes(b"evil")),
    "a model of nothing": _again("onnx/model.onnx", lambda path: path.write_bytes(b"")),
}  # fmt: skip


def _verify(change: Change, places: dict[str, str]) -> object:
    """A directory that is verified: it ends with 0 or 1, and one line on stdout; what is no directory of ours ends with 1."""
    import sys

    from prunekit import cli

    copy = Path(places["here"]).parent / "copied"
    shutil.copytree(places["slim"], copy)
    change(copy)
    code = cli.main(["show", str(copy), "--verify"])
    if code not in (0, 1):
        sys.exit(code)
    return None


def _search(files: dict[str, str]) -> Change:
    def write(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    return write


def _corpus(name: Callable[[int], object]) -> str:
    return "".join(json.dumps({"_id": name(at), "text": f"bapos {at}"}) + "\n" for at in range(20))


_CORPUS = _corpus(str)
_QUERIES = "".join(json.dumps({"_id": f"q{at}", "text": f"bapos {at}"}) + "\n" for at in range(12))
_RELS = "query-id\tcorpus-id\tscore\n" + "".join(f"q{at}\t{at}\t1\n" for at in range(12))
_FOUND = {"corpus.jsonl": _CORPUS, "queries.jsonl": _QUERIES}
SEARCHES: dict[str, Change] = {
    "judgements without a header": _search({**_FOUND, "qrels.tsv": _RELS.partition("\n")[2]}),
    "judgements of TREC": _search({**_FOUND, "qrels.tsv": "".join(f"q{at} 0 {at} 1\n" for at in range(12))}),
    "judgements in a folder": _search({**_FOUND, "qrels/test.tsv": _RELS}),
    "judgements in a folder without a test": _search({**_FOUND, "qrels/evil.tsv": _RELS}),
    "judgements of blanks": _search({**_FOUND, "qrels.tsv": _RELS.replace("\t1\n", "\t \n")}),
    "judgements of digits": _search({**_FOUND, "qrels.tsv": _RELS.replace("\t1\n", "\t\u0661\n")}),
    "judgements with an underscore": _search({**_FOUND, "qrels.tsv": _RELS.replace("\t1\n", "\t1_0\n")}),
    "judgements of floats": _search({**_FOUND, "qrels.tsv": _RELS.replace("\t1\n", "\t1.5\n")}),
    "numbers as ids": _search({**_FOUND, "corpus.jsonl": _corpus(int), "qrels.tsv": _RELS}),
    "ids of lists": _search({**_FOUND, "corpus.jsonl": _corpus(lambda at: [at]), "qrels.tsv": _RELS}),
    "documents of no text": _search({**_FOUND, "corpus.jsonl": _CORPUS.replace("bapos 3", ""), "qrels.tsv": _RELS}),
    "one document": _search({**_FOUND, "corpus.jsonl": _CORPUS.partition("\n")[0], "qrels.tsv": "".join(_RELS.splitlines(True)[:2])}),
}  # fmt: skip

#: What a shell passes on, after a command's own words.
WORDS: dict[str, tuple[str, ...]] = {
    "keep twice": ("--keep", "10%", "--keep", "20%"),
    "keep of two": ("--keep", "10%,20% params"),
    "keep of nothing and more": ("--keep", "none", "--keep", "10%"),
    "seed twice": ("--seed", "1", "--seed", "x"),
    "a flag with a value": ("--overwrite=yes",),
    "a flag with nothing": ("--overwrite=",),
    "an option with nothing": ("--seed=",),
    "a flag denied": ("--no-overwrite",),
    "an abbreviation": ("--see", "1"),
    "words together": ("-qv",),
    "words together that are none": ("-qz",),
    "capitals": ("--SEED", "1"),
    "a dash": ("--\u2013seed", "1"),
    "a long dash": ("\u2014seed", "1"),
    "a file of words": ("@words",),
    "a lone dash": ("-",),
    "dashes": ("--", "--seed", "1"),
    "three dashes": ("---seed", "1"),
    "a NUL": ("--seed\0", "1"),
    "half a character": ("\udcff",),
    "an equals sign": ("=",),
    "many": tuple("x" for _ in range(10_000)),
    "a long word": ("x" * 10**6,),
    "a long option": ("--" + "x" * 10**6,),
    "a long option with a value": ("--seed=" + "1" * 10**6,),
    "an option of Python": ("-c", "print(7)"),
    "layers that contradict": ("--layers", "0", "--drop", "ffn:1"),
    "budgets that contradict": ("--keep", "10% params", "--speedup", "3x", "--keep", "20% latency"),
    "a plan beside a budget": ("--plan", "{plan}"),
}
#: Variables that libraries read when they are imported, and those of launchers of several processes.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "HF_HUB_ETAG_TIMEOUT": ("abc",),
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": ("abc",),
    "SKLEARN_WORKING_MEMORY": ("abc",),
    "LOKY_MAX_DEPTH": ("abc",),
    "TQDM_MININTERVAL": ("abc",),
    "TQDM_DISABLE": ("evil",),
    "OPENBLAS_NUM_THREADS": ("abc",),
    "PYDANTIC_ERRORS_INCLUDE_URL": ("evil",),
    "HF_ENDPOINT": ("evil",),
    "MPLCONFIGDIR": ("/dev/null",),
    "PYTHONINTMAXSTRDIGITS": ("640",),
    "PYTHONDEVMODE": ("1",),
}
#: The same of what trains.
TRAINED = (
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "ACCELERATE_DEBUG_MODE",
    "ACCELERATE_USE_DEEPSPEED",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "ENABLE_TORCH_COMPILE",
)


def part_cases() -> Iterator[Case]:
    """Every part, directory and word."""
    for name, change in _PARTS.items():
        yield made(f"parts merge {name}", _MERGE, "parts", change, may=True)
    for name, change in _MOMENTS.items():
        yield made(f"statistics plan more {name}", _PLAN, "statistics", change, may=True)
    for shard in (
        "",
        "0/2",
        "3/2",
        "1/0",
        "1/1_0",
        "\uff11/2",
        "1/2/3",
        "-1/2",
        "1.5/2",
        "1/999999",
        "1/65536",
        "1/60000",
        "1",
        "/",
        "a/b",
        "1/2\n",
        " 1/2",
        "x" * 10**5,
    ):
        yield Case(f"option collect --shard {shard[:20]!a}", (*_COLLECT, "--shard", shard))
    first = "{parts}/1.safetensors"
    for path in (
        "~nosuchuser/x",
        "x" * 5000,
        "{here}",
        "nul\0byte",
        "/dev/null",
        "/dev/full",
        "/proc/x",
        "",
        ".",
        "/",
        "absent/x",
    ):
        yield Case(f"path collect -o {path[:20]!a}", (*_COLLECT, "--overwrite", "-o", path))
        yield Case(f"path merge -o {path[:20]!a}", ("merge", first, "{parts}/2.safetensors", "--overwrite", "-o", path))
        yield Case(f"path merge PART {path[:20]!a}", ("merge", first, path, "-o", "{here}/out"))
    yield Case("path merge -o a part", ("merge", first, "{parts}/2.safetensors", "--overwrite", "-o", first))
    for parts in ((), (first,), (first, first), ("{statistics}",), (first, "{statistics}"), ("{parts}",), ("{onnx}",)):
        yield Case(f"path merge of {' '.join(parts)}".strip(), ("merge", *parts, "-o", "{here}/out"))
    for parts in (5, None, "x", b"x", [], [5], [None], [b"x"], {"a": 1}, {"a"}, len, [""], ["a\0b"], ["~nosuchuser/x"]):
        yield Case(f"call merge parts={str(parts)[:20]!a}", call=partial(_merged, parts))
    for name, change in VERIFIED.items():
        yield Case(f"verify show {name}", call=partial(_verify, change), may=True)
    for name, change in SEARCHES.items():
        asked = ("compress", "{embedder}", "--data", "{rows}", "--task", "embedding", "--retrieval", "{copy}", "--recover", "none")
        short = ("--dtype", "fp32", "--keep", "60% params", "-o", "{here}/out", "--quiet")
        may = name not in ("judgements of digits", "judgements with an underscore")
        yield made(f"search compress more {name}", (*asked, *short), "", change, may=may)
    for command, words in (
        ("compress", (*COMMANDS["compress"], "--dry-run")),
        ("bench", COMMANDS["bench"]),
        ("export", COMMANDS["export"]),
    ):
        for name, more in WORDS.items():
            yield Case(f"words {command} {name}", (*words, *more), may=True)
    for words in ((), ("--help", "--evil"), ("--version", "evil"), ("-h", "compress"), ("compress", "compress"), ("show", "-"),
                  ("show", "{plan}", "{plan}", "{plan}"), ("show", "{plan}", "--verify"), ("show", "{slim}", "{slim}", "--verify"),
                  ("--install-completion",), ("--show-completion",)):  # fmt: skip
        yield Case(f"words {' '.join(words)}", words, may=True, environment={"HOME": os.devnull, "SHELL": "evil"})
    analyze = ("analyze", "{sequence}", "--data", "{rows}", "--rows", "40", "--analyzers", "neurons", "-o", "{here}/out", "--quiet")
    for name, values in ENVIRONMENTS.items():
        for value in values:
            yield Case(f"environment analyze {name}={value!a}", analyze, environment={name: value}, may=True, fresh=True)
    train = (*COMMANDS["compress"], "--recover", "1epochs", "--dtype", "fp32")
    for name in TRAINED:
        yield Case(f"environment train {name}=evil", train, environment={name: "evil"}, may=True, fresh=True)


def _merged(parts: Any, places: dict[str, str]) -> object:
    import prunekit

    return prunekit.merge(parts, out=f"{places['here']}/out")
