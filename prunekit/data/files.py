"""Sources of rows: a file, a directory, the hub, or memory; always read as `{split: datasets.Dataset}`."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prunekit.data.delimited import read_delimited
from prunekit.data.labels import listed
from prunekit.data.parquet import read_parquet
from prunekit.errors import DataError, ParameterError
from prunekit.validation.escape import reason
from prunekit.validation.fingerprint import digest_at
from prunekit.validation.limits import memory

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "validation_matched", "dev_matched"),
    "test": ("test", "testing", "eval", "evaluation", "test_matched"),
}
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$")
_RELEASE = re.compile(r"-v\d+\.\d+$")  # as SQuAD's files have it
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_MUST = (
    "a CSV, TSV, JSON, JSONL or Parquet file, a directory of such files, a hub data set id, a datasets.Dataset(Dict), a pandas DataFrame, "
    "a dict of lists, a pair (texts, labels) or a dict of these by split"
)
#: The name of data that was in no file.
IN_MEMORY = "data in memory"
#: More of one of these is refused: rows of a split, columns, characters of a cell, lists in lists of a cell. docs/limits.md has them.
ROWS, COLUMNS, CELL, NESTED = 10_000_000, 1_000, 1_000_000, 8


class RawData(NamedTuple):
    """Data as it was read.

    Attributes
    ----------
    splits : {"train", "validation", "test": Dataset}
        The splits that exist; "train" always does.
    name : str
        Description of the source.
    single : bool
        Whether it is one table, which was not named train.
    notes : tuple of str
        What was left out.
    """

    splits: dict[str, Dataset]
    name: str
    single: bool
    notes: tuple[str, ...] = ()


class _Splits(NamedTuple):
    """Tables by split, and the names of those that are none."""

    tables: dict[str, Dataset]
    unread: tuple[str, ...] = ()


def read_source(source: object, *, config: str | None, trust_remote_code: bool) -> RawData:
    """Read every split of a source.

    Raises
    ------
    DataError
        A source that is missing, empty, unreadable, or without a training split.
    ParameterError
        An object that is not a source, or a `config` for a source that has none.
    """
    if isinstance(source, str) and (digest := digest_at(source)) is not None:
        raise DataError(f"The data was in memory (sha256 {digest[:12]}): give the same rows in Python, or a file that holds them.")
    if isinstance(source, str | Path):
        if _is_path(source):
            _no_config(config)
            tables = _from_path(Path(source).expanduser())
        else:
            tables = _from_hub(str(source), config, trust_remote_code)
        name = str(source) if config is None else f"{source} ({config})"
    else:
        _no_config(config)
        with _quiet():
            tables = _from_memory(source)
        name = IN_MEMORY
    found = tables if isinstance(tables, _Splits) else _Splits({"train": tables})
    for split, data in found.tables.items():
        _check_size(data, split)
    notes = (f"not read, no names of splits: {listed(found.unread)}",) if found.unread else ()
    return RawData(found.tables, name, not isinstance(tables, _Splits), notes)


def check_place(source: str) -> bool:
    """Return whether a file or a directory is meant, not a name of the hub; raises DataError where it does not exist."""
    local = _is_path(source)
    if local and not Path(source).expanduser().exists():
        raise _absent(Path(source).expanduser())
    return local


def _absent(path: Path) -> DataError:
    return DataError(f"The data {str(path)!r} does not exist.")


def _dataset() -> Any:
    import datasets

    return datasets.Dataset


def _check_size(data: Dataset, split: str) -> None:
    for count, most, name in ((len(data), ROWS, "rows"), (len(data.column_names), COLUMNS, "columns")):
        if count > most:
            raise DataError(f"The {split} split has {count:,} {name}, more than the {most:,} that are read: give fewer.")


def _is_path(source: str | Path) -> bool:
    """Return whether a file or directory is meant, not the name of a data set; raises DataError where it cannot be accessed."""
    try:
        looks_like_path = str(source).startswith((".", "~", os.sep)) or Path(source).suffix.lower() in SUFFIXES
        return Path(source).expanduser().exists() or looks_like_path or _HUB.fullmatch(str(source)) is None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"The data {_short(str(source))!r} cannot be read: {_cause(error)}.") from None


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _no_config(config: str | None) -> None:
    if config is not None:
        raise ParameterError("config", "load_data", "given for a hub data set only", config)


def _from_memory(source: object) -> Dataset | _Splits:
    import datasets

    streams = (datasets.IterableDataset, datasets.IterableDatasetDict)
    parts = source.values() if isinstance(source, Mapping) else ()
    if isinstance(source, streams) or any(isinstance(part, streams) for part in parts):
        name = type(source).__name__
        raise ParameterError("source", "load_data", _MUST, name, "A streamed data set has no end: load it without streaming.")
    by_split = isinstance(source, Mapping) and bool(source) and all(_split_of(str(name)) for name in source)
    table = None if by_split else _from_table(source, "the data")
    if table is not None:
        return _filled(table, "The data")
    if not isinstance(source, Mapping) or not source:
        name = "an empty dict" if isinstance(source, Mapping) else type(source).__name__
        raise ParameterError("source", "load_data", _MUST, name)
    splits = {str(name): _from_table(value, f"split {name!r}") for name, value in source.items()}
    if any(table is None for table in splits.values()):
        return _filled(_from_columns(source, "the data"), "The data")
    return _by_split({name: table for name, table in splits.items() if table is not None}, "The data")


def _from_table(source: object, where: str) -> Dataset | None:
    """Return one table in memory: a Dataset, a DataFrame, lists by column, or texts and labels; None for anything else."""
    if isinstance(source, _dataset()):
        return source
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        names = [str(name) for name in source.columns]
        if len(set(names)) < len(names):
            raise DataError(f"The columns of {where} have one name twice.")
        # As objects, with None for missing values: pandas has several types for the same values, and NaN for missing ones.
        frame = source.astype(object).where(source.notna(), None)
        return _from_columns({name: frame.iloc[:, at].tolist() for at, name in enumerate(names)}, where)
    if isinstance(source, Mapping) and source and all(_is_list(values) for values in source.values()):
        return _from_columns(source, where)
    if isinstance(source, tuple | list) and len(source) == 2 and all(_is_list(values) for values in source):
        texts, labels = ([*values] for values in source)
        words = bool(texts) and _is_list(texts[0])
        return _from_columns({"tokens" if words else "text": texts, "tags" if words else "label": labels}, where)
    return None


def _is_list(value: object) -> bool:
    return not isinstance(value, str | bytes | Mapping) and (isinstance(value, Sequence) or callable(getattr(value, "tolist", None)))


def _plain(value: Any) -> Any:
    """Return arrays and their scalars as Python objects, at any depth."""
    value = value.tolist() if callable(getattr(value, "tolist", None)) else value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _table(columns: Mapping[str, list[Any]]) -> Dataset:
    """Return columns as a table; raises ValueError where lists and objects are nested too deep."""
    import datasets

    for name, values in columns.items():
        nested = [value for value in values if isinstance(value, list | dict)]
        for _ in range(NESTED):
            # A table has each key of any object in every row.
            keys = {key for value in nested if isinstance(value, dict) for key in value}
            if _too_large(len(keys), len(nested)):
                raise ValueError(f"the objects of the column {_short(name)!r} have {len(keys):,} different keys: leave it out")
            parts = (part.values() if isinstance(part, dict) else part for part in nested)
            nested = [value for value in chain.from_iterable(parts) if isinstance(value, list | dict)]
        if nested:
            # The library tries each level in two ways: twenty levels take half a minute.
            raise ValueError(f"the column {_short(name)!r} holds more than {NESTED} lists or objects in each other")
    try:
        return datasets.Dataset.from_dict(dict(columns))
    except (NotImplementedError, TypeError, ValueError, OverflowError):
        for name, values in columns.items():
            try:
                datasets.Dataset.from_dict({name: values})
            except (NotImplementedError, TypeError, ValueError, OverflowError) as error:
                fault = "cannot be stored" if isinstance(error, OverflowError | UnicodeError) else "mixes types"
                raise ValueError(f"the column {_short(name)!r} {fault} ({_cause(error)}): change or leave it out") from None
        raise


def _too_large(columns: int, rows: int) -> bool:
    """Return whether as many cells would not fit into half of the memory, by the pointers and the least objects alone."""
    return 16 * columns * rows > memory() // 2


def _from_columns(columns: Mapping[Any, Any], where: str) -> Dataset:
    try:
        return _table({str(name): _plain([*values]) for name, values in columns.items()})
    except (NotImplementedError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"The lists of {where} do not make a table: {_cause(error)}.") from None


def _from_path(path: Path) -> Dataset | _Splits:
    try:
        if not path.exists():
            raise _absent(path)
        if path.is_file():
            return _read_file(path)
        if not path.is_dir():
            raise DataError(f"The data {str(path)!r} is neither a file nor a directory.")
        shards = _shards(path)
        if not any(map(_split_of, shards)) and (path / "data").is_dir():  # as repositories on the hub are laid out
            shards = _shards(path / "data")
    except OSError as error:
        raise DataError(f"The data {str(path)!r} cannot be read: {error.strerror}.") from None
    where = f"The directory {str(path)!r}"
    if not shards:
        raise DataError(f"{where} holds no data: it needs a train file ({', '.join(SUFFIXES)}), and may have validation and test.")
    if {"dataset_dict", "state"} & set(shards) and not any(map(_split_of, shards)):
        cure = "Write each split to a file, as with dataset['train'].to_parquet('train.parquet'), or give the data set in Python."
        raise DataError(f"{where} was written by save_to_disk, which is not read. {cure}")
    return _by_split({name: _read_shards(files) for name, files in shards.items() if _split_of(name)}, where, shards)


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Return the files of a directory by their names, without the numbers of shards."""
    shards: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES and file.is_file():
            shards.setdefault(_SHARD.sub("", file.stem), []).append(file)
    return shards


