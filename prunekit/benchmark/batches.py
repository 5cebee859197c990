"""Batches on which candidates are timed: of the data's own lengths, or of given lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.arch.config import LENGTH, WINDOW, check_config, check_tokenizer_files, positions_of, read_config, row_length
from prunekit.arch.head import stated_head
from prunekit.arch.tokenizer import try_out
from prunekit.benchmark.backends.base import Batch
from prunekit.benchmark.candidates import Candidate
from prunekit.benchmark.counts import vocabulary_size
from prunekit.data.options import Column
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.manifest import PLAN
from prunekit.plan import Plan
from prunekit.runtime.timing import bucketed_rows, single_rows
from prunekit.tasks import TaskKind
from prunekit.validation.limits import BATCH, POSITIONS

if TYPE_CHECKING:
    from prunekit.data.batches import Encoded

_SINGLES, _BUCKETS, _FIXED = 32, 8, 4
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


@dataclass(frozen=True, eq=False)
class Case:
    """Batches of one comparison.

    Attributes
    ----------
    batch_size : int
    length : int or None
        Tokens in each row; None for the data's own lengths.
    shapes : tuple of (int, int)
        Rows and padded length of each batch, as the baseline's tokenizer makes them.
    batches : mapping
        {candidate: its batches}.
    """

    batch_size: int
    length: int | None
    shapes: tuple[tuple[int, int], ...]
    batches: Mapping[str, Sequence[Batch]]

    @property
    def label(self) -> str:
        """Short description."""
        return f"batch {self.batch_size}, {'data' if self.length is None else f'{self.length} tokens'}"


def fixed_case(candidates: Sequence[Candidate], batch_size: int, length: int, *, seed: int) -> Case:
    """Draw batches of one length without padding, of random tokens in the vocabulary of every candidate."""
    ids = min(vocabulary_size(candidate.source) for candidate in candidates)
    generator = np.random.default_rng((seed, batch_size, length))
    batches = [_random(generator, ids, batch_size, length) for _ in range(_FIXED)]
    return Case(batch_size, length, ((batch_size, length),) * _FIXED, {candidate.name: batches for candidate in candidates})


def _random(generator: np.random.Generator, ids: int, rows: int, length: int) -> Batch:
    shape = (rows, length)
    # Small ids are often special tokens, such as padding, which some models treat differently.
    drawn = generator.integers(min(ids // 2, 1000), ids, size=shape)
    return {"input_ids": drawn, "attention_mask": np.ones(shape, dtype=np.int64), "token_type_ids": np.zeros(shape, dtype=np.int64)}


def row_of(candidates: Sequence[Candidate], length: int) -> Batch:
    """Draw one row of random tokens in the vocabulary of every candidate."""
    return _random(np.random.default_rng(0), min(vocabulary_size(candidate.source) for candidate in candidates), 1, length)


def data_cases(
    candidates: Sequence[Candidate],
    batch_sizes: Sequence[int],
    data: str | Path,
    *,
    baseline: str,
    max_length: int | None,
    seed: int,
    columns: Mapping[Column, str | None],
) -> list[Case]:
    """Make batches of the data's test split, encoded with each candidate's own tokenizer.

    Parameters
    ----------
    candidates : sequence of Candidate
        One without a tokenizer of its own takes that of the first that has one.
    batch_sizes : sequence of int
        Single rows come in the order of the data, larger batches hold rows of about one length.
    data : path or str
        As `prunekit.data.load.load_data` reads it.
    baseline : str
        The candidate whose lengths decide which rows make a batch.
    max_length : int or None
        Tokens after which a row is cut; None: 128, of a window of a context 384, or as many as the candidates have positions where
        that is less.
    seed : int
    columns : mapping
        `load_data`'s parameters that name columns.

    Returns
    -------
    list of Case

    Raises
    ------
    DataError
        As `load_data`.
    ModelError
        No candidate has a tokenizer.
    """
    encodings = encode_for(candidates, data, max_length=max_length, columns=columns)
    lengths = encodings[baseline].lengths
    cases = []
    for size in batch_sizes:
        rows = single_rows(lengths, _SINGLES, seed=seed) if size == 1 else bucketed_rows(lengths, size, _BUCKETS, seed=seed)
        shapes = tuple((len(chosen), int(lengths[chosen].max())) for chosen in rows)
        batches = {name: [encoded.batch(chosen).inputs for chosen in rows] for name, encoded in encodings.items()}
        cases.append(Case(size, None, shapes, batches))
    return cases


def encode_for(
    candidates: Sequence[Candidate], data: str | Path, *, max_length: int | None, columns: Mapping[Column, str | None]
) -> dict[str, Encoded]:
    """Encode the rows of the test split with each candidate's tokenizer."""
    from prunekit.data.batches import encode
    from prunekit.data.load import load_data

    folders = {candidate.name: _tokenizer_folder(candidate) for candidate in candidates}
    default_folder = next((folder for folder in folders.values() if folder is not None), None)
    if default_folder is None:
        raise ModelError(f"No candidate has a tokenizer beside it ({', '.join(_TOKENIZERS)}): give a directory, or --length 128.")
    positions = positions_of_all(candidates)
    row_length(positions, max_length, of="bench")  # refused before anything is read
    options: Any = dict(columns)
    # Only the texts are read: labels need not be there.
    dataset = load_data(str(data), answers=TaskKind.EMBEDDING if _embed(candidates) else TaskKind.CLASSIFICATION, judged=False, **options)
    rows = dataset.test.singles if dataset.task.kind.traits.vectors else dataset.test
    longest = row_length(positions, max_length, of="bench", usual=WINDOW if rows.asks else LENGTH)
    encoded = {
        folder: encode(rows, _tokenizer(folder), max_length=longest, per_token=bool(rows.tokens))
        for folder in {own or default_folder for own in folders.values()}
    }
    return {name: encoded[folder or default_folder] for name, folder in folders.items()}


