"""Where rows come from: a file, a directory, the hub, or memory; always as `{split: datasets.Dataset}`."""

from __future__ import annotations

import csv
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.errors import DataError, ParameterError

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val", "validation_matched"),
    "test": ("test", "test_matched"),
}
_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_MUST = "a CSV, TSV, JSON, JSONL or Parquet file, a directory of such files, a hub data set id, a datasets.Dataset(Dict) or a dict of lists"


def read_source(source: object, *, config: str | None, trust_remote_code: bool) -> tuple[dict[str, Dataset], str]:
    """Read every split of a source.

    Returns
    -------
    (dict, str)
        {"train", "validation", "test": Dataset} as far as they are there ("train" always is), and the source as given, in words.

    Raises
    ------
    DataError
        A source that is missing, empty, unreadable, or without a training split.
    ParameterError
        Something that is no source, or a `config` for one that has none.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.exists() or _looks_like_path(str(source)):
            _no_config(config)
            return _from_path(path), str(source)
        return _from_hub(str(source), config, trust_remote_code), str(source) if config is None else f"{source} ({config})"
    _no_config(config)
    with _quiet():
        return _from_memory(source), type(source).__name__


def _no_config(config: str | None) -> None:
    if config is not None:
        raise ParameterError("config", "load_data", "given for a hub data set only", config)


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "~", os.sep)) or Path(source).suffix.lower() in SUFFIXES or _HUB.fullmatch(source) is None


def _from_memory(source: object) -> dict[str, Dataset]:
    import datasets

    if isinstance(source, datasets.Dataset):
        return {"train": _filled(source, "The data set")}
    if not isinstance(source, Mapping) or not source:
        raise ParameterError("source", "load_data", _MUST, type(source).__name__ if source != {} else "an empty dict")
    if all(isinstance(value, datasets.Dataset) for value in source.values()):
        return _by_split(dict(source), "The data set")
    if all(isinstance(value, Mapping) for value in source.values()):
        return _by_split({name: _from_columns(value, f"split {name!r}") for name, value in source.items()}, "The dict")
    return {"train": _filled(_from_columns(source, "the dict"), "The dict")}


def _from_columns(columns: Mapping[str, Any], where: str) -> Dataset:
    import datasets

    try:
        return datasets.Dataset.from_dict({str(name): list(values) for name, values in columns.items()})
    except (NotImplementedError, TypeError, ValueError) as error:
        raise DataError(f"The lists of {where} do not make a table: {_one_line(error)}.") from None


def _from_path(path: Path) -> dict[str, Dataset]:
    if not path.exists():
        raise DataError(f"The data {str(path)!r} does not exist.")
    if path.is_file():
        return {"train": _read_file(path)}
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix.lower() in SUFFIXES:
            found.setdefault(_SHARD.sub("", file.stem), []).append(file)
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"The directory {str(path)!r} holds no data: it needs a train file ({kinds}), and may have validation and test.")
    return _by_split({name: _read_shards(files) for name, files in found.items() if _split_of(name)}, f"The directory {str(path)!r}", found)


def _split_of(name: str) -> str | None:
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def _by_split(found: Mapping[str, Dataset], where: str, names: Mapping[str, object] | None = None) -> dict[str, Dataset]:
    splits: dict[str, Dataset] = {}
    taken: dict[str, str] = {}
    for name, data in found.items():
        split = _split_of(name)
        if split is None:
            continue
        if split in taken:
            raise DataError(f"{where} has two {split} splits, {taken[split]!r} and {name!r}: keep one.")
        splits[split], taken[split] = _filled(data, f"{where}, split {name!r},"), name
    if "train" not in splits:
        raise DataError(f"{where} has no train split. Found: {', '.join(names or found)}.")
    return splits


def _filled(data: Dataset, where: str) -> Dataset:
    if not len(data):
        raise DataError(f"{where} is empty.")
    return data


def _read_shards(files: list[Path]) -> Dataset:
    import datasets

    if len({file.suffix.lower() for file in files}) > 1 or (len(files) > 1 and not all(_SHARD.search(file.stem) for file in files)):
        raise DataError(f"One split is in several files, {' and '.join(file.name for file in files[:2])}: keep one.")
    parts = [_read_file(file) for file in files]
    try:
        return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    except (ValueError, TypeError) as error:
        raise DataError(f"The shards of {_SHARD.sub('', str(files[0]))!r} do not fit together: {_one_line(error)}.") from None


def _read_file(path: Path) -> Dataset:
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"The file {str(path)!r} is of no known kind: it must end in {', '.join(SUFFIXES)}.")
    try:
        if not path.stat().st_size:
            raise DataError(f"The file {str(path)!r} is empty.")
        if kind in ("csv", "tsv"):
            return _filled(_read_delimited(path, kind), f"The file {str(path)!r}")
        return _filled(_read_typed(path, kind), f"The file {str(path)!r}")
    except DataError:
        raise
    except _read_errors() as error:
        raise DataError(f"The file {str(path)!r} cannot be read as {kind.upper()}: {_one_line(error)}.") from None


def _read_errors() -> tuple[type[Exception], ...]:
    import datasets

    return OSError, ValueError, TypeError, KeyError, StopIteration, RuntimeError, csv.Error, datasets.exceptions.DatasetsError


def _read_delimited(path: Path, kind: str) -> Dataset:
    # Cells stay strings ("NA" and "null" are words, "01" is not 1), and a line of another width is an error, never a shift.
    # A TSV has no quoting, as the format is registered: a lone quote must not swallow the lines that follow it.
    import datasets

    with path.open(encoding="utf-8-sig", newline="") as stream:
        if kind == "csv":
            reader = csv.reader(stream, strict=True)
        else:
            reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        header = next(reader, [])
        for name in header:
            if header.count(name) > 1:
                raise DataError(f"The file {str(path)!r} has two columns named {name!r}.")
        rows: list[list[str]] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"Line {reader.line_num} of {str(path)!r} has {len(row)} cells, its header has {len(header)}.")
            rows.append(row)
    return datasets.Dataset.from_dict({name: [row[at] for row in rows] for at, name in enumerate(header)})


def _read_typed(path: Path, kind: str) -> Dataset:
    import datasets

    read = datasets.Dataset.from_json if kind == "json" else datasets.Dataset.from_parquet
    # A cache of our own, read into memory and dropped: nothing stale can be met, and nothing is left on the disk.
    with _quiet(), tempfile.TemporaryDirectory() as cache:
        if glob.has_magic(str(path)):  # the library takes a path for a pattern
            path = Path(shutil.copyfile(path, Path(cache) / f"rows{path.suffix}"))
        return read(str(path), cache_dir=cache, keep_in_memory=True)


def _from_hub(name: str, config: str | None, trust_remote_code: bool) -> dict[str, Dataset]:
    import datasets

    extra: dict[str, Any] = {"trust_remote_code": True} if trust_remote_code else {}
    with _quiet():
        try:
            found = datasets.load_dataset(name, config, **extra)
        except _read_errors() as error:
            raise DataError(
                f"The data {name!r} is neither a local path nor a data set that the hub could give: {_one_line(error)}."
            ) from None
    return _by_split(found, f"The data set {name!r}")


def _one_line(error: BaseException) -> str:
    """Put the innermost cause on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else text[:197] + "...").rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines of the `datasets` library; both as they were afterwards."""
    import datasets

    verbosity, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