def _split_of(name: str) -> str | None:
    return next((split for split, names in SPLITS.items() if _RELEASE.sub("", name.lower()) in names), None)


def _by_split(tables: Mapping[str, Dataset], where: str, names: Mapping[str, object] | None = None) -> _Splits:
    splits: dict[str, Dataset] = {}
    taken: dict[str, str] = {}
    for name, data in tables.items():
        split = _split_of(name)
        if split is None:
            continue
        if split in taken:
            raise DataError(f"{where} has two {split} splits, {taken[split]!r} and {name!r}: keep one.")
        splits[split], taken[split] = _filled(data, f"{where}, split {name!r},"), name
    if "train" not in splits:
        raise DataError(f"{where} has no train split. Found: {', '.join(names or tables)}.")
    return _Splits(splits, tuple(name for name in names or tables if _split_of(name) is None))


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
        raise DataError(f"The shards of {_SHARD.sub('', str(files[0]))!r} do not fit together: {_cause(error)}.") from None


def read_table(path: Path) -> Dataset:
    """Read one file; raises DataError with one line."""
    with _quiet():
        table = _read_file(path)
    _check_size(table, path.name)
    return table


def _read_file(path: Path) -> Dataset:
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"The file {str(path)!r} is of no known kind: it must end in {', '.join(SUFFIXES)}.")
    try:
        if not path.stat().st_size:
            raise DataError(f"The file {str(path)!r} is empty.")
        if kind != "parquet" and path.stat().st_size > memory() // 2:
            raise DataError(f"The file {str(path)!r} is larger than half of the memory: give fewer rows, or Parquet.")
        if kind in ("csv", "tsv"):
            return _filled(read_delimited(path, kind, ROWS, COLUMNS), f"The file {str(path)!r}")
        return _filled(_read_json(path) if kind == "json" else _parquet(path), f"The file {str(path)!r}")
    except DataError:
        raise
    except UnicodeDecodeError as error:
        with path.open("rb") as stream:
            other = "UTF-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "CP1252"
        excel = " (in Excel: 'CSV UTF-8')" if kind == "csv" else ""
        cure = f"Save it as UTF-8{excel}, or convert it: iconv -f {other} -t UTF-8."
        raise DataError(f"The file {str(path)!r} cannot be read as {kind.upper()}: {_cause(error)}. {cure}") from None
    except _read_errors() as error:
        raise DataError(f"The file {str(path)!r} cannot be read as {kind.upper()}: {_cause(error)}.") from None