def _embed(candidates: Sequence[Candidate]) -> bool:
    """Return whether the candidates are embedders, which read the texts of a pair one by one, as far as their directories state it.

    A bare encoder beside an embedder is one, too: it may be what that was made from.
    """
    from prunekit.arch.embedding import MODULES

    folders = [candidate.source.folder for candidate in candidates if candidate.source.folder is not None]
    # sentence-transformers writes the file beside cross-encoders, too.
    if not any((folder / MODULES).is_file() for folder in folders):
        return False
    # A slim encoder with a readout states no head.
    readouts = any(Plan.load(folder / PLAN).readout is not None for folder in folders if (folder / PLAN).is_file())
    return not readouts and not any(
        stated_head(read_config(folder / "config.json", f"The model {str(folder)!r}")).fine_tuned for folder in folders
    )


def _tokenizer_folder(candidate: Candidate) -> Path | None:
    folder = candidate.source.folder
    return folder if folder is not None and any((folder / name).is_file() for name in _TOKENIZERS) else None


def _tokenizer(folder: Path) -> Any:
    from prunekit.arch.load import load_tokenizer

    check_tokenizer_files(folder, f"The model {str(folder)!r}")
    tokenizer = load_tokenizer(folder)
    try_out(str(folder), tokenizer)
    return tokenizer


def check_sizes(name: str, values: Sequence[int]) -> None:
    """Refuse an empty sequence, and sizes below 1 or above the bound."""
    largest = BATCH if name == "batch" else POSITIONS
    if not values or min(values) < 1 or max(values) > largest:
        shown = ", ".join(map(str, values)) or "nothing"
        raise ParameterError(name, "bench", f"numbers of at least 1 and at most {largest:,}", shown)


def positions_of_all(candidates: Sequence[Candidate]) -> int | None:
    """Return the length of the longest row that every candidate takes, by their configs; None where no config gives it."""
    positions = []
    for folder in {candidate.source.folder for candidate in candidates} - {None}:
        assert folder is not None
        fields = read_config(folder / "config.json", f"The model {str(folder)!r} has a config.json that")
        check_config(fields, f"The model {str(folder)!r} has a config.json that", whole=False)
        positions.append(positions_of(fields, max(0, fields.get("pad_token_id") or 0)))
    return min((limit for limit in positions if limit is not None), default=None)


def usual_lengths(candidates: Sequence[Candidate], lengths: Sequence[int]) -> list[int]:
    """Return the lengths, each at most that of the longest row that every candidate takes."""
    longest = positions_of_all(candidates)
    return list(dict.fromkeys(length if longest is None else min(length, longest) for length in lengths))


def check_positions(candidates: Sequence[Candidate], lengths: Sequence[int]) -> None:
    """Refuse rows that are longer than a candidate takes; raise ParameterError."""
    longest = positions_of_all(candidates)
    if longest is not None and max(lengths) > longest:
        must = f"at most {longest}, the longest row that every model takes"
        raise ParameterError("length", "bench", must, max(lengths))
