"""Sets of indices as text: "0-3,7", for people to read and write, bounded before they are expanded."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from prunekit.errors import ParameterError
from prunekit.validation.limits import VOCABULARY

_RANGE = re.compile(r"\s*([0-9]{1,12})(?:-([0-9]{1,12}))?\s*", re.ASCII)
_SHOWN = 60  # characters of a range that an error repeats


def format_indices(indices: Iterable[int]) -> str:
    """Return sorted indices as ranges: (0, 1, 2, 5) -> "0-2,5"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each range of a text; raises ValueError for anything else."""
    for part in text.split(",") if text.strip() else ():
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part.strip()[:_SHOWN]!r} is neither an index nor a range such as 0-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part.strip()!r} ends before it begins")
        yield first, last


def count_indices(text: str) -> int:
    """Return the number of indices that a text names; 0 for an invalid text, which the check of its field reports."""
    try:
        return sum(last - first + 1 for first, last in _ranges(text))
    except ValueError:
        return 0


def parse_indices(text: str) -> tuple[int, ...]:
    """Invert `format_indices`; raises ValueError on anything else, and on more than `VOCABULARY` indices."""
    ranges = list(_ranges(text))
    if sum(last - first + 1 for first, last in ranges) > VOCABULARY:
        raise ValueError(f"more than {VOCABULARY:,} indices are named")
    return tuple(itertools.chain.from_iterable(range(first, last + 1) for first, last in ranges))


def parse_freeze(text: str, *, of: str = "recover") -> tuple[int, ...]:
    """Parse ``"layers:0-3"`` into block numbers; raises ParameterError."""
    kind, _, ranges = text.partition(":") if isinstance(text, str) else ("", "", "")
    try:
        blocks = parse_indices(ranges)
    except ValueError:
        blocks = ()
    if kind.strip() != "layers" or not blocks or sorted(set(blocks)) != list(blocks):
        raise ParameterError("freeze", of, "blocks of the model, such as 'layers:0-3'", text)
    return blocks


def _indices(value: object) -> tuple[int, ...]:
    if isinstance(value, str):
        indices = parse_indices(value)
    elif not isinstance(value, Iterable) or isinstance(value, (Mapping, bytes)):
        raise ValueError("must be ranges such as '0-3,7', or a list of indices")
    else:
        indices = tuple(_index(item) for item in value)
    if any(b <= a for a, b in itertools.pairwise(indices)):
        raise ValueError("indices must increase strictly (no duplicates)")
    if indices and indices[0] < 0:
        raise ValueError("indices must be >= 0")
    return indices


def _index(value: object) -> int:
    """Return a whole number as an int; refuse others, such as 0.9 and True."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]  # anything else raises
    except TypeError:
        raise ValueError("indices must be whole numbers") from None


def _block(value: object) -> int:
    """Return the number of a block from a key, which JSON writes as text."""
    if isinstance(value, str):
        if not re.fullmatch("0|[1-9][0-9]{0,8}", value, re.ASCII):
            raise ValueError("the key must be the number of a block")
        return int(value)
    return _index(value)


Indices = Annotated[tuple[int, ...], BeforeValidator(_indices), PlainSerializer(format_indices, return_type=str)]


Block = Annotated[int, BeforeValidator(_block)]
Kept = dict[Block, Indices]