def _read_errors() -> tuple[type[Exception], ...]:
    import datasets

    known = OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration, RuntimeError, OverflowError, csv.Error
    return *known, datasets.exceptions.DatasetsError


def _read_json(path: Path) -> Dataset:
    """Read a list of objects, an object of lists, or an object a line."""
    is_document = path.suffix.lower() == ".json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig")) if is_document else None
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        is_document = False
    if not is_document:
        # Line by line: the text of a large file takes up to four times its size as one string.
        with path.open(encoding="utf-8-sig") as lines:
            content = [json.loads(line) for line in lines if line.strip()]
    elif (questions := _nested_questions(content)) is not None:
        content = questions
    elif isinstance(content, dict) and content and all(isinstance(values, list) for values in content.values()):
        if all(values and all(isinstance(value, dict) for value in values) for values in content.values()):
            raise ValueError(f"it holds lists of objects by name ({listed([*content])}): write each to a file of its own, as train.json")
        return _table(content)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("it must hold a list of objects, an object of lists, or an object a line")
    names = dict.fromkeys(chain.from_iterable(content))
    if len(names) > COLUMNS:
        raise DataError(f"The file {str(path)!r} has more than {COLUMNS:,} columns: give fewer.")
    if len(content) > ROWS or _too_large(len(names), len(content)):
        raise DataError(f"The file {str(path)!r} makes {len(names):,} columns of {len(content):,} rows: give fewer.")
    return _table({name: [row.get(name) for row in content] for name in names})


def _nested_questions(content: object) -> list[dict[str, Any]] | None:
    """Return the rows of SQuAD's own file, {"data": [{"paragraphs": [{"context", "qas": [...]}]}]}; None for anything else."""
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        return None
    try:
        return [
            {"context": part["context"], "question": entry["question"], "answers": [*entry["answers"]]}
            for article in content["data"]
            for part in article["paragraphs"]
            for entry in part["qas"]
        ]
    except (TypeError, KeyError):
        return None


def _parquet(path: Path) -> Dataset:
    with _quiet():
        return read_parquet(path, ROWS, COLUMNS)


def _from_hub(name: str, config: str | None, trust_remote_code: bool) -> _Splits:
    import datasets

    extra: dict[str, Any] = {"trust_remote_code": True} if trust_remote_code else {}
    with _quiet():
        try:
            splits = datasets.load_dataset(name, config, **extra)
        except _read_errors() as error:
            raise DataError(f"The data {name!r} is neither a local path nor a data set that the hub could give: {_cause(error)}.") from None
    return _by_split(splits, f"The data set {name!r}")


def _cause(error: BaseException) -> str:
    """Return the reason of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and log lines of the `datasets` library; both are restored afterwards."""
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
